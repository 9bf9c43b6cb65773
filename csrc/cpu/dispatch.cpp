#include <cstdlib>
#include <stdexcept>
#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels.h"

namespace spectral {
namespace {

// The instruction set not to go beyond, or nothing.
std::string limit() {
  const char* asked = std::getenv("SPECTRAL_SAMPLER_CPU");
  const std::string name = asked == nullptr ? "" : asked;
  for (const char* known : {"", "baseline", "avx2", "avx512"})
    if (name == known) return name;
  throw std::invalid_argument("SPECTRAL_SAMPLER_CPU must be baseline, avx2 or avx512, got " + name +
                              ". Unset it to use the best that this processor has.");
}

#if defined(__x86_64__)
// Clang knows no name of this feature before 19. That the system saves the registers, "avx2" has asked.
bool converts_halves() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

const Kernels& choose() {
  const std::string most = limit();
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && converts_halves();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (most == "baseline") return baseline_kernels;
  if (avx512 && most != "avx2") return avx512_kernels;
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
