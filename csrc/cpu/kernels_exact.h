// Products with the rows in double, for the residual of a vector that float has found: four rows at a time, so that the sums
// Uᵀv and Uᵀ1 are loaded once for four.
#pragma once
#include "kernels_rows.h"

namespace {

constexpr int kHalf = kLanes / 2;
typedef double Wide __attribute__((vector_size(kHalf * 8)));
typedef double UnalignedWide __attribute__((vector_size(kHalf * 8), aligned(8), may_alias));
typedef float Narrow __attribute__((vector_size(kHalf * 4), aligned(4), may_alias));

SPECTRAL_INLINE Wide widen(const float* p) { return __builtin_convertvector(*reinterpret_cast<const Narrow*>(p), Wide); }
SPECTRAL_INLINE Wide load_wide(const double* p) { return *reinterpret_cast<const UnalignedWide*>(p); }
SPECTRAL_INLINE void store_wide(double* p, Wide v) { *reinterpret_cast<UnalignedWide*>(p) = v; }

SPECTRAL_INLINE double sum_wide(Wide v) {
  double total = 0.0;
  for (int lane = 0; lane < kHalf; ++lane) total += v[lane];
  return total;
}

// The rows from number `at` on as floats, each with zeros up to the padded width; the rows after them, which lie anywhere, are
// asked for meanwhile.
template <class Format, int kCount>
SPECTRAL_INLINE void unpack(const Rows& rows, int64_t at, int64_t last, float* to) {
  constexpr int64_t kLine = 64 / sizeof(typename Format::Element);
  const int64_t width = rows.width, room = spectral::padded(width);
  const typename Format::Element *x[kCount], *ahead[kCount];
  row_pointers<Format, kCount>(rows, at, x);
  row_pointers<Format, kCount>(rows, at + 2 * kCount <= last ? at + kCount : at, ahead);
  for (int r = 0; r < kCount; ++r) {
    float* row = to + r * room;
    for (int64_t c = 0; c < width; c += kLine) __builtin_prefetch(ahead[r] + c, 0, 2);
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) store(row + c, Format::read(x[r] + c));
    for (; c < room; c += kLanes) store(row + c, c < width ? read_some<Format>(x[r] + c, width - c) : Vector{});
  }
}

// inverse_i = 1 / |x_i|; total (2 · padded width) += Σ_i inverse_i x_i (v_i, 1).
template <class Format>
struct ExactSums {
  const Rows& rows;
  int64_t last;
  const float* v;
  double* inverse;
  float* scratch;
  double* total;
  template <int kCount>
  SPECTRAL_INLINE_MEMBER void run(int64_t at) const {
    const int64_t room = spectral::padded(rows.width);
    unpack<Format, kCount>(rows, at, last, scratch);
    Wide one[kCount], weighted[kCount];
    for (int r = 0; r < kCount; ++r) {
      const float* row = scratch + r * room;
      Wide squares = {}, other = {};
      for (int64_t c = 0; c < room; c += kLanes) {
        const Wide low = widen(row + c), high = widen(row + c + kHalf);
        squares += low * low;
        other += high * high;
      }
      inverse[at + r] = 1.0 / __builtin_sqrt(sum_wide(squares + other));
      one[r] = Wide{} + inverse[at + r];
      weighted[r] = one[r] * static_cast<double>(v[at + r]);
    }
    for (int64_t c = 0; c < room; c += kHalf) {
      Wide with_v = load_wide(total + c), plain = load_wide(total + room + c);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        const Wide entry = widen(scratch + r * room + c);
        with_v += entry * weighted[r];
        plain += entry * one[r];
      }
      store_wide(total + c, with_v);
      store_wide(total + room + c, plain);
    }
  }
};

// out_i = (u_i·Σ_j u_j − θ) v_i − u_i·Σ_j u_j v_j, which is (L v − θ v)_i: the diagonal of S cancels.
template <class Format>
struct ExactProducts {
  const Rows& rows;
  int64_t last;
  const float* v;
  double theta;
  const double *inverse, *total;
  float *scratch, *out;
  template <int kCount>
  SPECTRAL_INLINE_MEMBER void run(int64_t at) const {
    const int64_t room = spectral::padded(rows.width);
    unpack<Format, kCount>(rows, at, last, scratch);
    Wide with_v[kCount] = {}, plain[kCount] = {};
    for (int64_t c = 0; c < room; c += kHalf) {
      const Wide left = load_wide(total + c), right = load_wide(total + room + c);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        const Wide entry = widen(scratch + r * room + c);
        with_v[r] += entry * left;
        plain[r] += entry * right;
      }
    }
    for (int r = 0; r < kCount; ++r) {
      const double factor = inverse[at + r], entry = v[at + r];
      out[at + r] = static_cast<float>((factor * sum_wide(plain[r]) - theta) * entry - factor * sum_wide(with_v[r]));
    }
  }
};

void exact_sums(const Rows& rows, int64_t first, int64_t last, const float* v, double* inverse, float* scratch, double* total) {
  with_format(rows.storage, [&](auto format) {
    each(first, last, ExactSums<decltype(format)>{rows, last, v, inverse, scratch, total});
  });
}

void exact_products(const Rows& rows, int64_t first, int64_t last, const float* v, double theta, const double* inverse,
                    const double* total, float* scratch, float* out) {
  with_format(rows.storage, [&](auto format) {
    each(first, last, ExactProducts<decltype(format)>{rows, last, v, theta, inverse, total, scratch, out});
  });
}

}  // namespace
