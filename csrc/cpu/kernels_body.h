// The loops of kernels.h for the vector width of the including file, which defines SPECTRAL_TABLE (the table's name).
#include "kernels.h"
#include "vector.h"

namespace {

using spectral::kPanel;
using spectral::Rows;

constexpr int kRegisters = kLanes == 16 ? 8 : 4;  // rows of a register tile that is two vectors wide
constexpr int kStrip = 8;                         // vectors held in registers by the passes over a basis or over S

// --- Gram ------------------------------------------------------------------------------------------------------------------

template <class Format>
void pack_as(const Rows& rows, int64_t first, int64_t count, int64_t column, int64_t columns, float* panel) {
  typedef typename Format::Element Element;
  for (int64_t half = 0; half < kPanel; half += kLanes) {
    const Element* source[kLanes];
    for (int i = 0; i < kLanes; ++i)
      source[i] = reinterpret_cast<const Element*>(rows.row(first + (half + i < count ? half + i : 0)));
    for (int64_t c = 0; c < columns; c += kLanes) {
      Vector block[kLanes];
      const int64_t left = rows.width - (column + c);
      if (left >= kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) block[i] = Format::read(source[i] + column + c);
      } else {
        for (int i = 0; i < kLanes; ++i) block[i] = read_some<Format>(source[i] + column + c, left);
      }
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(panel + (c + i) * kPanel + half, block[i]);
    }
  }
}

void pack(const Rows& rows, int64_t first, int64_t count, int64_t column, int64_t columns, float* panel) {
  with_format(rows.storage, [&](auto format) { pack_as<decltype(format)>(rows, first, count, column, columns, panel); });
}

// A register tile of kRows rows and kVectors vectors; sources[v] is where the v-th vector of columns begins.
template <int kRows, int kVectors>
SPECTRAL_INLINE void tile(const float* a, const float* const* sources, int64_t columns, float* c, int64_t stride, bool add) {
  Vector total[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) total[r][v] = Vector{};
  for (int64_t k = 0; k < columns; ++k) {
    Vector b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) b[v] = load(sources[v] + k * kPanel);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vector x = splat(a[k * kPanel + r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) total[r][v] += x * b[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* out = c + r * stride + v * kLanes;
      store(out, add ? load(out) + total[r][v] : total[r][v]);  // sums of slabs, not one long sum: less rounding
    }
}

void gram(const float* a, const float* b, int64_t blocks, int64_t block_stride, int64_t columns, float* c, int64_t stride,
          bool add) {
  const int64_t vectors = blocks * kPanel / kLanes;
  for (int64_t v = 0; v < vectors; v += 2) {
    const float* sources[2];
    for (int i = 0; i < 2; ++i) sources[i] = b + (v + i) * kLanes / kPanel * block_stride + (v + i) * kLanes % kPanel;
    if (v + 1 < vectors) {
      for (int64_t r = 0; r < kPanel; r += kRegisters)
        tile<kRegisters, 2>(a + r, sources, columns, c + r * stride + v * kLanes, stride, add);
    } else {  // as many multiplications for each load of b
      for (int64_t r = 0; r < kPanel; r += 2 * kRegisters)
        tile<2 * kRegisters, 1>(a + r, sources, columns, c + r * stride + v * kLanes, stride, add);
    }
  }
}

void finish(float* block, int64_t stride, const float* left, const float* right, float* mirror) {
  for (int64_t i = 0; i < kPanel; i += kLanes)
    for (int64_t j = 0; j < kPanel; j += kLanes) {
      Vector square[kLanes];
      const Vector columns = load(right + j);
      for (int r = 0; r < kLanes; ++r) {
        float* row = block + (i + r) * stride + j;
        square[r] = load(row) * (splat(left[i + r]) * columns);  // in this order, S is symmetric to the last bit
        store(row, square[r]);
      }
      if (mirror == nullptr) continue;
      transpose(square);
      for (int r = 0; r < kLanes; ++r) store(mirror + (j + r) * stride + i, square[r]);
    }
}

void row_sums(const float* row, int64_t length, float* plain, float* absolutes) {
  Vector total = {}, magnitude = {};
  for (int64_t i = 0; i < length; i += kLanes) {
    const Vector x = load(row + i);
    total += x;
    magnitude += absolute(x);
  }
  *plain = sum(total);
  *absolutes = sum(magnitude);
}

// --- Lanczos ---------------------------------------------------------------------------------------------------------------

// Calls body<number of vectors>(offset) over a padded length: long strips first, then halves of them.
template <template <int> class Body, class... Arguments>
SPECTRAL_INLINE void strips(int64_t length, const Arguments&... arguments) {
  int64_t at = 0;
  for (; at + kStrip * kLanes <= length; at += kStrip * kLanes) Body<kStrip>::run(at, arguments...);
  for (; at + 4 * kLanes <= length; at += 4 * kLanes) Body<4>::run(at, arguments...);
  for (; at + 2 * kLanes <= length; at += 2 * kLanes) Body<2>::run(at, arguments...);
  for (; at < length; at += kLanes) Body<1>::run(at, arguments...);
}

// S is symmetric, so a strip of S q is the sum of q_j times the same strip of row j: no horizontal sums.
template <int kVectors>
struct ApplyStrip {
  static void run(int64_t at, const float* affinity, int64_t stride, int64_t count, const float* degrees, const float* q,
                  float* w) {
    Vector even[kVectors] = {}, odd[kVectors] = {};
    int64_t j = 0;
    for (; j + 1 < count; j += 2) {
      const Vector x = splat(q[j]), y = splat(q[j + 1]);
      const float* row = affinity + j * stride + at;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) even[v] += x * load(row + v * kLanes);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) odd[v] += y * load(row + stride + v * kLanes);
    }
    if (j < count)
      for (int v = 0; v < kVectors; ++v) even[v] += splat(q[j]) * load(affinity + j * stride + at + v * kLanes);
    for (int v = 0; v < kVectors; ++v) {
      const int64_t i = at + v * kLanes;
      store(w + i, load(degrees + i) * load(q + i) - (even[v] + odd[v]));
    }
  }
};

