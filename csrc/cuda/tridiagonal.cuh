// Lowest eigenpair of the symmetric tridiagonal matrix on rows first..last. `below[i]` couples row i to row i − 1.
#pragma once
#include "primitives.cuh"

namespace spectral::device {

__device__ inline float away_from_zero(float pivot, float least) {
  return fabsf(pivot) < least ? (pivot < 0.f ? -least : least) : pivot;
}

// Eigenvalue number `rank` (1 = lowest) by multisection with Sturm's count of negative pivots, one shift a thread; a large
// number where there are fewer. Every thread must call; all get the value.
__device__ inline float eigenvalue(const float* alpha, const float* below, int first, int last, int rank, float* scratch) {
  if (last - first + 1 < rank) return 4.f;  // above the spectrum of L / ‖L‖, which lies in [−1, 1]
  float least = alpha[first], most = alpha[first], coupling = 0.f;
  for (int row = first; row <= last; ++row) {
    least = fminf(least, alpha[row]), most = fmaxf(most, alpha[row]);
    if (row > first) coupling = fmaxf(coupling, fabsf(below[row]));
  }
  float low = least - 2.f * coupling, high = rank == 1 ? least : most + 2.f * coupling;  // Gershgorin
  const float parts = static_cast<float>(blockDim.x + 1);
  for (float resolved = 1.f; resolved < 1e9f; resolved *= parts) {
    const float shift = low + (high - low) * ((threadIdx.x + 1) / parts);
    float pivot = alpha[first] - shift;
    int negative = pivot <= kTiny;
    for (int row = first + 1; row <= last && negative < rank; ++row) {
      pivot = alpha[row] - shift - below[row] * below[row] / away_from_zero(pivot, kTiny);
      negative += pivot <= kTiny;
    }
    const float clear = block_sum(negative < rank ? 1.f : 0.f, scratch), width = (high - low) / parts;
    low += width * clear;
    high = low + width;
  }
  return low;
}

// Its unit vector by the twisted factorisation (Dhillon and Parlett, SIAM J. Matrix Anal. Appl. 25 (2004), §3), by one
// thread: 4 · rows divisions. forward, backward: room for last + 1 floats. Ends with the vector visible to the block.
__device__ inline void lowest_vector(const float* alpha, const float* below, float value, int first, int last, float* vector,
                                     float* forward, float* backward) {
  constexpr float kLeast = 1e-9f;
  if (threadIdx.x == 0) {
    forward[first] = away_from_zero(alpha[first] - value, kLeast);
    for (int row = first + 1; row <= last; ++row)
      forward[row] = away_from_zero(alpha[row] - value - below[row] * below[row] / forward[row - 1], kLeast);
    backward[last] = away_from_zero(alpha[last] - value, kLeast);
    for (int row = last - 1; row >= first; --row)
      backward[row] = away_from_zero(alpha[row] - value - below[row + 1] * below[row + 1] / backward[row + 1], kLeast);
    int twist = first;
    float least = infinity();
    for (int row = first; row <= last; ++row) {
      const float gamma = fabsf(forward[row] + backward[row] - (alpha[row] - value));
      if (gamma < least) least = gamma, twist = row;
    }
    float square = 1.f;
    vector[twist] = 1.f;
    for (int row = twist - 1; row >= first; --row) {
      vector[row] = -below[row + 1] / forward[row] * vector[row + 1];
      square += vector[row] * vector[row];
    }
    for (int row = twist + 1; row <= last; ++row) {
      vector[row] = -below[row] / backward[row] * vector[row - 1];
      square += vector[row] * vector[row];
    }
    const float length = sqrtf(square);
    for (int row = first; row <= last; ++row) vector[row] /= length;
  }
  __syncthreads();
}

}  // namespace spectral::device
