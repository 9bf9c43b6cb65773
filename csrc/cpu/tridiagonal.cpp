#include "tridiagonal.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace spectral {
namespace {

double normalise(double* x, int64_t k) {
  double squares = 0.0;
  for (int64_t i = 0; i < k; ++i) squares += x[i] * x[i];
  const double length = std::sqrt(squares);
  for (int64_t i = 0; i < k; ++i) x[i] /= length;
  return length;
}

// Rayleigh quotient of the unit vector x, and the length of its residual.
double rayleigh(const double* alpha, const double* beta, int64_t k, const double* x, double* residual) {
  double quotient = 0.0, squares = 0.0;
  for (int64_t i = 0; i < k; ++i) quotient += x[i] * (alpha[i] * x[i] + (i + 1 < k ? 2.0 * beta[i] * x[i + 1] : 0.0));
  for (int64_t i = 0; i < k; ++i) {
    const double entry = (alpha[i] - quotient) * x[i] + (i > 0 ? beta[i - 1] * x[i - 1] : 0.0) + (i + 1 < k ? beta[i] * x[i + 1] : 0.0);
    squares += entry * entry;
  }
  *residual = std::sqrt(squares);
  return quotient;
}

// Eigenvalues below sigma: the signs of the pivots of LDLᵀ (Sylvester).
int64_t count_below(const Tridiagonal& matrix, double sigma) {
  int64_t count = 0;
  double pivot = 1.0;
  for (std::size_t i = 0; i < matrix.alpha.size(); ++i) {
    pivot = matrix.alpha[i] - sigma - (i > 0 ? matrix.beta[i - 1] * matrix.beta[i - 1] / pivot : 0.0);
    if (pivot == 0.0) pivot = -1e-300;
    count += pivot < 0.0;
  }
  return count;
}

// One implicit QL sweep on rows l … m with its rotations applied to the vectors (EISPACK tql2).
void ql_sweep(double* d, double* e, int64_t l, int64_t m, int64_t k, double* z) {
  double g = (d[l + 1] - d[l]) / (2.0 * e[l]), r = std::hypot(g, 1.0);
  g = d[m] - d[l] + e[l] / (g + std::copysign(r, g));
  double s = 1.0, c = 1.0, p = 0.0;
  for (int64_t i = m - 1; i >= l; --i) {
    double f = s * e[i];
    const double b = c * e[i];
    r = std::hypot(f, g);
    e[i + 1] = r;
    if (r == 0.0) {  // deflation in the middle: the caller starts again
      d[i + 1] -= p;
      e[m] = 0.0;
      return;
    }
    s = f / r;
    c = g / r;
    g = d[i + 1] - p;
    r = (d[i] - g) * s + 2.0 * c * b;
    p = s * r;
    d[i + 1] = g + p;
    g = c * r - b;
    for (int64_t row = 0; row < k; ++row) {
      f = z[row * k + i + 1];
      z[row * k + i + 1] = s * z[row * k + i] + c * f;
      z[row * k + i] = c * z[row * k + i] - s * f;
    }
  }
  d[l] -= p;
  e[l] = g;
  e[m] = 0.0;
}

}  // namespace

// By LDLᵀ, provided that all pivots are positive.
bool solve_below(const double* alpha, const double* beta, int64_t k, double sigma, double* reciprocal, double* x) {
  double pivot = alpha[0] - sigma;
  for (int64_t i = 0;; ++i) {
    if (!(pivot > 0.0)) return false;
    reciprocal[i] = 1.0 / pivot;
    if (i + 1 == k) break;
    pivot = alpha[i + 1] - sigma - beta[i] * beta[i] * reciprocal[i];
  }
  for (int64_t i = 1; i < k; ++i) x[i] -= beta[i - 1] * reciprocal[i - 1] * x[i - 1];
  x[k - 1] *= reciprocal[k - 1];
  for (int64_t i = k - 2; i >= 0; --i) x[i] = (x[i] - beta[i] * x[i + 1]) * reciprocal[i];
  return true;
}

