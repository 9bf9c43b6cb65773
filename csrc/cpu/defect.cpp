#include "defect.h"

#include <algorithm>
#include <cmath>

namespace spectral {
namespace {

constexpr int64_t kBlocks = 16;  // pieces of the sums over rows: fixed, so that the bits do not depend on the threads
constexpr int64_t kLeastRows = 256;
constexpr int64_t kAbreast = 4;  // rows the kernels unpack at a time

}  // namespace

double Defect::measure(const Rows& rows, int64_t size, double norm, double value, const float* v, const Kernels& kernels,
                       const Executor& executor, double* room, float* out) {
  const int64_t pieces = std::clamp<int64_t>(size / kLeastRows, 1, kBlocks), each = (size + pieces - 1) / pieces;
  const int64_t blocks = (size + each - 1) / each, width = padded(rows.width);
  double* partial = partial_.reserve(blocks * 2 * width);
  float* scratch = scratch_.reserve(blocks * kAbreast * width);
  std::fill_n(partial, blocks * 2 * width, 0.0);
  executor.run(blocks, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b)
      kernels.exact_sums(rows, b * each, std::min(size, (b + 1) * each), v, room, scratch + b * kAbreast * width,
                         partial + b * 2 * width);
  });
  for (int64_t b = 1; b < blocks; ++b)
    for (int64_t c = 0; c < 2 * width; ++c) partial[c] += partial[b * 2 * width + c];
  executor.run(blocks, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b)
      kernels.exact_products(rows, b * each, std::min(size, (b + 1) * each), v, value, room, partial,
                             scratch + b * kAbreast * width, out);
  });
  double along = 0.0, squares = 0.0, mean = 0.0;
  for (int64_t i = 0; i < size; ++i) {
    const double entry = v[i];
    along += entry * static_cast<double>(out[i]);
    squares += entry * entry;
    mean += static_cast<double>(out[i]) / static_cast<double>(size);
  }
  const double shift = along / squares;
  value_ = (value + shift) / norm;
  squares = 0.0;
  for (int64_t i = 0; i < size; ++i) {
    const double rest = (static_cast<double>(out[i]) - shift * static_cast<double>(v[i]) - mean) / norm;
    out[i] = static_cast<float>(rest);
    squares += rest * rest;
  }
  std::fill(out + size, out + padded(size), 0.0f);
  return std::sqrt(squares);
}

}  // namespace spectral
