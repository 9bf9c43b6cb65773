// A float vector of the width the including file is compiled for, on the vector extensions of GCC and Clang.
//
// Included by one source file per instruction set. No function of the standard library may be instantiated there: a template
// compiled with AVX-512 could be the copy the linker keeps for everybody. Hence the anonymous namespace and plain loops.
#pragma once
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "halves.h"
#include "kernels.h"

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;  // SSE2, NEON
#endif

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef float Unaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(kLanes * 4)));

#define SPECTRAL_INLINE_MEMBER inline __attribute__((always_inline))

SPECTRAL_INLINE Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
SPECTRAL_INLINE void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
SPECTRAL_INLINE Vector splat(float x) { return Vector{} + x; }

SPECTRAL_INLINE Vector absolute(Vector v) {
  return reinterpret_cast<Vector>(reinterpret_cast<Mask>(v) & (Mask{} + 0x7fffffff));
}

typedef float Quad __attribute__((vector_size(16)));

// Halves are added until four lanes are left: the order is fixed and short.
SPECTRAL_INLINE float sum(Vector v) {
  Quad quads[kLanes / 4];
  __builtin_memcpy(quads, &v, sizeof v);
  if constexpr (kLanes == 16) quads[0] = (quads[0] + quads[2 % (kLanes / 4)]) + (quads[1 % (kLanes / 4)] + quads[3 % (kLanes / 4)]);
  if constexpr (kLanes == 8) quads[0] = quads[0] + quads[1 % (kLanes / 4)];
  return (quads[0][0] + quads[0][2]) + (quads[0][1] + quads[0][3]);
}

// Features as they are stored: how to read kLanes of them, or the last few of a row.
struct Float32 {
  typedef float Element;
  SPECTRAL_INLINE Vector read(const float* p) { return load(p); }
};

struct Float16 {
  typedef uint16_t Element;
  SPECTRAL_INLINE Vector read(const uint16_t* p) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vector>(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
    return reinterpret_cast<Vector>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    float lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) lanes[i] = half_to_float(p[i]);
    return load(lanes);
#endif
  }
};

struct BFloat16 {
  typedef uint16_t Element;
  typedef uint16_t Uppers __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));
  typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
  SPECTRAL_INLINE Vector read(const uint16_t* p) {
#if defined(__AVX512F__)  // GCC makes three instructions and more of a conversion that is one
    const __m512i bits = _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    const Bits bits = __builtin_convertvector(*reinterpret_cast<const Uppers*>(p), Bits);
#endif
    return reinterpret_cast<Vector>(reinterpret_cast<Bits>(bits) << 16);
  }
};

// Calls body(format) with the one that the store is in.
template <class Body>
SPECTRAL_INLINE void with_format(spectral::Storage storage, const Body& body) {
  switch (storage) {
    case spectral::Storage::float32: return body(Float32{});
    case spectral::Storage::float16: return body(Float16{});
    case spectral::Storage::bfloat16: return body(BFloat16{});
  }
}

template <class Format>
SPECTRAL_INLINE Vector read_some(const typename Format::Element* p, int64_t count) {
  typename Format::Element lanes[kLanes] = {};
  for (int64_t i = 0; i < count && i < kLanes; ++i) lanes[i] = p[i];
  return Format::read(lanes);
}

// Butterfly step of the transpose: exchanges the off-diagonal squares of side kSide in the pair (a, b).
template <int kSide>
SPECTRAL_INLINE void exchange(Vector& a, Vector& b) {
  Mask upper, lower;
  for (int lane = 0; lane < kLanes; ++lane) {
    upper[lane] = lane & kSide ? kLanes + lane - kSide : lane;
    lower[lane] = lane & kSide ? kLanes + lane : lane + kSide;
  }
#if defined(__clang__)
  Vector first = {}, second = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    first[lane] = upper[lane] < kLanes ? a[upper[lane]] : b[upper[lane] - kLanes];
    second[lane] = lower[lane] < kLanes ? a[lower[lane]] : b[lower[lane] - kLanes];
  }
#else
  const Vector first = __builtin_shuffle(a, b, upper), second = __builtin_shuffle(a, b, lower);
#endif
  a = first;
  b = second;
}

template <int kSide>
SPECTRAL_INLINE void exchange_all(Vector* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i)
    if (!(i & kSide)) exchange<kSide>(rows[i], rows[i + kSide]);
}

// rows[i][j] becomes rows[j][i].
SPECTRAL_INLINE void transpose(Vector* rows) {
  exchange_all<1>(rows);
  exchange_all<2>(rows);
  if constexpr (kLanes > 4) exchange_all<(kLanes > 4 ? 4 : 1)>(rows);
  if constexpr (kLanes > 8) exchange_all<(kLanes > 8 ? 8 : 1)>(rows);
}

}  // namespace
