// Fiedler pairs, one block a member, from S. The same mathematics as spectral_sampler/fiedler.py, whose names are used.
#pragma once
#include "member.cuh"
#include "tridiagonal.cuh"

namespace spectral::device {

constexpr int kSolverThreads = 256;  // at most

struct FiedlerProblem {
  const long long* indices;  // (members, count)
  const float* affinity;     // (members, pitch, pitch), zero diagonal; the first count rows and columns are read
  const float* inverse;      // (members, pitch): 0 marks a row without direction
  float* basis;              // (blocks, capacity, count), or null where it is in shared memory
  float *vector, *value, *residual, *gap, *error;
  long long *matvecs, *status;
  int members, count, pitch, capacity, most;  // capacity: basis rows, the locked ones included; most: steps of one search
};

// The first search goes to one ulp; the probe until λ3 is told apart from λ2, or is below it.
template <class T>
__device__ bool Member<T>::enough(float ritz, float bound, float value, int locked) const {
  const float distance = ritz - value;
  if (locked == 1) return bound <= kStop * kUlp;
  return bound <= kApart * fmaxf(distance, kGap * unit_) || distance + bound < 0.f;
}

// The lowest Ritz pair of T on rows locked..slot, its vector into weights_, its value, the bound β|y_last| and the second Ritz
// value into numbers_. One warp does it. `before`: the lowest Ritz value at the last look, which this one is not above
// (Cauchy) and, once it has converged, close below.
template <class T>
__device__ void Member<T>::look(int locked, int slot, float beta, float before) {
  if (warp() == 0) {
    const bool looked = before < kSpectrum;
    const float value = eigenvalue(alpha_, below_, -kSpectrum, before, looked, locked, slot, 1);
    lowest_vector(alpha_, below_, value, locked, slot, weights_, forward_, backward_);
    if (lane() == 0) numbers_[0] = value, numbers_[1] = beta * fabsf(weights_[slot]);
  }
  __syncthreads();
}

// Lanczos from q, of length `length`, on the complement of the locked rows; leaves the Ritz vector in q. A step has five
// barriers: none to normalise, since a new vector goes into the basis divided by its length and into the product with L as it
// is.
template <class T>
__device__ typename Member<T>::Ritz Member<T>::cycle(int locked, float value, float length) {
  constexpr int kLook = 8;
  Ritz ritz = {kSpectrum, 0.f, kAbove, 0, false};
  for (int slot = locked;; ++slot) {
    const float scale = 1.f / fmaxf(length, kTiny);
    for (int i = threadIdx.x; i < n_; i += blockDim.x) basis_[static_cast<long long>(slot) * n_ + i] = q_[i] * scale;
    if (threadIdx.x == 0) below_[slot] = length;
    apply(q_, scale, w_);
    length = orthogonalise(w_, slot + 1, true);
    float* next = w_;
    w_ = q_, q_ = next;
    ritz.exhausted = length <= kUlp || slot + 1 >= n_;
    ritz.steps = slot + 1 - locked;
    const bool stop = ritz.exhausted || slot + 1 >= capacity_;
    if (!stop && ritz.steps % kLook) continue;
    look(locked, slot, length, ritz.value);
    ritz.value = numbers_[0], ritz.bound = numbers_[1];
    if (stop || enough(ritz.value, ritz.bound, value, locked)) break;
  }
  if (locked == 1 && warp() == 0) {
    const float second = eigenvalue(alpha_, below_, ritz.value, kSpectrum, false, locked, locked + ritz.steps - 1, 2);
    if (lane() == 0) numbers_[2] = second;
  }
  for (int i = threadIdx.x; i < n_; i += blockDim.x) {
    float sum = 0.f;
    for (int row = locked; row < locked + ritz.steps; ++row) sum += weights_[row] * basis_[static_cast<long long>(row) * n_ + i];
    q_[i] = sum;
  }
  __syncthreads();
  if (locked == 1) ritz.second = numbers_[2];
  return ritz;
}

// The Fiedler vector into x, then λ3 by a second run kept away from it.
template <class T>
__device__ void Member<T>::search(int most, float* gap, int* total) {
  const float constant = 1.f / sqrtf(static_cast<float>(n_));
  for (int i = threadIdx.x; i < n_; i += blockDim.x) basis_[i] = constant;
  float value = 0.f, second = kAbove;
  start(q_, 0);
  for (int locked = 1, searches = 0, taken = 0; locked < 3;) {
    if (locked == 2)
      for (int i = threadIdx.x; i < n_; i += blockDim.x) basis_[n_ + i] = x_[i];
    __syncthreads();
    const Ritz ritz = cycle(locked, value, unit(q_, locked));
    *total += ritz.steps, taken += ritz.steps;
    const float scale = 1.f / fmaxf(unit(q_, locked), kTiny);
    const bool finished = ritz.exhausted || enough(ritz.value, ritz.bound, value, locked) || taken >= most;
    if (locked == 1) {
      for (int i = threadIdx.x; i < n_; i += blockDim.x) x_[i] = q_[i] * scale;
      value = ritz.value, second = ritz.second;
      __syncthreads();
      if (!finished) continue;
      start(q_, kProbeSalt);
      locked = n_ > 2 ? 2 : 3, taken = 0;
    } else if (finished) {
      // Where the first run settled on a higher eigenvector the probe finds the lower one; then begin there.
      const bool lower = ritz.value < value - kResidual * unit_ && ++searches < kRounds;
      // After a restart the Ritz vector may mix λ3's with those behind it, whose values are higher.
      const float doubt = taken > ritz.steps ? 2.f * ritz.bound : ritz.bound;
      *gap = fminf(fmaxf(fminf(ritz.value - doubt, second) - value, 0.f), 2.f);
      locked = lower ? 1 : 3, taken = 0;
    }
  }
}

// ±1 for the vector in q: small far group, else low degrees, else the side of the lowest dataset index.
template <class T>
__device__ float Member<T>::sign() {
  const float root = sqrtf(static_cast<float>(n_));
  float cubes = 0.f, sum = 0.f;
  for (int i = threadIdx.x; i < n_; i += blockDim.x) cubes += q_[i] * q_[i] * q_[i], sum += degree_[i];
  const float skew = root * over_block_.sum(cubes), mean = over_block_.sum(sum) / n_;
  float square = 0.f, product = 0.f;
  for (int i = threadIdx.x; i < n_; i += blockDim.x) {
    const float centred = degree_[i] - mean;
    square += centred * centred, product += centred * q_[i];
  }
  const float spread = sqrtf(over_block_.sum(square));
  const bool uneven = spread > kUneven * root * kUlp * fmaxf(size_, 1.f);
  const float correlation = over_block_.sum(product) / (uneven ? spread : 1.f);
  int place;
  const bool some = lowest_index(true, &place) != 0x7fffffffffffffffLL;
  float ruling = some ? q_[place] : 1.f;
  if (uneven && fabsf(correlation) >= kSide) ruling = -correlation;
  if (fabsf(skew) >= kSide) ruling = skew;
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
  apply(q_, 1.f, w_);
  const float value = dot(q_, w_);
  float square = 0.f;
  for (int i = threadIdx.x; i < n_; i += blockDim.x) {
    const float rest = w_[i] - value * q_[i];
    square += rest * rest;
  }
  const float residual = fmaxf(sqrtf(over_block_.sum(square)), unit_);
  gap = gap <= kGap * unit_ ? 0.f : gap;
  const float orientation = sign();
  for (int i = threadIdx.x; i < n_; i += blockDim.x) problem.vector[member * n_ + i] = orientation * q_[i];
  if (threadIdx.x == 0) {
    problem.value[member] = value * size_;
    problem.residual[member] = residual;
    problem.gap[member] = gap;
    problem.error[member] = gap > 0.f ? fminf(2.f * residual / gap, kWorst) : kWorst;
    problem.matvecs[member] = total + 1;
    problem.status[member] = (residual <= kResidual * unit_ ? kConverged : 0) | (gap == 0.f ? kDegenerate : 0) |
                             (value < -kResidual * unit_ ? kIndefinite : 0);
  }
}

// Persistent: block b takes members b, b + gridDim.x, … T = float or unsigned short (fp16). RESIDENT copies S to shared memory,
// otherwise it is read from the device's (where T must be float); BASIS has the basis there too. A refused member gets zeros
// and INVALID.
template <class T, bool RESIDENT, bool BASIS>
__global__ void __launch_bounds__(kSolverThreads) fiedler(FiedlerProblem problem) {
  SPECTRAL_SHARED;
  const int count = problem.count;
  const long long rows = static_cast<long long>(problem.capacity) * count;
  float* room = spectral_shared;
  float* own = room + fiedler_floats(count, problem.capacity);
  float* basis = BASIS ? own : problem.basis + blockIdx.x * rows;
  T* copy = reinterpret_cast<T*>(BASIS ? own + rows : own);
  for (long long member = blockIdx.x; member < problem.members; member += gridDim.x) {
    float refused = 0.f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) refused += problem.inverse[member * problem.pitch + i] == 0.f ? 1.f : 0.f;
    if (Reduction(room).sum(refused) > 0.f) {
      for (int i = threadIdx.x; i < count; i += blockDim.x) problem.vector[member * count + i] = 0.f;
      if (threadIdx.x == 0) {
        problem.value[member] = problem.residual[member] = problem.gap[member] = problem.error[member] = 0.f;
        problem.matvecs[member] = 0, problem.status[member] = kInvalid;
      }
      __syncthreads();  // the scratch is written again
      continue;
    }
    const float* source = problem.affinity + member * problem.pitch * problem.pitch;
    const T* s = copy;
    if constexpr (RESIDENT) {
      for (int row = warp(); row < count; row += warps())
        for (int k = lane(); k < count; k += kWarp)
          narrow(source[static_cast<long long>(row) * problem.pitch + k], copy + row * count + k);
    } else {
      s = source;
    }
    __syncthreads();
    Member<T>(s, RESIDENT ? count : problem.pitch, problem.indices + member * count, basis, room, count, problem.capacity)
        .solve(problem, member);
    __syncthreads();  // shared memory belongs to the next member from here
  }
}

}  // namespace spectral::device
