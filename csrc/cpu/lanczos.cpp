#include "lanczos.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "../solver_limits.h"

namespace spectral {
namespace {

constexpr int64_t kChunk = 1024;  // entries of a vector treated together: fixed, so that bits do not depend on the threads
constexpr int64_t kWorthSharing = 1 << 16;  // products of floats, some microseconds: about what it costs to wake a thread

constexpr int64_t kCheapStep = 384;  // rows below which a step costs little more than a look at the Ritz pair

// Steps until convergence is worth another look. A bound that is far from the ulp a descent to v goes down to falls by less
// than a factor of ten a step.
int64_t patience(double bound, int64_t k, int64_t size) {
  if (size > kCheapStep) return 1;
  if (bound > 0.05) return 4;
  return bound > 1e4 * kUlp && k >= 32 ? k / 16 : bound > 30.0 * kUlp ? 2 : 1;
}

}  // namespace

Lanczos::Lanczos(const Kernels& kernels, Laplacian& laplacian, const Executor& executor, float* basis, float* work,
                 int64_t capacity)
    : kernels_(kernels), laplacian_(laplacian), executor_(executor), basis_(basis), work_(work), capacity_(capacity),
      stride_(laplacian.stride), chunks_((laplacian.stride + kChunk - 1) / kChunk), chunk_(std::min(kChunk, laplacian.stride)),
      alpha_(static_cast<std::size_t>(capacity + 1)), beta_(static_cast<std::size_t>(capacity + 1)),
      parts_(static_cast<std::size_t>(2 * rows(capacity))),
      partial_(static_cast<std::size_t>(chunks_ * rows(capacity))),
      factors_(static_cast<std::size_t>(rows(capacity))) {}

template <class Body>
void Lanczos::over_chunks(int64_t vectors, int64_t outputs, double* total, const Body& body) {
  std::fill_n(total, outputs, 0.0);
  if (chunks_ == 1) return body(0, stride_, total);
  std::fill_n(partial_.begin(), chunks_ * outputs, 0.0);
  const Serial alone;
  const Executor& executor = vectors * stride_ < kWorthSharing ? alone : executor_;
  executor.run(chunks_, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c)
      body(c * chunk_, std::min(chunk_, stride_ - c * chunk_), partial_.data() + c * outputs);
  });
  for (int64_t c = 0; c < chunks_; ++c)
    for (int64_t j = 0; j < outputs; ++j) total[j] += partial_[c * outputs + j];
}

double Lanczos::sum_squares(const float* w) {
  double total = 0.0;
  over_chunks(1, 1, &total, [&](int64_t at, int64_t length, double* out) { *out = kernels_.sum_squares(w + at, length); });
  return total;
}

double Lanczos::dot(const float* x, const float* w) {
  double total = 0.0;
  over_chunks(1, 1, &total, [&](int64_t at, int64_t length, double* out) {
    kernels_.project(x + at, stride_, 1, w + at, length, out);
  });
  return total;
}

void Lanczos::project(int64_t first, int64_t count, const float* w, double* c) {
  over_chunks(count, count, c, [&](int64_t at, int64_t length, double* out) {
    kernels_.project(row(first) + at, stride_, count, w + at, length, out);
  });
}

double Lanczos::orthogonalise(int64_t count, float* w, double* parts) {
  double* again = parts_.data() + rows(capacity_);
  float* factors = factors_.data();
  over_chunks(count, count, parts, [&](int64_t at, int64_t length, double* out) {
    kernels_.project(basis_ + at, stride_, count, w + at, length, out);
  });
  std::transform(parts, parts + count, factors, [](double x) { return static_cast<float>(x); });
  over_chunks(2 * count, count, again, [&](int64_t at, int64_t length, double* out) {
    kernels_.subtract(basis_ + at, stride_, count, factors, w + at, length);
    kernels_.project(basis_ + at, stride_, count, w + at, length, out);
  });
  for (int64_t j = 0; j < count; ++j) parts[j] += again[j];
  std::transform(again, again + count, factors, [](double x) { return static_cast<float>(x); });
  double squares = 0.0;
  over_chunks(count, 1, &squares, [&](int64_t at, int64_t length, double* out) {
    kernels_.subtract(basis_ + at, stride_, count, factors, w + at, length);
    *out = kernels_.sum_squares(w + at, length);
  });
  return std::sqrt(squares);
}

