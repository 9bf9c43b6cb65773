// The matrix-free step: one pass over the rows instead of two.
//
// With y = Uᵀq known, row i gives w_i = d_i q_i − u_i·y and at once adds (w_i − σ q_i) u_i to z, so that z = Uᵀ(w − σq) is ready
// when the pass ends. The next Lanczos vector is q' = (w − Σ h_j q_j) / β, hence by linearity
//     y' = (z − (α − σ) y − Σ_{j≠b} h_j y_j) / β.
// Without the shift σ the error of y would grow by |α|/β a step, and α/β can be 10; with σ close to α it does not. What grows
// is bounded in `continued`, and y is computed afresh when the bound matters, or after `refresh_every` steps.
#include <algorithm>
#include <cmath>

#include "../solver_limits.h"
#include "laplacian.h"

namespace spectral {
namespace {

constexpr int64_t kBlocks = 64;  // pieces of the sum over rows: fixed, so that the bits do not depend on the threads
constexpr int64_t kLeastRows = 256;
constexpr double kAllowed = 16.0;  // error of y, in ulps of ‖U‖: far above one step, below what the residual shows

}  // namespace

void FactoredLaplacian::sum_passes(const Pass& pass, double* total) {
  double* partial = partial_.reserve(blocks_ * width_);
  const int64_t room = padded(width_);  // kernels write whole vectors
  float* scratch = scratch_.reserve(blocks_ * room);
  executor_->run(blocks_, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      std::fill_n(partial + b * width_, width_, 0.0);
      pass(b * block_rows_, std::min(size, (b + 1) * block_rows_), scratch + b * room, partial + b * width_);
    }
  });
  std::fill_n(total, width_, 0.0);
  for (int64_t b = 0; b < blocks_; ++b)
    for (int64_t c = 0; c < width_; ++c) total[c] += partial[b * width_ + c];
}

void FactoredLaplacian::refresh(int64_t b, const float* q) {
  sum_passes([&](int64_t first, int64_t last, float* scratch,
                 double* total) { kernels_->combine(rows_, first, last, inverse_.data(), q, scratch, total); },
             companions_.data() + b * width_);
  error_[b] = kUlp * std::sqrt(norm);
  since_refresh_ = 0;
  ++refreshes;
}

void FactoredLaplacian::apply(int64_t b, const float* q, float* w) {
  const bool stale = error_[b] < 0.0 || error_[b] > kAllowed * kUlp * std::sqrt(norm) || since_refresh_ >= refresh_every;
  if (stale) refresh(b, q);
  ++since_refresh_;
  float* y = y_.data();
  const double* companion = companions_.data() + b * width_;
  for (int64_t c = 0; c < width_; ++c) y[c] = static_cast<float>(companion[c]);
  const float shift = static_cast<float>(shift_);
  sum_passes(
      [&](int64_t first, int64_t last, float* scratch, double* total) {
        kernels_->step(rows_, first, last, inverse_.data(), row_sums_.data(), q, y, shift, w, scratch, total);
      },
      image_.data());
  std::fill(w + size, w + stride, 0.0f);
  residue_ = static_cast<double>(shift);
}

void FactoredLaplacian::continued(int64_t b, const double* h, double beta) {
  double* next = companions_.data() + b * width_;
  std::copy_n(image_.data(), width_, next);
  double error = 0.0, squares = beta * beta;
  for (int64_t j = 0; j < b; ++j) {
    const double part = j == b - 1 ? h[j] - residue_ : h[j];
    const double* companion = companions_.data() + j * width_;
    for (int64_t c = 0; c < width_; ++c) next[c] -= part * companion[c];
    error += std::fabs(part) * std::max(error_[j], 0.0);
    squares += part * part;
  }
  for (int64_t c = 0; c < width_; ++c) next[c] /= beta;
  error_[b] = (error + kUlp * std::sqrt(norm * squares)) / beta;
  shift_ = h[b - 1];
}

void FactoredLaplacian::mixed(int64_t first, int64_t before, int64_t after, const double* mix) {
  std::vector<double> rows(static_cast<std::size_t>(after * width_), 0.0);
  double worst = 0.0;
  for (int64_t j = 0; j < before; ++j) {
    const double* companion = companions_.data() + (first + j) * width_;
    worst = std::max(worst, error_[first + j]);
    for (int64_t i = 0; i < after; ++i)
      for (int64_t c = 0; c < width_; ++c) rows[i * width_ + c] += mix[j * after + i] * companion[c];
  }
  std::copy(rows.begin(), rows.end(), companions_.data() + first * width_);
  for (int64_t i = 0; i < after; ++i) error_[first + i] = worst;
}

