// Fiedler pairs, one block a member, from S. The same mathematics as spectral_sampler/fiedler.py, whose names are used.
#pragma once
#include "member.cuh"
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
