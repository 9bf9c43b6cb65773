// Lanczos with two-pass reorthogonalisation and thick restarts, for the lowest eigenpair away from some known vectors.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels.h"
#include "laplacian.h"
#include "support.h"
#include "tridiagonal.h"

namespace spectral {

struct RitzPair {
  double value = 0.0;  // both in units of ‖L‖_∞
  double bound = 0.0;  // of the residual
  int64_t steps = 0;
};

class Lanczos {
 public:
  using Accept = std::function<bool(double value, double bound)>;

  // `capacity` Lanczos vectors are held before a restart; the basis has room for two known vectors before them.
  Lanczos(const Kernels& kernels, Laplacian& laplacian, const Executor& executor, float* basis, float* work, int64_t capacity);

  static int64_t rows(int64_t capacity) { return capacity + 3; }

  float* row(int64_t b) { return basis_ + b * stride_; }

  // Lowest Ritz pair orthogonal to rows [0, known) of the basis, from the start vector in row `known`. Stops once accept
  // says so, when the space is exhausted, or after `limit` steps. The unit Ritz vector goes to out (stride). Convergence is
  // looked at `every` so many steps from the eighth on; 0 chooses by how fast the bound falls.
  RitzPair descend(int64_t known, const Accept& accept, int64_t limit, float* out, int64_t every = 0);

  // The projected matrix of the last descent.
  Tridiagonal tridiagonal() const { return {{alpha_.begin(), alpha_.begin() + depth_}, {beta_.begin(), beta_.begin() + depth_}}; }

  // The Ritz vector of the last descent, as it is in `vector`, becomes row `known`.
  void keep(int64_t known, const float* vector);

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
  int64_t restart(int64_t known, int64_t k);
  int64_t begin(int64_t known);

  const Kernels& kernels_;
  Laplacian& laplacian_;
  const Executor& executor_;
  float *basis_, *work_;
  int64_t capacity_, stride_, chunks_, chunk_, depth_ = 0;
  std::vector<double> alpha_, beta_, ritz_, parts_, partial_;
  std::vector<float> factors_;
};

}  // namespace spectral
