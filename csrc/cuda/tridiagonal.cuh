// Lowest eigenpairs of the symmetric tridiagonal matrix T on rows first..last, by one warp, from shared memory: the rest of the
// block waits at one barrier. `below[i]` couples row i to row i − 1. Every lane of the warp must call.
#pragma once
#include "primitives.cuh"

namespace spectral::device {

constexpr float kPivot = 1e-9f;
constexpr float kResolved = 1e-9f;  // width to which an eigenvalue is enclosed, where a float can tell so much
constexpr float kSpectrum = 1.001f;  // T has its spectrum in [−1, 1] but for rounding
constexpr int kShifts = 4;           // of each lane: their products overlap
constexpr int kRows = 4;             // after which minors are brought back to the size of 1: β is an ulp at least

__device__ inline float away_from_zero(float pivot, float least) {
  return fabsf(pivot) < least ? (pivot < 0.f ? -least : least) : pivot;
}

// Where shift `number` of 1 … kWarp · kShifts lies in the interval [0, 1]: evenly, or crowded towards 1 by powers of two.
__device__ inline float place_of(int number, bool crowded) {
  const float even = static_cast<float>(number) / (kWarp * kShifts + 1);
  return crowded ? 1.f - exp2f(-32.f * even) : even;
}

// Eigenvalue number `rank` (1 = lowest), known to lie in [low, high], by multisection; kAbove where there are fewer. As many
// eigenvalues lie below a shift as its leading minors change sign, which follow one another by p ← (α − shift) p − β² p′: no
// division stands between two rows. `crowded`: it is expected close below `high`, and the first shifts are crowded there.
__device__ inline float eigenvalue(const float* alpha, const float* below, float low, float high, bool crowded, int first,
                                   int last, int rank) {
  if (last - first + 1 < rank) return kAbove;
  while (high - low > fmaxf(kUlp * fmaxf(fabsf(low), fabsf(high)), kResolved)) {
    const float width = high - low;
    float shift[kShifts], minor[kShifts], before[kShifts];
    int changes[kShifts];
    for (int k = 0; k < kShifts; ++k) {
      shift[k] = low + width * place_of(lane() * kShifts + k + 1, crowded);
      minor[k] = 1.f, before[k] = 0.f, changes[k] = 0;
    }
    float diagonal = alpha[first], square = 0.f;
    for (int row = first; row <= last; ++row) {
      const float link = row < last ? below[row + 1] : 0.f, next = row < last ? alpha[row + 1] : 0.f;  // read ahead
      for (int k = 0; k < kShifts; ++k) {
        float after = (diagonal - shift[k]) * minor[k] - square * before[k];
        if (after == 0.f) after = -kTiny * minor[k];
        changes[k] += (after < 0.f) != (minor[k] < 0.f);
        before[k] = minor[k], minor[k] = after;
      }
      if ((row - first) % kRows == kRows - 1)
        for (int k = 0; k < kShifts; ++k) {
          const unsigned largest = __float_as_uint(fmaxf(fabsf(minor[k]), fabsf(before[k])));
          const float scale = __uint_as_float((254u << 23) - (largest & 0x7f800000u));
          minor[k] *= scale, before[k] *= scale;
        }
      diagonal = next, square = link * link;
    }
    float clear = 0.f;
    for (int k = 0; k < kShifts; ++k) clear += changes[k] < rank ? 1.f : 0.f;
    const int number = static_cast<int>(warp_sum(clear));
    if (number < kWarp * kShifts) high = low + width * place_of(number + 1, crowded);
    low += width * place_of(number, crowded);
    crowded = false;
  }
  return low;
}

// The unit eigenvector for eigenvalue `value`, by the twisted factorisation (Dhillon and Parlett, SIAM J. Matrix Anal. Appl. 25
// (2004), §3): lane 0 goes forwards, lane 1 backwards, at the same time. forward, backward: room for last + 1 floats.
__device__ inline void lowest_vector(const float* alpha, const float* below, float value, int first, int last, float* vector,
                                     float* forward, float* backward) {
  const bool up = lane() == 1;
  float* pivots = up ? backward : forward;
  if (lane() < 2) {
    float pivot = 1.f, square = 0.f;
    for (int step = 0; step <= last - first; ++step) {
      const int row = up ? last - step : first + step;
      pivots[row] = pivot = away_from_zero(alpha[row] - value - quotient(square, pivot), kPivot);
      const int link = up ? row : row + 1;  // to the row that comes next
      square = step < last - first ? below[link] * below[link] : 0.f;
    }
  }
  __syncwarp();
  float least = infinity();
  int twist = first;
  for (int row = first + lane(); row <= last; row += kWarp) {
    const float gamma = fabsf(forward[row] + backward[row] - (alpha[row] - value));
    if (gamma < least) least = gamma, twist = row;
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(kEveryLane, least, step);
    const int there = __shfl_xor_sync(kEveryLane, twist, step);
    if (other < least || (other == least && there < twist)) least = other, twist = there;
  }
  // The vector is 1 at the twist and follows outwards by ratios: lane 0 to the rows before it, lane 1 to those after it.
  if (lane() < 2) {
    float entry = 1.f;
    const int rows = up ? last - twist : twist - first;
    if (!up) vector[twist] = 1.f;
    for (int step = 1; step <= rows; ++step) {
      const int row = up ? twist + step : twist - step;
      vector[row] = entry *= -quotient(below[up ? row : row + 1], pivots[row]);
    }
  }
  __syncwarp();
  float square = 0.f;
  for (int row = first + lane(); row <= last; row += kWarp) square += vector[row] * vector[row];
  const float length = sqrtf(warp_sum(square));
  for (int row = first + lane(); row <= last; row += kWarp) vector[row] /= length;
  __syncwarp();
}

}  // namespace spectral::device
