// Lanczos with two-pass reorthogonalisation and thick restarts, for the lowest eigenpair away from some known vectors.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels.h"
#include "laplacian.h"
#include "support.h"
#include "../solver_limits.h"
#include "tridiagonal.h"

namespace spectral {

struct RitzPair {
  double value = 0.0;  // both in units of ‖L‖_∞
  double bound = 0.0;  // of the residual
  int64_t steps = 0;
};

// The lowest eigenvalue there can be where `rest` bounds those orthogonal to the vectors of these pairs.
double lowest_with(const std::vector<RitzPair>& pairs, double rest);

class Lanczos {
 public:
  using Accept = std::function<bool(double value, double bound)>;

  // `capacity` Lanczos vectors are held before a restart; the basis has room for 2 + kMostLocked known vectors before them.
  Lanczos(const Kernels& kernels, Laplacian& laplacian, const Executor& executor, float* basis, float* work, int64_t capacity);

  static int64_t rows(int64_t capacity) { return capacity + 3 + kMostLocked; }

  float* row(int64_t b) { return basis_ + b * stride_; }

  // Lowest Ritz pair orthogonal to rows [0, known) of the basis, from the start vector in row `known`. Stops once accept
  // says so, when the space is exhausted, or after `limit` steps. The unit Ritz vector goes to out (stride). Convergence is
  // looked at `every` so many steps from the eighth on; 0 chooses by how fast the bound falls.
  RitzPair descend(int64_t known, const Accept& accept, int64_t limit, float* out, int64_t every = 0);

  // The projected matrix of the last descent.
  Tridiagonal tridiagonal() const { return {{alpha_.begin(), alpha_.begin() + depth_}, {beta_.begin(), beta_.begin() + depth_}}; }

  // Solves (A − θ) δ = −r in the space V of the last descent, with (T − σ)⁻¹ for (T − θ)⁻¹: adds δ to `delta` and (A − θ) δ to
  // r. σ lies below the spectrum of T, else nothing is done. Returns ‖δ‖. To be called before the next product.
  double solve(int64_t known, double sigma, double theta, float* r, float* delta);

  // Row `known` becomes the Ritz vector of the last descent, as it is in `vector`, and the rows after it those of the next higher
  // Ritz pairs, nearly: up to kMostLocked, as long as they are close, and `lowest_with` would take no more than kApart from the
  // distance of an eigenvalue where the first of them is. Returns these pairs.
  std::vector<RitzPair> keep(int64_t known, const float* vector);

  // Removes the parts of w along rows [0, count), twice, and returns what is left of its length; parts (count) are what was
  // removed along each.
  double orthogonalise(int64_t count, float* w, double* parts);

  // c_j = q_j · w for the rows [first, first + count), and out = Σ_j c_j q_j.
  void project(int64_t first, int64_t count, const float* w, double* c);
  void combine(int64_t first, int64_t count, const double* c, float* out);

  double sum_squares(const float* w);
  double dot(const float* x, const float* w);

 private:
  // Calls body(at, length, out), which goes through so many vectors, on pieces of their length and adds up what the calls leave in
  // their `outputs` numbers, in order.
  template <class Body>
  void over_chunks(int64_t vectors, int64_t outputs, double* total, const Body& body);
  void replace(int64_t known, int64_t k, int64_t keep, const std::vector<double>& mix);
  int64_t restart(int64_t known, int64_t k);
  int64_t begin(int64_t known);
  std::vector<double> times(const std::vector<double>& y) const;  // T y

  const Kernels& kernels_;
  Laplacian& laplacian_;
  const Executor& executor_;
  float *basis_, *work_;
  int64_t capacity_, stride_, chunks_, chunk_, depth_ = 0;
  std::vector<double> alpha_, beta_, ritz_, parts_, partial_;
  std::vector<float> factors_;
};

}  // namespace spectral
