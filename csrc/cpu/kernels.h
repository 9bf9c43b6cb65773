// The inner loops, one table of them per instruction set. Everything above this file is written once.
//
// Conventions: vectors are float, padded with zeros to a multiple of kPanel; panels hold kPanel rows of the store,
// column by column, so that one packed copy serves both sides of the symmetric product.
#pragma once
#include <cstdint>

namespace spectral {

constexpr int64_t kPanel = 16;       // rows in a packed panel, and the padding of every vector
constexpr int64_t kSlabColumns = 256;  // columns packed at a time: the slab of a small batch stays in the second-level cache
constexpr int64_t kPassRows = 64;    // rows whose products are summed in float before they go into a double

inline int64_t padded(int64_t count) { return (count + kPanel - 1) / kPanel * kPanel; }

enum class Storage : int { float32, float16, bfloat16 };

inline int64_t element_bytes(Storage storage) { return storage == Storage::float32 ? 4 : 2; }

// Rows of the feature store picked by index; nothing is copied.
struct Rows {
  const char* base;
  int64_t stride;  // bytes from one row of the store to the next
  int64_t width;   // features in a row
  Storage storage;
  const int64_t* indices;

  const char* row(int64_t position) const { return base + indices[position] * stride; }
};

struct Kernels {
  const char* name;

  // Columns [column, column + columns) of rows [first, first + count) into a panel; columns is a multiple of kPanel, what lies
  // beyond the width becomes zero, and rows beyond count repeat the first one (their products are discarded later).
  void (*pack)(const Rows& rows, int64_t first, int64_t count, int64_t column, int64_t columns, float* panel);

  // c (kPanel × kPanel · blocks) = or += A Bᵀ over `columns` packed columns; the blocks of B lie `block_stride` floats apart.
  void (*gram)(const float* a, const float* b, int64_t blocks, int64_t block_stride, int64_t columns, float* c, int64_t stride,
               bool add);

  // Scales a kPanel × kPanel block by left_i · right_j in place, and writes its transpose to mirror unless that is null.
  void (*finish)(float* block, int64_t stride, const float* left, const float* right, float* mirror);

  // Σ row and Σ |row| over a padded row.
  void (*row_sums)(const float* row, int64_t length, float* sum, float* absolute);

  // w = degrees ∘ q − S q for a symmetric S with zero diagonal, `count` rows of `stride` floats.
  void (*apply)(const float* affinity, int64_t stride, int64_t count, const float* degrees, const float* q, float* w);

  // h_j += q_j · w for the `count` rows of Q, over `length` entries.
  void (*project)(const float* basis, int64_t stride, int64_t count, const float* w, int64_t length, double* h);

  // w −= Σ_j h_j q_j.
  void (*subtract)(const float* basis, int64_t stride, int64_t count, const float* h, float* w, int64_t length);

  // Σ w², in double, and out = factor · w.
  double (*sum_squares)(const float* w, int64_t length);
  void (*scale)(const float* w, float factor, int64_t length, float* out);

  // Row norms: Σ x² of each row, and whether any entry is negative.
  void (*squares)(const Rows& rows, int64_t first, int64_t last, float* sums, bool* negative);

  // total (width, double) += Σ_i weight_i · inverse_i · x_i over rows [first, last).
  void (*combine)(const Rows& rows, int64_t first, int64_t last, const float* inverse, const float* weight, float* scratch,
                  double* total);

  // out_{i − first} = inverse_i · (x_i · y).
  void (*dots)(const Rows& rows, int64_t first, int64_t last, const float* inverse, const float* y, float* out);

  // The one-pass step: w_i = d_i q_i − inverse_i (x_i · y) and total += Σ_i (w_i − shift q_i) inverse_i x_i, each row read once.
  void (*step)(const Rows& rows, int64_t first, int64_t last, const float* inverse, const float* degrees, const float* q,
               const float* y, float shift, float* w, float* scratch, double* total);

  // In double, over the rows [first, last): inverse_i = 1 / |x_i| and total (2 · padded width) += Σ_i inverse_i x_i (v_i, 1); then
  // out_i = (L v)_i − θ v_i from both sums over all rows. scratch: four padded rows.
  void (*exact_sums)(const Rows& rows, int64_t first, int64_t last, const float* v, double* inverse, float* scratch,
                     double* total);
  void (*exact_products)(const Rows& rows, int64_t first, int64_t last, const float* v, double theta, const double* inverse,
                         const double* total, float* scratch, float* out);
};

extern const Kernels baseline_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

// The best table this processor runs; SPECTRAL_SAMPLER_CPU=baseline|avx2|avx512 lowers it, and another value of it throws
// std::invalid_argument.
const Kernels& select_kernels();

}  // namespace spectral
