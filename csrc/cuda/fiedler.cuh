// Fiedler pairs, one block a member, from S. The same mathematics as spectral_sampler/fiedler.py, whose names are used.
//
// The basis lies in global memory, written by the block and read by it after __syncthreads, which CUDA defines to order the
// block's global accesses as well as its shared ones (CUDA C++ Programming Guide, "Synchronization Functions").
#pragma once
#include "primitives.cuh"
#include "tridiagonal.cuh"

namespace spectral::device {

struct FiedlerProblem {
  const long long* indices;  // (members, count)
  const float* affinity;     // (members, count, count), zero diagonal
  const float* inverse;      // (members, count): 0 marks a row without direction
  float* basis;              // (blocks, capacity, count)
  float *vector, *value, *residual, *gap;
  long long *matvecs, *status;
  int members, count, capacity, most;  // capacity: basis rows, the locked ones included; most: bound on the matvecs
};

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

// The first search goes to one ulp; the probe until λ3 is told apart from λ2, or is below it.
template <class T>
__device__ bool Member<T>::enough(float ritz, float bound, float value, int locked) const {
  const float distance = ritz - value;
  if (locked == 1) return bound <= kUlp;
  return bound <= 0.25f * fmaxf(distance, smallest_) || distance + bound < 0.f;
}

// Lanczos from q on the complement of the locked rows; leaves the Ritz vector in q.
template <class T>
__device__ typename Member<T>::Ritz Member<T>::cycle(int locked, float value) {
  constexpr int kLook = 8;
  Ritz ritz = {value, 0.f, 4.f, 0, false};
  for (int slot = locked;; ++slot) {
    for (int i = threadIdx.x; i < n_; i += blockDim.x) basis_[static_cast<long long>(slot) * n_ + i] = q_[i];
    __syncthreads();
    apply(q_, w_);
    orthogonalise(w_, slot + 1, true);
    const float beta = length(w_);
    ritz.exhausted = beta <= kUlp || slot + 1 >= n_;
    ritz.steps = slot + 1 - locked;
    const bool stop = ritz.exhausted || slot + 1 >= capacity_;
    if (stop || ritz.steps % kLook == 0) {
      ritz.value = eigenvalue(alpha_, below_, locked, slot, 1, scratch_);
      lowest_vector(alpha_, below_, ritz.value, locked, slot, weights_, forward_, backward_);
      ritz.bound = beta * fabsf(weights_[slot]);
      if (stop || enough(ritz.value, ritz.bound, value, locked)) break;
    }
    if (threadIdx.x == 0) below_[slot + 1] = beta;
    for (int i = threadIdx.x; i < n_; i += blockDim.x) q_[i] = w_[i] / fmaxf(beta, kTiny);
    __syncthreads();
  }
  if (locked == 1) ritz.second = eigenvalue(alpha_, below_, locked, locked + ritz.steps - 1, 2, scratch_);
  for (int i = threadIdx.x; i < n_; i += blockDim.x) {
    float sum = 0.f;
    for (int row = locked; row < locked + ritz.steps; ++row) sum += weights_[row] * basis_[static_cast<long long>(row) * n_ + i];
    q_[i] = sum;
  }
  __syncthreads();
  return ritz;
}

// The Fiedler vector into x, then λ3 by a second run kept away from it.
template <class T>
__device__ void Member<T>::search(int most, float* gap, int* total) {
  constexpr int kAgain = 4;
  const float constant = 1.f / sqrtf(static_cast<float>(n_));
  for (int i = threadIdx.x; i < n_; i += blockDim.x) basis_[i] = constant;
  float value = 0.f, second = 4.f;
  start(q_, 0);
  for (int locked = 1, again = 0; locked < 3;) {
    if (locked == 2)
      for (int i = threadIdx.x; i < n_; i += blockDim.x) basis_[n_ + i] = x_[i];
    __syncthreads();
    unit(q_, locked);
    const Ritz ritz = cycle(locked, value);
    *total += ritz.steps;
    unit(q_, locked);
    const bool finished = ritz.exhausted || enough(ritz.value, ritz.bound, value, locked) || *total >= most;
    if (locked == 1) {
      for (int i = threadIdx.x; i < n_; i += blockDim.x) x_[i] = q_[i];
      value = ritz.value, second = ritz.second;
      __syncthreads();
      if (!finished) continue;
      start(q_, 0x5eed);
      locked = n_ > 2 ? 2 : 3;
    } else if (finished) {
      // Where the first run settled on a higher eigenvector the probe finds the lower one; then begin there.
      const bool lower = ritz.value + ritz.bound < value && again++ < kAgain;
      *gap = fminf(fmaxf(fminf(ritz.value - ritz.bound, second) - value, 0.f), 2.f);
      locked = lower ? 1 : 3;
    }
  }
}

// ±1 for the vector in q: small far group, else low degrees, else the side of the lowest dataset index.
template <class T>
__device__ float Member<T>::sign() {
  const float root = sqrtf(static_cast<float>(n_));
  float cubes = 0.f, sum = 0.f;
  for (int i = threadIdx.x; i < n_; i += blockDim.x) cubes += q_[i] * q_[i] * q_[i], sum += degree_[i];
  const float skew = root * block_sum(cubes, scratch_), mean = block_sum(sum, scratch_) / n_;
  float square = 0.f, product = 0.f;
  for (int i = threadIdx.x; i < n_; i += blockDim.x) {
    const float centred = degree_[i] - mean;
    square += centred * centred, product += centred * q_[i];
  }
  const float spread = sqrtf(block_sum(square, scratch_));
  const bool uneven = spread > 16.f * n_ * kUlp * size_;
  const float correlation = block_sum(product, scratch_) / (uneven ? spread : 1.f);
  int place;
  const bool some = lowest_index(true, &place) != 0x7fffffffffffffffLL;
  float ruling = some ? q_[place] : 1.f;
  if (uneven && fabsf(correlation) >= 0.01f) ruling = -correlation;
  if (fabsf(skew) >= 0.01f) ruling = skew;
  return ruling < 0.f ? -1.f : 1.f;
}

template <class T>
__device__ void Member<T>::solve(const FiedlerProblem& problem, long long member) {
  measure();
  float gap = 2.f;
  int total = 0;
  search(problem.most, &gap, &total);
  for (int i = threadIdx.x; i < n_; i += blockDim.x) q_[i] = x_[i];
  __syncthreads();
  apply(q_, w_);
  const float value = dot(q_, w_);
  float square = 0.f;
  for (int i = threadIdx.x; i < n_; i += blockDim.x) {
    const float rest = w_[i] - value * q_[i];
    square += rest * rest;
  }
  const float residual = sqrtf(block_sum(square, scratch_));
  gap = gap <= smallest_ ? 0.f : gap;
  const float orientation = sign();
  for (int i = threadIdx.x; i < n_; i += blockDim.x) problem.vector[member * n_ + i] = orientation * q_[i];
  if (threadIdx.x == 0) {
    problem.value[member] = value * size_;
    problem.residual[member] = residual;
    problem.gap[member] = gap;
    problem.matvecs[member] = total + 1;
    problem.status[member] =
        (residual <= 16.f * n_ * kUlp ? 1 : 0) + (gap == 0.f ? 2 : 0) + (value < -16.f * n_ * rounding_ ? 4 : 0);
  }
}

// Persistent: block b takes members b, b + gridDim.x, … T = float or unsigned short (fp16); RESIDENT copies S to shared
// memory, otherwise it is read from the device's (where T must be float). A refused member gets zeros and INVALID.
template <class T, bool RESIDENT>
__global__ void fiedler(FiedlerProblem problem) {
  SPECTRAL_SHARED;
  const int count = problem.count;
  float* room = spectral_shared;
  T* copy = reinterpret_cast<T*>(room + fiedler_floats(count, problem.capacity));
  float* basis = problem.basis + static_cast<long long>(blockIdx.x) * problem.capacity * count;
  float* scratch = room + fiedler_floats(count, problem.capacity) - kWarps;
  for (long long member = blockIdx.x; member < problem.members; member += gridDim.x) {
    float refused = 0.f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) refused += problem.inverse[member * count + i] == 0.f ? 1.f : 0.f;
    if (block_sum(refused, scratch) > 0.f) {
      for (int i = threadIdx.x; i < count; i += blockDim.x) problem.vector[member * count + i] = 0.f;
      if (threadIdx.x == 0) {
        problem.value[member] = problem.residual[member] = problem.gap[member] = 0.f;
        problem.matvecs[member] = 0, problem.status[member] = 8;
      }
      continue;
    }
    const float* source = problem.affinity + member * count * count;
    const T* s = copy;
    if constexpr (RESIDENT) {
      for (int k = threadIdx.x; k < count * count; k += blockDim.x) narrow(source[k], copy + k);
      __syncthreads();
    } else {
      s = source;
    }
    Member<T>(s, problem.indices + member * count, basis, room, count, problem.capacity).solve(problem, member);
    __syncthreads();  // shared memory belongs to the next member from here
  }
}

}  // namespace spectral::device
