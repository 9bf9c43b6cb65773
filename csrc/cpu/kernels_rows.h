// The matrix-free loops over rows of the store, four at a time so that a vector of y or of the sum is loaded once for four.
#pragma once
#include "kernels.h"
#include "vector.h"

namespace {

using spectral::kPassRows;
using spectral::Rows;

constexpr int kAbreast = 4;
constexpr int64_t kFirstLevel = 24 << 10;  // bytes of it that rows may take

template <class Format, int kCount>
SPECTRAL_INLINE void row_pointers(const Rows& rows, int64_t at, const typename Format::Element** pointers) {
  for (int r = 0; r < kCount; ++r) pointers[r] = reinterpret_cast<const typename Format::Element*>(rows.row(at + r));
}

// The rows two groups after those at `at`, to ask memory for: it has to be busy without a pause.
template <class Format, int kCount>
SPECTRAL_INLINE void pointers_ahead(const Rows& rows, int64_t at, int64_t last, const typename Format::Element** pointers) {
  row_pointers<Format, kCount>(rows, at + 3 * kCount <= last ? at + 2 * kCount : at, pointers);
}

// products[r] = x_r · y. Meanwhile the rows at `ahead` are asked for: they lie anywhere, and the processor cannot guess where.
template <class Format, int kCount>
SPECTRAL_INLINE void dot_rows(const typename Format::Element* const* x, const typename Format::Element* const* ahead,
                              int64_t width, const float* y, float* products) {
  constexpr int64_t kLine = 64 / sizeof(typename Format::Element);
  Vector total[kCount] = {}, other[kCount] = {};
  int64_t c = 0;
  for (; c + 2 * kLanes <= width; c += 2 * kLanes) {
    const Vector left = load(y + c), right = load(y + c + kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 2
      for (int64_t line = 0; line < 2 * kLanes; line += kLine) __builtin_prefetch(ahead[r] + c + line, 0, 2);
      total[r] += left * Format::read(x[r] + c);
      other[r] += right * Format::read(x[r] + c + kLanes);
    }
  }
  for (; c + kLanes <= width; c += kLanes)
    for (int r = 0; r < kCount; ++r) total[r] += load(y + c) * Format::read(x[r] + c);
  if (c < width)
    for (int r = 0; r < kCount; ++r) other[r] += load(y + c) * read_some<Format>(x[r] + c, width - c);
  for (int r = 0; r < kCount; ++r) products[r] = sum(total[r] + other[r]);
}

// z += Σ_r factor_r x_r; the rows at `ahead` are asked for unless that is null.
template <class Format, int kCount>
SPECTRAL_INLINE void add_rows(const typename Format::Element* const* x, const typename Format::Element* const* ahead,
                              int64_t width, const float* factors, float* z) {
  constexpr int64_t kLine = 64 / sizeof(typename Format::Element);
  Vector factor[kCount];
  for (int r = 0; r < kCount; ++r) factor[r] = splat(factors[r]);
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) {
    Vector total = load(z + c);
#pragma GCC unroll 4
    for (int r = 0; r < kCount; ++r) {
      if (ahead != nullptr && c % kLine == 0) __builtin_prefetch(ahead[r] + c, 0, 2);
      total += factor[r] * Format::read(x[r] + c);
    }
    store(z + c, total);
  }
  if (c == width) return;
  Vector total = load(z + c);
  for (int r = 0; r < kCount; ++r) total += factor[r] * read_some<Format>(x[r] + c, width - c);
  store(z + c, total);
}

