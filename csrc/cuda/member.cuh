// What a block knows of its member, and the linear algebra it does with it: degrees, start vectors, L x, Gram-Schmidt.
//
// The basis lies in shared memory where it fits, else in global memory, written by the block and read by it after
// __syncthreads, which CUDA defines to order the block's global accesses as well as its shared ones (CUDA C++ Programming
// Guide, "Synchronization Functions").
#pragma once
#include "primitives.cuh"

namespace spectral::device {

struct FiedlerProblem;

constexpr int kVectors = 4, kSmallVectors = 6;  // of count and of capacity floats
constexpr int kNumbers = 4;                     // that the warp which looks at T tells the block

// Shared memory without S and the basis, in floats.
__host__ __device__ inline long long fiedler_floats(int count, int capacity) {
  return static_cast<long long>(kVectors) * count + static_cast<long long>(kSmallVectors) * (capacity + 1) + kScratch + kNumbers;
}

template <class T>
class Member {
 public:
  __device__ Member(const T* s, int pitch, const long long* indices, float* basis, float* room, int count, int capacity)
      : s_(s), pitch_(pitch), indices_(indices), basis_(basis), n_(count), capacity_(capacity), over_block_(room) {
    numbers_ = room + kScratch;
    q_ = numbers_ + kNumbers, w_ = q_ + count, x_ = w_ + count, degree_ = x_ + count;
    alpha_ = degree_ + count, below_ = alpha_ + capacity + 1, weights_ = below_ + capacity + 1;
    forward_ = weights_ + capacity + 1, backward_ = forward_ + capacity + 1, products_ = backward_ + capacity + 1;
  }

  __device__ void solve(const FiedlerProblem& problem, long long member);

 private:
  struct Ritz {
    float value, bound, second;  // second: Ritz value number two, never below λ3
    int steps;
    bool exhausted;
  };

  __device__ void measure();
  __device__ long long lowest_index(bool on_a_side, int* place) const;
  __device__ void start(float* to, unsigned salt);
  __device__ void apply(const float* from, float factor, float* to) const;
  template <class Row, class Write>
  __device__ void times_rows(int rows, Row row_at, const float* vector, Write write) const;
  __device__ float orthogonalise(float* vector, int rows, bool record);
  __device__ float unit(float* vector, int rows);
  __device__ void look(int locked, int slot, float beta, float before);
  __device__ bool enough(float ritz, float bound, float value, int locked) const;
  __device__ Ritz cycle(int locked, float value, float length);
  __device__ void search(int most, float* gap, int* total);
  __device__ float sign();
  __device__ float dot(const float* a, const float* b) {
    float sum = 0.f;
    for (int i = threadIdx.x; i < n_; i += blockDim.x) sum += a[i] * b[i];
    return over_block_.sum(sum);
  }

  const T* s_;
  long long pitch_;  // numbers from row to row of S
  const long long* indices_;
  float* basis_;
  int n_, capacity_;
  Reduction over_block_;
  float *numbers_, *q_, *w_, *x_, *degree_, *alpha_, *below_, *weights_, *forward_, *backward_, *products_;
  float size_ = 0.f, shrink_ = 1.f, unit_ = kUlp;  // ‖L‖_∞, 1 / ‖L‖_∞ and the unit e of solver_limits.h
};

// Degrees and the norm of L, from S as it is stored, so that the constant vector stays in the kernel of L.
template <class T>
__device__ void Member<T>::measure() {
  float size = 0.f;
  for (int i = warp(); i < n_; i += warps()) {
    float sum = 0.f, absolute = 0.f;
    for (int j = lane(); j < n_; j += kWarp) {
      const float weight = widen(s_[i * pitch_ + j]);
      sum += weight, absolute += fabsf(weight);
    }
    sum = warp_sum(sum), absolute = warp_sum(absolute);
    if (lane() == 0) degree_[i] = sum;
    size = fmaxf(size, fabsf(sum) + absolute);
  }
  size_ = over_block_.max(size);
  shrink_ = size_ > 0.f ? 1.f / size_ : 1.f;
  unit_ = size_ > 0.f ? kUlp * fmaxf(size_, 1.f) * shrink_ : kUlp;
}

// The lowest dataset index (of the rows on a side of q), and its place; by every warp for itself.
template <class T>
__device__ long long Member<T>::lowest_index(bool on_a_side, int* place) const {
  long long lowest = 0x7fffffffffffffffLL;
  int where = 0;
  const float least = on_a_side ? kSide / sqrtf(static_cast<float>(n_)) : -1.f;
  for (int i = lane(); i < n_; i += kWarp)
    if ((!on_a_side || fabsf(q_[i]) >= least) && indices_[i] < lowest) lowest = indices_[i], where = i;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const long long other = __shfl_xor_sync(kEveryLane, lowest, step);
    const int there = __shfl_xor_sync(kEveryLane, where, step);
    if (other < lowest || (other == lowest && there < where)) lowest = other, where = there;
  }
  *place = where;
  return lowest;
}

