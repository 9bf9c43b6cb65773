// What a block knows of its member, and the linear algebra it does with it: degrees, start vectors, L x, Gram-Schmidt.
//
// The basis lies in global memory, written by the block and read by it after __syncthreads, which CUDA defines to order the
// block's global accesses as well as its shared ones (CUDA C++ Programming Guide, "Synchronization Functions").
#pragma once
#include "primitives.cuh"

namespace spectral::device {

struct FiedlerProblem;

constexpr int kVectors = 4, kSmallVectors = 6;  // of count and of capacity floats

// Shared memory without S, in floats.
__host__ __device__ inline long long fiedler_floats(int count, int capacity) {
  return static_cast<long long>(kVectors) * count + static_cast<long long>(kSmallVectors) * (capacity + 1) + kWarps;
}

template <class T>
class Member {
 public:
  __device__ Member(const T* s, const long long* indices, float* basis, float* room, int count, int capacity)
      : s_(s), indices_(indices), basis_(basis), n_(count), capacity_(capacity) {
    q_ = room, w_ = q_ + count, x_ = w_ + count, degree_ = x_ + count;
    alpha_ = degree_ + count, below_ = alpha_ + capacity + 1, weights_ = below_ + capacity + 1;
    forward_ = weights_ + capacity + 1, backward_ = forward_ + capacity + 1, products_ = backward_ + capacity + 1;
    scratch_ = products_ + capacity + 1;
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
  __device__ void apply(const float* from, float* to) const;
  __device__ void orthogonalise(float* vector, int rows, bool record);
  __device__ void unit(float* vector, int rows);
  __device__ bool enough(float ritz, float bound, float value, int locked) const;
  __device__ Ritz cycle(int locked, float value);
  __device__ void search(int most, float* gap, int* total);
  __device__ float sign();
  __device__ float length(const float* vector) const {
    float square = 0.f;
    for (int i = threadIdx.x; i < n_; i += blockDim.x) square += vector[i] * vector[i];
    return sqrtf(block_sum(square, scratch_));
  }
  __device__ float dot(const float* a, const float* b) const {
    float sum = 0.f;
    for (int i = threadIdx.x; i < n_; i += blockDim.x) sum += a[i] * b[i];
    return block_sum(sum, scratch_);
  }

  const T* s_;
  const long long* indices_;
  float* basis_;
  int n_, capacity_;
  float *q_, *w_, *x_, *degree_, *alpha_, *below_, *weights_, *forward_, *backward_, *products_, *scratch_;
  float size_ = 0.f, shrink_ = 1.f, rounding_ = kUlp, smallest_ = 0.f;
};

// Degrees and the norm of L, from S as it is stored, so that the constant vector stays in the kernel of L.
template <class T>
__device__ void Member<T>::measure() {
  float size = 0.f;
  for (int i = warp(); i < n_; i += warps()) {
    float sum = 0.f, absolute = 0.f;
    for (int j = lane(); j < n_; j += kWarp) {
      const float weight = widen(s_[static_cast<long long>(i) * n_ + j]);
      sum += weight, absolute += fabsf(weight);
    }
    sum = warp_sum(sum), absolute = warp_sum(absolute);
    if (lane() == 0) degree_[i] = sum;
    size = fmaxf(size, fabsf(sum) + absolute);
  }
  size_ = block_max(size, scratch_);
  shrink_ = size_ > 0.f ? 1.f / size_ : 1.f;
  rounding_ = size_ > 0.f ? kUlp * fmaxf(size_, 1.f) * shrink_ : kUlp;
  smallest_ = 8.f * n_ * rounding_;
}

// The lowest dataset index (of the rows on a side of q), and its place; by every warp for itself.
template <class T>
__device__ long long Member<T>::lowest_index(bool on_a_side, int* place) const {
  long long lowest = 0x7fffffffffffffffLL;
  int where = 0;
  const float least = on_a_side ? 0.01f / sqrtf(static_cast<float>(n_)) : -1.f;
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

// to = L from / ‖L‖. One warp a row.
template <class T>
__device__ void Member<T>::apply(const float* from, float* to) const {
  for (int i = warp(); i < n_; i += warps()) {
    float sum = 0.f;
    for (int j = lane(); j < n_; j += kWarp) sum += widen(s_[static_cast<long long>(i) * n_ + j]) * from[j];
    sum = warp_sum(sum);
    if (lane() == 0) to[i] = (degree_[i] * from[i] - sum) * shrink_;
  }
  __syncthreads();
}

// Classical Gram-Schmidt, twice, against basis rows 0..rows−1; `record` keeps the last row's product in alpha.
template <class T>
__device__ void Member<T>::orthogonalise(float* vector, int rows, bool record) {
  for (int pass = 0; pass < 2; ++pass) {
    for (int row = warp(); row < rows; row += warps()) {
      float sum = 0.f;
      for (int i = lane(); i < n_; i += kWarp) sum += basis_[static_cast<long long>(row) * n_ + i] * vector[i];
      sum = warp_sum(sum);
      if (lane() == 0) {
        products_[row] = sum;
        if (record && row == rows - 1) alpha_[row] = pass ? alpha_[row] + sum : sum;
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n_; i += blockDim.x) {
      float rest = vector[i];
      for (int row = 0; row < rows; ++row) rest -= products_[row] * basis_[static_cast<long long>(row) * n_ + i];
      vector[i] = rest;
    }
    __syncthreads();
  }
}

// The vector less its parts along the locked rows, at length 1; zero where nothing is left of it.
template <class T>
__device__ void Member<T>::unit(float* vector, int rows) {
  const float before = fmaxf(length(vector), kTiny);
  for (int i = threadIdx.x; i < n_; i += blockDim.x) vector[i] /= before;
  __syncthreads();
  orthogonalise(vector, rows, false);
  const float after = length(vector);
  for (int i = threadIdx.x; i < n_; i += blockDim.x) vector[i] = after > 1e-4f ? vector[i] / after : 0.f;
  __syncthreads();
}

}  // namespace spectral::device