// Both at once, for rows x_r and others before them: those come from memory while these are still in the first-level cache.
template <class Format>
SPECTRAL_INLINE void dot_and_add_rows(const typename Format::Element* const* x, const typename Format::Element* const* ahead,
                                      const typename Format::Element* const* before, int64_t width, const float* y,
                                      const float* factors, float* products, float* z) {
  constexpr int64_t kLine = 64 / sizeof(typename Format::Element);
  Vector total[kAbreast] = {}, factor[kAbreast];
  for (int r = 0; r < kAbreast; ++r) factor[r] = splat(factors[r]);
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) {
    const Vector left = load(y + c);
    Vector next = load(z + c);
#pragma GCC unroll 4
    for (int r = 0; r < kAbreast; ++r) {
      if (c % kLine == 0) __builtin_prefetch(ahead[r] + c, 0, 2);
      total[r] += left * Format::read(x[r] + c);
      next += factor[r] * Format::read(before[r] + c);
    }
    store(z + c, next);
  }
  if (c < width) {
    const Vector left = load(y + c);
    Vector next = load(z + c);
#pragma GCC unroll 4
    for (int r = 0; r < kAbreast; ++r) {
      total[r] += left * read_some<Format>(x[r] + c, width - c);
      next += factor[r] * read_some<Format>(before[r] + c, width - c);
    }
    store(z + c, next);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kAbreast; ++r) products[r] = sum(total[r]);
}

// Calls body<rows abreast>(first row) over [first, last).
template <class Body>
SPECTRAL_INLINE void each(int64_t first, int64_t last, const Body& body) {
  int64_t i = first;
  for (; i + kAbreast <= last; i += kAbreast) body.template run<kAbreast>(i);
  for (; i < last; ++i) body.template run<1>(i);
}

SPECTRAL_INLINE void flush(float* scratch, int64_t width, double* total) {
  for (int64_t c = 0; c < width; ++c) {
    total[c] += static_cast<double>(scratch[c]);
    scratch[c] = 0.0f;
  }
}

// Calls body(first, end) over kPassRows rows at a time, and takes the sums in scratch over into `total`.
template <class Body>
SPECTRAL_INLINE void each_flushed(int64_t first, int64_t last, int64_t width, float* scratch, double* total, const Body& body) {
  for (int64_t c = 0; c < spectral::padded(width); ++c) scratch[c] = 0.0f;
  for (int64_t i = first; i < last; i += kPassRows) {
    body(i, i + kPassRows < last ? i + kPassRows : last);
    flush(scratch, width, total);
  }
}

template <class Format>
struct Squares {
  const Rows& rows;
  int64_t first;
  float* sums;
  bool* negative;
  template <int kCount>
  SPECTRAL_INLINE_MEMBER void run(int64_t at) const {
    const typename Format::Element* x[kCount];
    row_pointers<Format, kCount>(rows, at, x);
    for (int r = 0; r < kCount; ++r) {
      Vector total = {};
      Mask below = {};
      int64_t c = 0;
      for (; c < rows.width; c += kLanes) {
        const int64_t left = rows.width - c;
        const Vector v = left >= kLanes ? Format::read(x[r] + c) : read_some<Format>(x[r] + c, left);
        total += v * v;
        below |= v < Vector{};
      }
      sums[at - first + r] = sum(total);
      for (int lane = 0; lane < kLanes; ++lane) *negative |= below[lane] != 0;
    }
  }
};

template <class Format>
struct Combine {
  const Rows& rows;
  int64_t last;
  const float* inverse;
  const float* weight;
  float* scratch;
  template <int kCount>
  SPECTRAL_INLINE_MEMBER void run(int64_t at) const {
    const typename Format::Element *x[kCount], *ahead[kCount];
    float factors[kCount];
    row_pointers<Format, kCount>(rows, at, x);
    pointers_ahead<Format, kCount>(rows, at, last, ahead);
    for (int r = 0; r < kCount; ++r) factors[r] = weight[at + r] * inverse[at + r];
    add_rows<Format, kCount>(x, ahead, rows.width, factors, scratch);
  }
};

template <class Format>
struct Dots {
  const Rows& rows;
  int64_t first, last;
  const float* inverse;
  const float* y;
  float* out;
  template <int kCount>
  SPECTRAL_INLINE_MEMBER void run(int64_t at) const {
    const typename Format::Element *x[kCount], *ahead[kCount];
    float products[kCount];
    row_pointers<Format, kCount>(rows, at, x);
    pointers_ahead<Format, kCount>(rows, at, last, ahead);
    dot_rows<Format, kCount>(x, ahead, rows.width, y, products);
    for (int r = 0; r < kCount; ++r) out[at - first + r] = inverse[at + r] * products[r];
  }
};