template <class T>
__device__ void Member<T>::start(float* to, unsigned salt) {
  int place;
  const long long lowest = lowest_index(false, &place);
  for (int i = threadIdx.x; i < n_; i += blockDim.x) {
    unsigned word = static_cast<unsigned>(indices_[i] - lowest) + 1u + salt;
    word = (word ^ (word >> 16)) * 0x7feb352du;
    word = (word ^ (word >> 15)) * 0x846ca68bu;
    word ^= word >> 16;
    to[i] = static_cast<float>(word >> 8) * 1.1920929e-07f - 1.f;
  }
  __syncthreads();
}

// write(row, product with the vector) for rows 0..rows−1, row_at(row) a pointer to n numbers; eight rows of a warp at a time.
template <class T>
template <class Row, class Write>
__device__ void Member<T>::times_rows(int rows, Row row_at, const float* vector, Write write) const {
  for (int first = 8 * warp(); first < rows; first += 8 * warps()) {
    float sum[8] = {};
#pragma unroll 4  // 32 loads on their way: S beyond shared memory comes from L2, some 300 cycles away
    for (int j = lane(); j < n_; j += kWarp) {
      const float entry = vector[j];
      for (int k = 0; k < 8; ++k) sum[k] += widen(row_at(first + k < rows ? first + k : first)[j]) * entry;
    }
    int place;
    const float product = warp_sums(sum, &place);
    if (lane() % 4 == 0 && first + place < rows) write(first + place, product);
  }
}

// to = factor · L from / ‖L‖.
template <class T>
__device__ void Member<T>::apply(const float* from, float factor, float* to) const {
  const auto row_at = [&](int row) { return s_ + row * pitch_; };
  times_rows(n_, row_at, from, [&](int i, float sum) { to[i] = (degree_[i] * from[i] - sum) * (shrink_ * factor); });
  __syncthreads();
}

// Classical Gram-Schmidt, twice, against basis rows 0..rows−1; `record` keeps the last row's product in alpha. Returns the
// length of what is left.
template <class T>
__device__ float Member<T>::orthogonalise(float* vector, int rows, bool record) {
  const auto row_at = [&](int row) { return basis_ + static_cast<long long>(row) * n_; };
  float square = 0.f;
  for (int pass = 0; pass < 2; ++pass) {
    times_rows(rows, row_at, vector, [&](int row, float product) {
      products_[row] = product;
      if (record && row == rows - 1) alpha_[row] = pass ? alpha_[row] + product : product;
    });
    __syncthreads();
    for (int i = threadIdx.x; i < n_; i += blockDim.x) {
      float rest = vector[i];
#pragma unroll 8
      for (int row = 0; row < rows; ++row) rest -= products_[row] * basis_[static_cast<long long>(row) * n_ + i];
      vector[i] = rest;
      square = pass ? square + rest * rest : 0.f;
    }
    if (pass == 0) __syncthreads();
  }
  return sqrtf(over_block_.sum(square));
}

// Takes the parts along the locked rows from the vector, at most of length 1 afterwards; returns its length, and zero where
// nothing is left of it but rounding.
template <class T>
__device__ float Member<T>::unit(float* vector, int rows) {
  const float before = fmaxf(sqrtf(dot(vector, vector)), kTiny);
  for (int i = threadIdx.x; i < n_; i += blockDim.x) vector[i] /= before;
  __syncthreads();
  const float after = orthogonalise(vector, rows, false);
  if (after > 1e-4f) return after;
  for (int i = threadIdx.x; i < n_; i += blockDim.x) vector[i] = 0.f;
  __syncthreads();
  return 0.f;
}

}  // namespace spectral::device