double FactoredLaplacian::absolute_sum(int64_t row) {
  std::vector<double> unit(static_cast<std::size_t>(width_), 0.0);
  const std::vector<float> ones(static_cast<std::size_t>(size), 1.0f);
  kernels_->combine(rows_, row, row + 1, inverse_.data(), ones.data(), scratch_.reserve(padded(width_)), unit.data());
  float* y = y_.data();
  for (int64_t c = 0; c < width_; ++c) y[c] = static_cast<float>(unit[c]);
  std::vector<double> sums(static_cast<std::size_t>(blocks_), 0.0);
  executor_->run(blocks_, [&](int64_t first, int64_t last) {
    std::vector<float> cosines(static_cast<std::size_t>(block_rows_));
    for (int64_t b = first; b < last; ++b) {
      const int64_t begin = b * block_rows_, end = std::min(size, begin + block_rows_);
      kernels_->dots(rows_, begin, end, inverse_.data(), y, cosines.data());
      for (int64_t i = begin; i < end; ++i) sums[b] += i == row ? 0.0 : std::fabs(static_cast<double>(cosines[i - begin]));
    }
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

void FactoredLaplacian::measure_degrees() {
  double* total = image_.data();
  {
    const std::vector<float> ones(static_cast<std::size_t>(size), 1.0f);
    sum_passes([&](int64_t first, int64_t last, float* scratch,
                   double* sum) { kernels_->combine(rows_, first, last, inverse_.data(), ones.data(), scratch, sum); },
               total);
  }
  const double length = std::sqrt(static_cast<double>(size));
  for (int64_t c = 0; c < width_; ++c) companions_.data()[c] = total[c] / length;
  float *y = y_.data(), *row_sums = row_sums_.reserve(stride), *others = degrees_.reserve(stride);
  for (int64_t c = 0; c < width_; ++c) y[c] = static_cast<float>(total[c]);
  executor_->run(blocks_, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b)
      kernels_->dots(rows_, b * block_rows_, std::min(size, (b + 1) * block_rows_), inverse_.data(), y,
                     row_sums + b * block_rows_);
  });
  std::fill(row_sums + size, row_sums + stride, 0.0f);
  std::fill(others + size, others + stride, 0.0f);
  int64_t largest = 0;
  double mean = 0.0;
  for (int64_t i = 0; i < size; ++i) {
    others[i] = row_sums[i] - 1.0f;
    mean += static_cast<double>(row_sums[i]) / static_cast<double>(size);
    if (std::fabs(others[i]) > std::fabs(others[largest])) largest = i;
  }
  degrees = others;
  shift_ = mean;
  norm = 2.0 * std::fabs(static_cast<double>(others[largest]));  // exact where no cosine is negative
  if (negative_) {
    norm = std::fabs(static_cast<double>(others[largest])) + absolute_sum(largest);
    for (int64_t i = 0; i < size; i += std::max<int64_t>(1, size / (size <= 2048 ? kNormRows : kNormRows / 4)))
      norm = std::max(norm, std::fabs(static_cast<double>(others[i])) + absolute_sum(i));
  }
  norm = std::max(norm, 1.0);  // the cancelled diagonal leaves its rounding behind
}

Rescue FactoredLaplacian::build(const Rows& rows, int64_t count, const Kernels& kernels, const Executor& executor,
                                int64_t vectors) {
  kernels_ = &kernels;
  executor_ = &executor;
  rows_ = rows;
  size = count;
  stride = padded(count);
  width_ = rows.width;
  const int64_t pieces = std::clamp<int64_t>(count / kLeastRows, 1, kBlocks);
  block_rows_ = (count + pieces - 1) / pieces;
  blocks_ = (count + block_rows_ - 1) / block_rows_;
  // Rows of companions are read in whole vectors.
  companions_.reserve(vectors * width_);
  image_.reserve(width_);
  std::fill_n(y_.reserve(padded(width_)), padded(width_), 0.0f);
  scratch_.reserve(blocks_ * padded(width_));
  error_.assign(static_cast<std::size_t>(vectors), -1.0);
  since_refresh_ = refreshes = 0;

  float* inverse = inverse_.reserve(stride);
  bool* negative = new bool[static_cast<std::size_t>(blocks_)]();
  executor.run(blocks_, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const int64_t begin = b * block_rows_, end = std::min(size, begin + block_rows_);
      kernels.squares(rows_, begin, end, inverse + begin, negative + b);
    }
  });
  negative_ = std::find(negative, negative + blocks_, true) != negative + blocks_;
  delete[] negative;
  for (int64_t i = 0; i < size; ++i) {
    if (!in_range(inverse[i])) return Rescue::rescale;
    inverse[i] = static_cast<float>(1.0 / std::sqrt(static_cast<double>(inverse[i])));
  }
  measure_degrees();
  error_[0] = kUlp * std::sqrt(norm);
  return Rescue::none;
}

}  // namespace spectral