// Rows [first, end) of a block that ends at `last`. Where two groups of rows fit into the first-level cache, one is added while
// the next one is multiplied.
template <class Format>
struct Step {
  const Rows& rows;
  int64_t last;
  const float *inverse, *degrees, *q, *y;
  float shift;
  float *w, *scratch;
  SPECTRAL_INLINE_MEMBER float factor(int64_t i, float product) const {
    w[i] = degrees[i] * q[i] - inverse[i] * product;
    return inverse[i] * (w[i] - shift * q[i]);
  }
  template <bool kTogether>
  SPECTRAL_INLINE_MEMBER int64_t groups(int64_t first, int64_t end) const {
    const typename Format::Element *x[kAbreast], *ahead[kAbreast], *before[kAbreast];
    float products[kAbreast], factors[kAbreast] = {};
    int64_t at = first;
    for (; at + kAbreast <= end; at += kAbreast) {
      row_pointers<Format, kAbreast>(rows, at, x);
      pointers_ahead<Format, kAbreast>(rows, at, last, ahead);
      if (kTogether && at > first) dot_and_add_rows<Format>(x, ahead, before, rows.width, y, factors, products, scratch);
      else dot_rows<Format, kAbreast>(x, ahead, rows.width, y, products);
      for (int r = 0; r < kAbreast; ++r) {
        factors[r] = factor(at + r, products[r]);
        before[r] = x[r];
      }
      if (!kTogether) add_rows<Format, kAbreast>(x, nullptr, rows.width, factors, scratch);
    }
    if (kTogether && at > first) add_rows<Format, kAbreast>(before, nullptr, rows.width, factors, scratch);
    return at;
  }
  SPECTRAL_INLINE_MEMBER void run(int64_t first, int64_t end) const {
    const bool together = 2 * kAbreast * rows.width * static_cast<int64_t>(sizeof(typename Format::Element)) <= kFirstLevel;
    for (int64_t at = together ? groups<true>(first, end) : groups<false>(first, end); at < end; ++at) {
      const typename Format::Element* x[1];
      float product;
      row_pointers<Format, 1>(rows, at, x);
      dot_rows<Format, 1>(x, x, rows.width, y, &product);
      const float weight = factor(at, product);
      add_rows<Format, 1>(x, nullptr, rows.width, &weight, scratch);
    }
  }
};

void squares(const Rows& rows, int64_t first, int64_t last, float* sums, bool* negative) {
  with_format(rows.storage, [&](auto format) { each(first, last, Squares<decltype(format)>{rows, first, sums, negative}); });
}

void combine(const Rows& rows, int64_t first, int64_t last, const float* inverse, const float* weight, float* scratch,
             double* total) {
  with_format(rows.storage, [&](auto format) {
    const Combine<decltype(format)> body{rows, last, inverse, weight, scratch};
    each_flushed(first, last, rows.width, scratch, total, [&](int64_t begin, int64_t end) { each(begin, end, body); });
  });
}

void dots(const Rows& rows, int64_t first, int64_t last, const float* inverse, const float* y, float* out) {
  with_format(rows.storage, [&](auto format) {
    each(first, last, Dots<decltype(format)>{rows, first, last, inverse, y, out});
  });
}

void step(const Rows& rows, int64_t first, int64_t last, const float* inverse, const float* degrees, const float* q,
          const float* y, float shift, float* w, float* scratch, double* total) {
  with_format(rows.storage, [&](auto format) {
    const Step<decltype(format)> body{rows, last, inverse, degrees, q, y, shift, w, scratch};
    each_flushed(first, last, rows.width, scratch, total, [&](int64_t begin, int64_t end) { body.run(begin, end); });
  });
}

}  // namespace
