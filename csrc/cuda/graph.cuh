// Gather, cosine and degree in one pass: rows of the feature store in, S without its diagonal and its row sums out.
#pragma once
#include "primitives.cuh"

namespace spectral::device {

constexpr int kTile = 64;   // rows and columns of S a block makes at a time
constexpr int kDepth = 16;  // columns of the features in shared memory at a time
constexpr int kGraphThreads = 256;
constexpr int kPitch = kTile + 4;  // floats between columns of a staged block: spreads a column over the banks

// A power of two that brings the largest entry near 1: squares neither overflow nor vanish, and no digit changes.
__device__ inline float power_of_two(float largest) {
  int exponent = static_cast<int>(__float_as_uint(largest) >> 23);
  exponent = 254 - exponent;
  exponent = exponent < 1 ? 1 : exponent > 253 ? 253 : exponent;
  return __uint_as_float(static_cast<unsigned>(exponent) << 23);
}

// scale[i] = power of two, inverse[i] = 1 / |scale · row|, 0 for a row that is zero or not finite. One warp a row.
template <class T>
__global__ void row_factors(const T* features, const long long* indices, float* scale, float* inverse, int rows, int width,
                            long long stride) {
  const int row = blockIdx.x * warps() + warp();
  if (row >= rows) return;  // the whole warp
  const T* source = features + indices[row] * stride;
  float largest = 0.f;
  for (int k = lane(); k < width; k += kWarp) largest = fmaxf(largest, fabsf(widen(source[k])));
  const float factor = power_of_two(warp_max(largest));
  float square = 0.f;
  for (int k = lane(); k < width; k += kWarp) {
    const float value = widen(source[k]) * factor;
    square += value * value;
  }
  square = warp_sum(square);
  if (lane() == 0) {
    scale[row] = factor;
    inverse[row] = square > 0.f && square < infinity() ? 1.f / sqrtf(square) : 0.f;  // a NaN fails both
  }
}

// A kTile × kDepth block of scaled rows, transposed, zero outside the problem.
template <class T>
__device__ inline void stage(const T* features, const long long* indices, const float* scale, int first_row, int count,
                             int first_column, int width, long long stride, float* to) {
  for (int k = threadIdx.x; k < kTile * kDepth; k += blockDim.x) {
    const int row = first_row + k / kDepth, column = first_column + k % kDepth;
    const bool inside = row < count && column < width;
    to[k % kDepth * kPitch + k / kDepth] = inside ? widen(features[indices[row] * stride + column]) * scale[row] : 0.f;
  }
}

// A stripe of kTile rows of S (blockIdx.x) of one member (blockIdx.y) and their sums. 256 threads, each 4 × 4 entries of a
// tile. Sums are taken in a fixed order. Shared memory: 2 · kDepth · kPitch floats.
template <class T>
__global__ void cosine_graph(const T* features, const long long* all_indices, const float* all_scale, const float* all_inverse,
                             float* affinity, float* degrees, int count, int width, long long stride) {
  SPECTRAL_SHARED;
  float* left = spectral_shared;
  float* right = left + kDepth * kPitch;
  const long long member = blockIdx.y, offset = member * count;
  const long long* indices = all_indices + offset;
  const float *scale = all_scale + offset, *inverse = all_inverse + offset;
  const int first = blockIdx.x * kTile, across = threadIdx.x % 16 * 4, down = threadIdx.x / 16 * 4;
  float sums[4] = {0.f, 0.f, 0.f, 0.f};
  for (int other = 0; other < count; other += kTile) {
    float product[4][4] = {};
    for (int k = 0; k < width; k += kDepth) {
      stage(features, indices, scale, first, count, k, width, stride, left);
      stage(features, indices, scale, other, count, k, width, stride, right);
      __syncthreads();
      for (int c = 0; c < kDepth; ++c)
        for (int i = 0; i < 4; ++i)
          for (int j = 0; j < 4; ++j) product[i][j] += left[c * kPitch + down + i] * right[c * kPitch + across + j];
      __syncthreads();
    }
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) {
        const int row = first + down + i, column = other + across + j;
        if (row >= count || column >= count) continue;
        // A row without direction may hold NaN: chosen away, not multiplied away.
        const bool edge = row != column && inverse[row] > 0.f && inverse[column] > 0.f;
        const float cosine = edge ? product[i][j] * inverse[row] * inverse[column] : 0.f;
        affinity[(offset + row) * count + column] = cosine;
        sums[i] += cosine;
      }
  }
  for (int i = 0; i < 4; ++i) {  // the sixteen threads of a row are half a warp
    for (int step = 8; step > 0; step /= 2) sums[i] += __shfl_xor_sync(kEveryLane, sums[i], step);
    if (across == 0 && first + down + i < count) degrees[offset + first + down + i] = sums[i];
  }
}

}  // namespace spectral::device
