// Lowest eigenpair of the symmetric tridiagonal matrix on rows first..last. `below[i]` couples row i to row i − 1.
#pragma once
#include "primitives.cuh"

namespace spectral::device {

__device__ inline float away_from_zero(float pivot, float least) {
  return fabsf(pivot) < least ? (pivot < 0.f ? -least : least) : pivot;
}

// By multisection with Sturm's count of negative pivots, one shift a thread. Every thread must call; all get the value.
__device__ inline float lowest_value(const float* alpha, const float* below, int first, int last, float* scratch) {
  float high = alpha[first], coupling = 0.f;
  for (int row = first; row <= last; ++row) {
    high = fminf(high, alpha[row]);
    if (row > first) coupling = fmaxf(coupling, fabsf(below[row]));
  }
  float low = high - 2.f * coupling;  // no eigenvalue is below this (Gershgorin)
  const float parts = static_cast<float>(blockDim.x + 1);
  for (float resolved = 1.f; resolved < 1e9f; resolved *= parts) {
    const float shift = low + (high - low) * ((threadIdx.x + 1) / parts);
    float pivot = alpha[first] - shift;
    bool negative = pivot <= kTiny;
    for (int row = first + 1; row <= last && !negative; ++row) {
      pivot = alpha[row] - shift - below[row] * below[row] / away_from_zero(pivot, kTiny);
      negative = pivot <= kTiny;
    }
    const float clear = block_sum(negative ? 0.f : 1.f, scratch), width = (high - low) / parts;
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
    float least = INFINITY;
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
