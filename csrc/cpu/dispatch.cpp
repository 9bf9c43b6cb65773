#include <cstdlib>
#include <string_view>

#include "kernels.h"

namespace spectral {
namespace {

const Kernels& choose() {
#if defined(__x86_64__)
  const char* asked = std::getenv("SPECTRAL_SAMPLER_CPU");
  const std::string_view limit = asked == nullptr ? "" : asked;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (limit == "baseline") return baseline_kernels;
  if (avx512 && limit != "avx2") return avx512_kernels;
  if (avx2) return avx2_kernels;
#endif
  return baseline_kernels;
}

}  // namespace

const Kernels& select_kernels() {
  static const Kernels& chosen = choose();  // read once: a process keeps its bits
  return chosen;
}

}  // namespace spectral
