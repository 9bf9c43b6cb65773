// L = diag(d) − S as the Lanczos process sees it, in two forms: S in memory, or only the rows of the store.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "support.h"

namespace spectral {

enum class Rescue { none, rescale, invalid };  // what rows need whose squares leave the range of float

class Laplacian {
 public:
  virtual ~Laplacian() = default;

  // Vector 0 of every basis is the constant vector of unit length.

  // w = L q for the Lanczos vector q, which is number b of the basis.
  virtual void apply(int64_t b, const float* q, float* w) = 0;
  // Vector b has come from elsewhere: nothing is known about its products.
  virtual void replaced(int64_t) {}
  // Vector b = (w − Σ_{j<b} h_j q_j) / beta with the w of the last apply.
  virtual void continued(int64_t, const double*, double) {}
  // Vectors first … first + after − 1 became Σ_j mix[j · after + i] q_{first+j} over `before` old ones.
  virtual void mixed(int64_t, int64_t, int64_t, const double*) {}

  int64_t size = 0;
  int64_t stride = 0;              // size, padded
  double norm = 1.0;               // ‖L‖_∞ (estimated where S is not formed), 1 if that is 0
  const float* degrees = nullptr;  // off-diagonal row sums, padded with zeros
};

// S in memory: symmetric product of packed panels, half the multiplications.
class DenseLaplacian final : public Laplacian {
 public:
  // `next`: rows that will be multiplied after these, for prefetching, or null.
  Rescue build(const Rows& rows, int64_t count, const Kernels& kernels, const Executor& executor, const Rows* next = nullptr);
  void apply(int64_t, const float* q, float* w) override {
    kernels_->apply(affinity_.data(), stride, size, degrees, q, w);
  }
  const float* affinity() const { return affinity_.data(); }

 private:
  void multiply(const Rows& rows, const Executor& executor, const Rows* next);
  void finish();

  const Kernels* kernels_ = nullptr;
  Buffer<float> affinity_, slab_, inverse_, degrees_;
};

// L q = d∘q − U(Uᵀq) with the unit rows U never written down: one pass over the rows a step, see `apply`.
class FactoredLaplacian final : public Laplacian {
 public:
  Rescue build(const Rows& rows, int64_t count, const Kernels& kernels, const Executor& executor, int64_t vectors);
  void apply(int64_t b, const float* q, float* w) override;
  void replaced(int64_t b) override { error_[b] = -1.0; }
  void continued(int64_t b, const double* h, double beta) override;
  void mixed(int64_t first, int64_t before, int64_t after, const double* mix) override;

  int64_t refreshes = 0;      // products Uᵀq computed afresh, each about half the cost of a step
  int64_t refresh_every = 32;  // steps after which y is computed afresh whatever its error bound

 private:
  using Pass = std::function<void(int64_t first, int64_t last, float* scratch, double* total)>;
  void sum_passes(const Pass& pass, double* total);
  void refresh(int64_t b, const float* q);
  void measure_degrees();
  double absolute_sum(int64_t row);

  const Kernels* kernels_ = nullptr;
  const Executor* executor_ = nullptr;
  Rows rows_{};
  int64_t blocks_ = 0, block_rows_ = 0, width_ = 0;
  bool negative_ = false;
  double shift_ = 0.0, residue_ = 0.0;
  int64_t since_refresh_ = 0;
  Buffer<float> inverse_, row_sums_, degrees_, y_, scratch_;
  Buffer<double> companions_, image_, partial_;
  std::vector<double> error_;  // bound on the error of each companion y = Uᵀq, negative where there is none
};

// Rows whose squares are outside this range are copied and scaled first (`rescaled`); products of rows inside it are exact
// enough: an entry that underflows when squared is then below a ten-billionth of its row.
inline bool in_range(float squares) { return squares >= 1e-20f && squares <= 1e30f; }

// Unit-free float32 copy of the rows, each multiplied by the power of two that brings its largest entry into [0.5, 1).
// Returns false where a row is zero or not finite.
bool rescaled(const Rows& rows, int64_t count, float* copy);

}  // namespace spectral
