// Eigenpairs of a small symmetric tridiagonal matrix T in double: alpha (k) on the diagonal, beta (k − 1) beside it.
#pragma once
#include <cstdint>
#include <vector>

namespace spectral {

struct Tridiagonal {
  std::vector<double> alpha, beta;  // k each; the last beta is not part of T
};

// The lowest eigenvalue. `vector` holds a guess (of any length ≥ 0) on entry and the unit eigenvector (k) on return.
double lowest_eigenpair(const double* alpha, const double* beta, int64_t k, std::vector<double>& vector);

// The smaller of `limit` and the second lowest eigenvalue, to a thousandth of limit's distance from the lowest.
double second_below(const Tridiagonal& matrix, double limit);

// x ← (T − σ)⁻¹ x where σ lies below the spectrum, else false. Room for k numbers in `reciprocal`.
bool solve_below(const double* alpha, const double* beta, int64_t k, double sigma, double* reciprocal, double* x);

// All eigenvalues in ascending order; column j of the row-major `vectors` (k × k) belongs to values[j]. Implicit QL.
void all_eigenpairs(const double* alpha, const double* beta, int64_t k, std::vector<double>& values, std::vector<double>& vectors);

// Orthogonal W (p × p, row-major) such that Wᵀ diag(theta) W is tridiagonal and Wᵀ coupling = ‖coupling‖ e_last: what a thick
// restart needs for its projected matrix to stay tridiagonal. Fills alpha (p) and beta (p), beta[p − 1] = ‖coupling‖.
void retridiagonalise(const double* theta, const double* coupling, int64_t p, double* alpha, double* beta, std::vector<double>& w);

}  // namespace spectral
