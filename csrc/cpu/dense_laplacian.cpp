// S = diag(1/|x|) X Xᵀ diag(1/|x|) by panels, and its degrees.
#include <algorithm>
#include <cmath>

#include "laplacian.h"

namespace spectral {
namespace {

// Columns of S are taken two panels at a time, the width of a register tile on the widest instruction set.
void multiply_columns(const Kernels& kernels, const float* slab, int64_t panel_floats, int64_t panels, int64_t columns,
                      int64_t pair, float* affinity, int64_t stride, bool add) {
  const int64_t first = 2 * pair, wide = std::min<int64_t>(2, panels - first);
  const float* right = slab + first * panel_floats;
  float* out = affinity + first * kPanel;
  // The block on the diagonal needs its own panel only; everything below needs both.
  kernels.gram(right, right, 1, panel_floats, columns, out + first * kPanel * stride, stride, add);
  for (int64_t row = first + 1; row < panels; ++row)
    kernels.gram(slab + row * panel_floats, right, wide, panel_floats, columns, out + row * kPanel * stride, stride, add);
}

}  // namespace

void DenseLaplacian::multiply(const Rows& rows, const Executor& executor) {
  const int64_t panels = stride / kPanel, pairs = (panels + 1) / 2;
  const int64_t most = std::min(padded(rows.width), kSlabColumns), panel_floats = most * kPanel;
  float* slab = slab_.reserve(panels * panel_floats);
  float* affinity = affinity_.reserve(stride * stride);
  for (int64_t column = 0; column < rows.width; column += most) {
    const int64_t columns = std::min(most, padded(rows.width - column));
    executor.run(panels, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p)
        kernels_->pack(rows, p * kPanel, std::min(kPanel, size - p * kPanel), column, columns, slab + p * panel_floats);
    });
    executor.run((pairs + 1) / 2, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {  // a long and a short column of the triangle together: equal work
        multiply_columns(*kernels_, slab, panel_floats, panels, columns, i, affinity, stride, column > 0);
        if (pairs - 1 - i != i)
          multiply_columns(*kernels_, slab, panel_floats, panels, columns, pairs - 1 - i, affinity, stride, column > 0);
      }
    });
  }
}

void DenseLaplacian::finish() {
  const int64_t panels = stride / kPanel;
  float* affinity = affinity_.data();
  const float* inverse = inverse_.data();
  for (int64_t i = 0; i < panels; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      float* mirror = i == j ? nullptr : affinity + (j * stride + i) * kPanel;
      kernels_->finish(affinity + (i * stride + j) * kPanel, stride, inverse + i * kPanel, inverse + j * kPanel, mirror);
    }
  float* sums = degrees_.reserve(stride);
  double largest = 0.0;
  for (int64_t i = 0; i < stride; ++i) {
    float absolute = 0.0f;
    affinity[i * (stride + 1)] = 0.0f;
    kernels_->row_sums(affinity + i * stride, stride, sums + i, &absolute);
    largest = std::max(largest, std::fabs(static_cast<double>(sums[i])) + static_cast<double>(absolute));
  }
  degrees = sums;
  norm = largest > 0.0 ? largest : 1.0;
}

Rescue DenseLaplacian::build(const Rows& rows, int64_t count, const Kernels& kernels, const Executor& executor) {
  kernels_ = &kernels;
  size = count;
  stride = padded(count);
  multiply(rows, executor);
  float* inverse = inverse_.reserve(stride);
  for (int64_t i = 0; i < stride; ++i) {
    const float squares = affinity_.data()[i * (stride + 1)];
    if (!in_range(squares)) return Rescue::rescale;
    inverse[i] = i < size ? static_cast<float>(1.0 / std::sqrt(static_cast<double>(squares))) : 0.0f;
  }
  finish();
  return Rescue::none;
}

bool rescaled(const Rows& rows, int64_t count, float* copy) {
  std::vector<double> row(static_cast<std::size_t>(rows.width));
  for (int64_t i = 0; i < count; ++i) {
    double largest = 0.0;
    for (int64_t c = 0; c < rows.width; ++c) {
      if (rows.storage == Storage::float32) {
        row[c] = static_cast<double>(reinterpret_cast<const float*>(rows.row(i))[c]);
      } else {
        const uint16_t half = reinterpret_cast<const uint16_t*>(rows.row(i))[c];
        const int exponent = half >> 10 & 31, fraction = half & 1023;
        const double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                                 : exponent == 0 ? std::ldexp(fraction, -24)
                                                 : std::ldexp(1024 + fraction, exponent - 25);
        row[c] = half & 0x8000 ? -magnitude : magnitude;
      }
      if (!std::isfinite(row[c])) return false;
      largest = std::max(largest, std::fabs(row[c]));
    }
    if (largest == 0.0) return false;
    int exponent = 0;
    std::frexp(largest, &exponent);
    for (int64_t c = 0; c < rows.width; ++c) copy[i * rows.width + c] = static_cast<float>(std::ldexp(row[c], -exponent));
  }
  return true;
}

}  // namespace spectral