void Lanczos::combine(int64_t first, int64_t count, const double* c, float* out) {
  float* factors = factors_.data();
  std::transform(c, c + count, factors, [](double x) { return static_cast<float>(-x); });
  double none = 0.0;
  over_chunks(count, 1, &none, [&](int64_t at, int64_t length, double*) {
    std::fill_n(out + at, length, 0.0f);
    kernels_.subtract(row(first) + at, stride_, count, factors, out + at, length);
  });
}

// Rows known … known + keep − 1 become Σ_i mix[i · keep + j] q_{known+i} over k old ones.
void Lanczos::replace(int64_t known, int64_t k, int64_t keep, const std::vector<double>& mix) {
  double none = 0.0;
  over_chunks(k * keep, 1, &none, [&](int64_t at, int64_t length, double*) {
    std::vector<float> fresh(static_cast<std::size_t>(keep * length), 0.0f), factors(static_cast<std::size_t>(k));
    for (int64_t j = 0; j < keep; ++j) {
      for (int64_t i = 0; i < k; ++i) factors[i] = static_cast<float>(-mix[i * keep + j]);
      kernels_.subtract(row(known) + at, stride_, k, factors.data(), fresh.data() + j * length, length);
    }
    for (int64_t j = 0; j < keep; ++j) std::copy_n(fresh.data() + j * length, length, row(known + j) + at);
  });
  laplacian_.mixed(known, k, keep, mix.data());
}

// Keeps the lowest Ritz vectors, rotated so that the projected matrix stays tridiagonal; returns how many.
int64_t Lanczos::restart(int64_t known, int64_t k) {
  const int64_t keep = std::min(k - 1, std::max<int64_t>(2, k * 2 / 5));
  std::vector<double> values, vectors, w, mix(static_cast<std::size_t>(k * keep), 0.0), coupling(static_cast<std::size_t>(keep));
  all_eigenpairs(alpha_.data(), beta_.data(), k, values, vectors);
  for (int64_t j = 0; j < keep; ++j) coupling[j] = beta_[k - 1] * vectors[(k - 1) * k + j];
  retridiagonalise(values.data(), coupling.data(), keep, alpha_.data(), beta_.data(), w);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < keep; ++j)
      for (int64_t l = 0; l < keep; ++l) mix[i * keep + l] += vectors[i * k + j] * w[j * keep + l];
  replace(known, k, keep, mix);
  ritz_.clear();
  return keep;
}

std::vector<double> Lanczos::times(const std::vector<double>& y) const {
  std::vector<double> image(y.size());
  for (std::size_t i = 0; i < y.size(); ++i) {
    image[i] += alpha_[i] * y[i];
    if (i == 0) continue;
    image[i] += beta_[i - 1] * y[i - 1];
    image[i - 1] += beta_[i - 1] * y[i];
  }
  return image;
}

double lowest_with(const std::vector<RitzPair>& pairs, double rest) {
  for (auto pair = pairs.rbegin(); pair != pairs.rend(); ++pair)  // of [[value, bound], [bound, rest]]
    rest = 0.5 * (pair->value + rest - std::hypot(pair->value - rest, 2.0 * pair->bound));
  return rest;
}

double Lanczos::solve(int64_t known, double sigma, double theta, float* r, float* delta) {
  const int64_t k = depth_;
  std::vector<double> y(static_cast<std::size_t>(k)), room(y.size());
  project(known, k, r, y.data());
  if (!solve_below(alpha_.data(), beta_.data(), k, sigma, room.data(), y.data())) return 0.0;
  double squares = 0.0;
  std::vector<double> image = times(y);
  for (int64_t i = 0; i < k; ++i) {
    squares += y[i] * y[i];
    image[i] -= theta * y[i];
  }
  const auto beyond = static_cast<float>(beta_[k - 1] > 0.0 ? y[k - 1] / laplacian_.norm : 0.0);  // A V = V T + work eᵀ / ‖L‖
  float* factors = factors_.data();
  const auto subtract = [&](const std::vector<double>& c, float* out) {
    std::transform(c.begin(), c.end(), factors, [](double x) { return static_cast<float>(x); });
    double none = 0.0;
    over_chunks(k, 1, &none, [&](int64_t at, int64_t length, double*) {
      kernels_.subtract(row(known) + at, stride_, k, factors, out + at, length);
    });
  };
  subtract(y, delta);
  subtract(image, r);
  for (int64_t i = 0; i < stride_; ++i) r[i] -= beyond * work_[i];
  return std::sqrt(squares);
}

