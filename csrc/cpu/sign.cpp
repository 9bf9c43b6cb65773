#include "sign.h"

#include <algorithm>
#include <cmath>

#include "../solver_limits.h"

namespace spectral {

float canonical_sign(const float* vector, const float* degrees, const int64_t* indices, int64_t size, double norm) {
  const double root = std::sqrt(static_cast<double>(size));
  double cubes = 0.0, mean = 0.0;
  for (int64_t i = 0; i < size; ++i) {
    const double v = vector[i];
    cubes += v * v * v;
    mean += static_cast<double>(degrees[i]);
  }
  mean /= static_cast<double>(size);
  double ruling = root * cubes;
  if (std::fabs(ruling) < kSide) {
    double spread = 0.0, along = 0.0;
    for (int64_t i = 0; i < size; ++i) {
      const double centred = static_cast<double>(degrees[i]) - mean;
      spread += centred * centred;
      along += static_cast<double>(vector[i]) * centred;
    }
    spread = std::sqrt(spread);
    // Degrees that differ by rounding alone decide nothing.
    const bool uneven = spread > kUneven * root * kUlp * std::max(norm, 1.0);
    ruling = uneven ? -along / spread : 0.0;
    if (std::fabs(ruling) < kSide) {
      int64_t first = -1;  // lowest dataset index among the rows that are on a side at all
      for (int64_t i = 0; i < size; ++i)
        if (root * std::fabs(static_cast<double>(vector[i])) >= kSide && (first < 0 || indices[i] < indices[first])) first = i;
      ruling = static_cast<double>(vector[first < 0 ? 0 : first]);
    }
  }
  return ruling < 0.0 ? -1.0f : 1.0f;
}

void start_vector(const int64_t* indices, int64_t size, int64_t salt, float* out) {
  const int64_t lowest = *std::min_element(indices, indices + size);
  for (int64_t i = 0; i < size; ++i) {
    auto word = static_cast<uint32_t>(static_cast<uint64_t>(indices[i]) - static_cast<uint64_t>(lowest) +
                                      static_cast<uint64_t>(1 + salt));
    word = (word ^ (word >> 16)) * 0x7FEB352Du;
    word = (word ^ (word >> 15)) * 0x846CA68Bu;
    word ^= word >> 16;
    out[i] = static_cast<float>(word >> 8) * 0x1p-23f - 1.0f;
  }
}

}  // namespace spectral
