// Numbers of 16 bits as float, exactly: subnormals, infinities and NaN too.
//
// Included by files with an instruction set of their own: hence the anonymous namespace, see vector.h.
#pragma once
#include <cstdint>

#define SPECTRAL_INLINE static inline __attribute__((always_inline))

namespace {

SPECTRAL_INLINE float float_of_bits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

SPECTRAL_INLINE float half_to_float(uint16_t half) {
  // The exponent is moved by a product with 2^112, which is exact for subnormals too; infinities and NaN need theirs filled.
  const float magnitude = float_of_bits((half & 0x7fffu) << 13) * 0x1p112f;
  uint32_t bits;
  __builtin_memcpy(&bits, &magnitude, 4);
  if ((half & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
  return float_of_bits(bits | (half & 0x8000u) << 16);
}

// The upper half of a float.
SPECTRAL_INLINE float bfloat_to_float(uint16_t upper) { return float_of_bits(static_cast<uint32_t>(upper) << 16); }

}  // namespace