void apply(const float* affinity, int64_t stride, int64_t count, const float* degrees, const float* q, float* w) {
  strips<ApplyStrip>(stride, affinity, stride, count, degrees, q, w);
}

template <int kCount>
SPECTRAL_INLINE void project_some(const float* basis, int64_t stride, const float* w, int64_t length, double* h) {
  Vector total[kCount] = {};
  for (int64_t i = 0; i < length; i += kLanes) {
    const Vector x = load(w + i);
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) total[j] += x * load(basis + j * stride + i);
  }
  for (int j = 0; j < kCount; ++j) h[j] += static_cast<double>(sum(total[j]));
}

void project(const float* basis, int64_t stride, int64_t count, const float* w, int64_t length, double* h) {
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) project_some<4>(basis + j * stride, stride, w, length, h + j);
  for (; j < count; ++j) project_some<1>(basis + j * stride, stride, w, length, h + j);
}

template <int kVectors>
struct SubtractStrip {
  static void run(int64_t at, const float* basis, int64_t stride, int64_t count, const float* h, float* w) {
    Vector rest[kVectors];
    for (int v = 0; v < kVectors; ++v) rest[v] = load(w + at + v * kLanes);
    for (int64_t j = 0; j < count; ++j) {
      const Vector x = splat(h[j]);
      const float* row = basis + j * stride + at;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) rest[v] -= x * load(row + v * kLanes);
    }
    for (int v = 0; v < kVectors; ++v) store(w + at + v * kLanes, rest[v]);
  }
};

void subtract(const float* basis, int64_t stride, int64_t count, const float* h, float* w, int64_t length) {
  strips<SubtractStrip>(length, basis, stride, count, h, w);
}

double sum_squares(const float* w, int64_t length) {
  Vector total = {};
  for (int64_t i = 0; i < length; i += kLanes) {
    const Vector x = load(w + i);
    total += x * x;
  }
  return static_cast<double>(sum(total));
}

void scale(const float* w, float factor, int64_t length, float* out) {
  for (int64_t i = 0; i < length; i += kLanes) store(out + i, load(w + i) * splat(factor));
}

}  // namespace

#include "kernels_exact.h"

namespace spectral {
extern const Kernels SPECTRAL_TABLE;
const Kernels SPECTRAL_TABLE = {SPECTRAL_NAME, pack,  gram,    finish,  row_sums, apply, project,    subtract,
                                sum_squares,   scale, squares, combine, dots,     step,  exact_sums, exact_products};
}  // namespace spectral