std::vector<RitzPair> Lanczos::keep(int64_t known, const float* vector) {
  constexpr int kTurns = 8;  // of inverse iteration
  const int64_t k = depth_;
  const double lowest = lowest_eigenpair(alpha_.data(), beta_.data(), k, ritz_);
  std::vector<std::vector<double>> kept{ritz_};
  std::vector<RitzPair> pairs;
  std::vector<double> room(ritz_.size());
  const auto dot_of = [](const std::vector<double>& x, const std::vector<double>& y) {
    return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
  };
  while (static_cast<int64_t>(kept.size()) < std::min<int64_t>(k, 1 + kMostLocked)) {
    std::vector<double> y(ritz_.size(), 0.0);
    y[0] = 1.0;
    for (int turn = 0; turn <= kTurns; ++turn) {
      if (turn > 0) solve_below(alpha_.data(), beta_.data(), k, lowest - kUlp, room.data(), y.data());
      for (const auto& other : kept) {
        const double along = dot_of(other, y);
        for (int64_t i = 0; i < k; ++i) y[i] -= along * other[i];
      }
      const double length = std::sqrt(dot_of(y, y));
      for (double& entry : y) entry /= length;
    }
    std::vector<double> image = times(y);
    RitzPair pair;
    pair.value = dot_of(y, image);
    for (int64_t i = 0; i < k; ++i) image[i] -= pair.value * y[i];
    pair.bound = std::hypot(std::sqrt(dot_of(image, image)), beta_[k - 1] * y[k - 1]);
    pairs.push_back(pair);
    const double next = pairs[0].value - lowest;
    if (!(pair.bound <= kClose * (pair.value - lowest) && lowest_with(pairs, pairs[0].value) - lowest >= (1.0 - kApart) * next)) {
      pairs.pop_back();
      break;
    }
    kept.push_back(y);
  }
  const auto count = static_cast<int64_t>(kept.size());
  std::vector<double> mix(static_cast<std::size_t>(k * count));
  for (int64_t i = 0; i < k * count; ++i) mix[i] = kept[i % count][i / count];
  replace(known, k, count, mix);
  std::copy_n(vector, stride_, row(known));
  return pairs;
}

int64_t Lanczos::begin(int64_t known) {
  float* start = row(known);
  const double before = std::sqrt(sum_squares(start)), length = orthogonalise(known, start, parts_.data());
  if (!(length > 1e-3 * before)) {  // the start has nothing outside the known vectors (a batch of one repeated index, say)
    for (int64_t i = 0; i < stride_; ++i)
      start[i] = i < laplacian_.size ? static_cast<float>((i * 0x9E3779B97F4A7C15ull) >> 40) * 0x1p-23f - 1.0f : 0.0f;
    orthogonalise(known, start, parts_.data());
  }
  kernels_.scale(start, static_cast<float>(1.0 / std::sqrt(sum_squares(start))), stride_, start);
  laplacian_.replaced(known);
  ritz_.clear();
  return laplacian_.size - known;
}

RitzPair Lanczos::descend(int64_t known, const Accept& accept, int64_t limit, float* out, int64_t every) {
  const int64_t space = begin(known);
  RitzPair pair;
  int64_t k = 0, look = std::min<int64_t>(8, capacity_);
  bool restarted = false;
  for (;;) {
    laplacian_.apply(known + k, row(known + k), work_);
    const double length = orthogonalise(known + k + 1, work_, parts_.data());
    alpha_[k] = parts_[known + k] / laplacian_.norm;
    beta_[k] = length / laplacian_.norm;
    ++pair.steps;
    ++k;
    const bool exhausted = beta_[k - 1] <= kUlp || (!restarted && k >= space);
    if (exhausted) beta_[k - 1] = 0.0;
    if (exhausted || k >= look || k == capacity_ || pair.steps >= limit) {
      pair.value = lowest_eigenpair(alpha_.data(), beta_.data(), k, ritz_);
      pair.bound = std::fabs(beta_[k - 1] * ritz_[k - 1]);
      if (exhausted || accept(pair.value, pair.bound) || pair.steps >= limit) break;
      look = k + (every > 0 ? every : patience(pair.bound, k, laplacian_.size));
    }
    float* next = row(known + k);
    kernels_.scale(work_, static_cast<float>(1.0 / length), stride_, next);
    laplacian_.continued(known + k, parts_.data(), length);
    if (k == capacity_) {
      // The vector after the last moves up behind those that are kept.
      const int64_t keep = restart(known, k);
      std::copy_n(next, stride_, row(known + keep));
      laplacian_.replaced(known + keep);
      k = keep;
      look = k + std::max<int64_t>(every, 2);
      restarted = true;
    }
  }
  combine(known, k, ritz_.data(), out);
  depth_ = k;
  return pair;
}

}  // namespace spectral
