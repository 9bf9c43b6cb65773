// S = diag(1/|x|) X Xᵀ diag(1/|x|) by panels, and its degrees.
#include <algorithm>
#include <cmath>

#include "halves.h"
#include "laplacian.h"

namespace spectral {
namespace {

// The rows of a batch lie scattered in the store, too far apart for the processor to guess. While one slab is multiplied the
// next one (of the next member after the last) is asked for, a few cache lines before every block.
class Prefetch {
 public:
  Prefetch(const Rows* rows, int64_t count, int64_t column, int64_t columns, int64_t calls) : rows_(rows), column_(column) {
    if (rows == nullptr) return;
    const int64_t element = element_bytes(rows->storage);
    bytes_ = std::min(columns, rows->width - column) * element;
    column_ = column * element;
    lines_ = (bytes_ + kLine - 1) / kLine;
    share_ = (count * lines_ + calls - 1) / calls;
    total_ = count * lines_;
  }
  void issue(int64_t call) const {
    for (int64_t i = call * share_, end = std::min(total_, i + share_); i < end; ++i)
      __builtin_prefetch(rows_->row(i / lines_) + column_ + i % lines_ * kLine, 0, 2);
  }

 private:
  static constexpr int64_t kLine = 64;
  const Rows* rows_;
  int64_t column_, bytes_ = 0, lines_ = 1, share_ = 0, total_ = 0;
};

struct Slab {
  const Kernels& kernels;
  const float* data;
  int64_t panel_floats, panels, columns;
  bool add;

  // Columns of S are taken two panels at a time, the width of a register tile on the widest instruction set.
  void multiply(int64_t pair, float* affinity, int64_t stride, const Prefetch& ahead, int64_t& call) const {
    const int64_t first = 2 * pair, wide = std::min<int64_t>(2, panels - first);
    const float* right = data + first * panel_floats;
    float* out = affinity + first * kPanel;
    // The block on the diagonal needs its own panel only; everything below needs both.
    for (int64_t row = first; row < panels; ++row) {
      ahead.issue(call++);
      kernels.gram(data + row * panel_floats, right, row == first ? 1 : wide, panel_floats, columns, out + row * kPanel * stride,
                   stride, add);
    }
  }
};

}  // namespace

void DenseLaplacian::multiply(const Rows& rows, const Executor& executor, const Rows* next) {
  const int64_t panels = stride / kPanel, pairs = (panels + 1) / 2;
  const int64_t most = std::min(padded(rows.width), kSlabColumns), panel_floats = most * kPanel;
  float* data = slab_.reserve(panels * panel_floats);
  float* affinity = affinity_.reserve(stride * stride);
  for (int64_t column = 0; column < rows.width; column += most) {
    const int64_t columns = std::min(most, padded(rows.width - column)), after = column + most;
    executor.run(panels, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p)
        kernels_->pack(rows, p * kPanel, std::min(kPanel, size - p * kPanel), column, columns, data + p * panel_floats);
    });
    const Slab slab = {*kernels_, data, panel_floats, panels, columns, column > 0};
    const int64_t couples = (pairs + 1) / 2, each = 2 * (panels - pairs) + 2;  // blocks in two columns of the triangle
    const Prefetch ahead(after < rows.width ? &rows : next, size, after < rows.width ? after : 0, most, couples * each);
    executor.run(couples, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {  // a long and a short column of the triangle together: equal work
        int64_t call = i * each;
        slab.multiply(i, affinity, stride, ahead, call);
        if (pairs - 1 - i != i) slab.multiply(pairs - 1 - i, affinity, stride, ahead, call);
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

Rescue DenseLaplacian::build(const Rows& rows, int64_t count, const Kernels& kernels, const Executor& executor,
                             const Rows* next) {
  kernels_ = &kernels;
  size = count;
  stride = padded(count);
  multiply(rows, executor, next);
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
  const auto entry = [&](const char* row, int64_t column) {
    if (rows.storage == Storage::float32) return reinterpret_cast<const float*>(row)[column];
    const uint16_t bits = reinterpret_cast<const uint16_t*>(row)[column];
    return rows.storage == Storage::float16 ? half_to_float(bits) : bfloat_to_float(bits);
  };
  for (int64_t i = 0; i < count; ++i) {
    const char* row = rows.row(i);
    float largest = 0.0f;
    for (int64_t c = 0; c < rows.width; ++c) {
      const float x = entry(row, c);
      if (!std::isfinite(x)) return false;
      largest = std::max(largest, std::fabs(x));
    }
    if (largest == 0.0f) return false;
    int exponent = 0;
    std::frexp(largest, &exponent);
    for (int64_t c = 0; c < rows.width; ++c) copy[i * rows.width + c] = std::ldexp(entry(row, c), -exponent);
  }
  return true;
}

}  // namespace spectral