double lowest_eigenpair(const double* alpha, const double* beta, int64_t k, std::vector<double>& vector) {
  const auto given = static_cast<int64_t>(vector.size());
  vector.resize(static_cast<std::size_t>(k));
  double low = INFINITY, high = alpha[0], scale = 0.0;
  for (int64_t i = 0; i < k; ++i) {
    const double radius = (i > 0 ? std::fabs(beta[i - 1]) : 0.0) + (i + 1 < k ? std::fabs(beta[i]) : 0.0);
    low = std::min(low, alpha[i] - radius);
    high = std::min(high, alpha[i]);
    scale = std::max(scale, std::fabs(alpha[i]) + radius);
    // Off-diagonals are positive, so the signs of the lowest eigenvector alternate.
    if (i >= given) vector[i] = i == 0 ? 1.0 : -0.3 * vector[i - 1];
  }
  if (k == 1 || scale == 0.0) {
    std::fill(vector.begin(), vector.end(), 0.0);
    vector[0] = 1.0;
    return alpha[0];
  }
  std::vector<double> room(static_cast<std::size_t>(2 * k));
  double *reciprocal = room.data(), *next = reciprocal + k;
  normalise(vector.data(), k);
  double residual = 0.0, value = rayleigh(alpha, beta, k, vector.data(), &residual);
  double sigma = value - residual;
  low -= 1e-14 * scale;
  for (int turn = 0; turn < 200; ++turn) {
    sigma = std::max(sigma, low);
    std::copy(vector.begin(), vector.end(), next);
    if (solve_below(alpha, beta, k, sigma, reciprocal, next)) {
      low = sigma;
      normalise(next, k);
      std::copy_n(next, k, vector.begin());
      value = rayleigh(alpha, beta, k, vector.data(), &residual);
      high = std::min(high, value);
      if (residual <= 1e-11 * scale) break;
      // An eigenvalue lies within `residual` of `value`: if it is the lowest one, the next shift is almost on it.
      sigma = std::max(value - residual, low + 1e-3 * (high - low));
    } else {
      high = std::min(high, sigma);
      sigma = 0.5 * (low + high);
    }
    if (high - low <= 1e-15 * scale) break;
  }
  return value;
}

double second_below(const Tridiagonal& matrix, double limit) {
  if (count_below(matrix, limit) < 2) return limit;
  double low = limit, width = 1e-9;
  for (; count_below(matrix, low) >= 2; width *= 4.0) low -= width;  // the spectrum lies in [−1, 1]
  double high = limit;
  while (high - low > 1e-3 * (limit - low) && high - low > 1e-12) {
    const double middle = 0.5 * (low + high);
    (count_below(matrix, middle) < 2 ? low : high) = middle;
  }
  return low;
}

void all_eigenpairs(const double* alpha, const double* beta, int64_t k, std::vector<double>& values,
                    std::vector<double>& vectors) {
  std::vector<double> d(alpha, alpha + k), e(static_cast<std::size_t>(k), 0.0), z(static_cast<std::size_t>(k * k), 0.0);
  std::copy_n(beta, k - 1, e.begin());
  for (int64_t i = 0; i < k; ++i) z[i * k + i] = 1.0;
  for (int64_t l = 0; l < k; ++l)
    for (int turn = 0; turn < 100; ++turn) {
      int64_t m = l;
      while (m + 1 < k && std::fabs(e[m]) > 1e-16 * (std::fabs(d[m]) + std::fabs(d[m + 1]))) ++m;
      if (m == l) break;
      ql_sweep(d.data(), e.data(), l, m, k, z.data());
    }
  std::vector<int64_t> order(static_cast<std::size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return d[i] != d[j] ? d[i] < d[j] : i < j; });
  values.resize(d.size());
  vectors.resize(z.size());
  for (int64_t j = 0; j < k; ++j) {
    values[j] = d[order[j]];
    for (int64_t i = 0; i < k; ++i) vectors[i * k + j] = z[i * k + order[j]];
  }
}

void retridiagonalise(const double* theta, const double* coupling, int64_t p, double* alpha, double* beta,
                      std::vector<double>& w) {
  w.assign(static_cast<std::size_t>(p * p), 0.0);
  std::vector<double> x(coupling, coupling + p);
  beta[p - 1] = normalise(x.data(), p);
  if (!(beta[p - 1] > 0.0)) {
    beta[p - 1] = 0.0;
    std::fill(x.begin(), x.end(), 0.0);
    x[0] = 1.0;
  }
  for (int64_t step = p - 1; step >= 0; --step) {  // Lanczos on diag(theta) from the coupling, filling W from its last column
    double diagonal = 0.0;
    for (int64_t i = 0; i < p; ++i) {
      w[i * p + step] = x[i];
      diagonal += theta[i] * x[i] * x[i];
    }
    alpha[step] = diagonal;
    if (step == 0) break;
    for (int64_t i = 0; i < p; ++i) x[i] *= theta[i];
    double length = 0.0;
    // Where theta has clusters the space runs out; any direction orthogonal to it continues, with no coupling.
    for (int64_t attempt = 0; attempt <= p; ++attempt) {
      for (int pass = 0; pass < 2; ++pass)
        for (int64_t j = step; j < p; ++j) {
          double part = 0.0;
          for (int64_t i = 0; i < p; ++i) part += w[i * p + j] * x[i];
          for (int64_t i = 0; i < p; ++i) x[i] -= part * w[i * p + j];
        }
      length = normalise(x.data(), p);
      if (length > 1e-13) {
        if (attempt > 0) length = 0.0;
        break;
      }
      std::fill(x.begin(), x.end(), 0.0);
      x[attempt % p] = 1.0;
    }
    beta[step - 1] = length;
  }
}

}  // namespace spectral
