// Gather, cosine and degree in one pass: rows of the feature store in, S without its diagonal and its row sums out.
#pragma once
#include "primitives.cuh"

namespace spectral::device {

constexpr int kTile = 64;  // rows and columns of S a block makes at a time
constexpr int kGraphThreads = 256;

// A stage: kTile rows of the features, 64 bytes of each, 16 by each thread; in shared memory as floats.
template <class T>
struct Stage {
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kDepth = 4 * kVector;   // columns
  static constexpr int kPitch = kDepth + 4;    // floats from row to row: eight rows' vectors lie in different banks
  static constexpr int kFloats = kTile * kPitch;
  static constexpr int kBytes = 4 * kFloats * static_cast<int>(sizeof(float));  // of two stages of two operands
};

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

// One row of a tile as one thread reads it: ALIGNED vectors, or number by number where rows are not laid out for that.
template <class T, bool ALIGNED>
class Reader {
 public:
  using S = Stage<T>;
  __device__ Reader(const T* features, const long long* indices, const float* scale, int first, int count, int width,
                    long long stride)
      : width_(width) {
    const int row = first + threadIdx.x / 4;
    inside_ = row < count;
    source_ = inside_ ? features + indices[row] * stride : features;
    scale_ = inside_ ? scale[row] : 0.f;
  }

  // Takes this thread's part of the columns from `first` on.
  __device__ void load(int first) {
    const int column = first + threadIdx.x % 4 * S::kVector;
    if constexpr (ALIGNED) {
      raw_ = inside_ && column < width_ ? sixteen_at(source_ + column) : Sixteen{};
    } else {
      for (int k = 0; k < S::kVector; ++k) number_[k] = inside_ && column + k < width_ ? widen(source_[column + k]) : 0.f;
    }
  }

  // Scales it into the stage. Only here is a load waited for.
  __device__ void store(float* stage) {
    if constexpr (ALIGNED) widen(raw_, number_);
    float* to = stage + threadIdx.x / 4 * S::kPitch + threadIdx.x % 4 * S::kVector;
    for (int k = 0; k < S::kVector; ++k) number_[k] *= scale_;
    for (int k = 0; k < S::kVector; k += 4) put_four(number_ + k, to + k);
  }

 private:
  const T* source_;
  float scale_, number_[S::kVector];
  Sixteen raw_;
  int width_;
  bool inside_;
};

// product[i][j] += the stage's part of rows down + 16 i of the left and across + 16 j of the right operand, column by column.
template <class T>
__device__ inline void multiply(const float* left, const float* right, int down, int across, float (&product)[4][4]) {
  using S = Stage<T>;
  for (int c = 0; c < S::kDepth; c += 4) {
    float a[4][4], b[4][4];
    for (int i = 0; i < 4; ++i) {
      widen(sixteen_at(left + (down + 16 * i) * S::kPitch + c), a[i]);
      widen(sixteen_at(right + (across + 16 * i) * S::kPitch + c), b[i]);
    }
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) product[i][j] += a[i][k] * b[j][k];
  }
}

// A stripe of kTile rows of S (blockIdx.x) of one member (blockIdx.y) and their sums. Each of 256 threads makes 4 × 4 entries of
// a tile. S is symmetric to the last bit, and sums are taken in a fixed order. Two stages take turns: while one is multiplied
// the next is on its way to registers, where it has to pass to be scaled, so that no asynchronous copy would help. One barrier
// a stage. Shared memory: Stage<T>::kBytes.
template <class T, bool ALIGNED>
__global__ void __launch_bounds__(kGraphThreads, 2)
    cosine_graph(const T* features, const long long* all_indices, const float* all_scale, const float* all_inverse,
                 float* affinity, float* degrees, int count, int width, long long stride) {
  SPECTRAL_SHARED;
  using S = Stage<T>;
  const long long member = blockIdx.y, offset = member * count;
  const long long* indices = all_indices + offset;
  const float *scale = all_scale + offset, *inverse = all_inverse + offset;
  const int first = blockIdx.x * kTile, across = threadIdx.x % 16, down = threadIdx.x / 16;
  float sums[4] = {0.f, 0.f, 0.f, 0.f};
  for (int other = 0; other < count; other += kTile) {
    float product[4][4] = {};
    Reader<T, ALIGNED> left(features, indices, scale, first, count, width, stride);
    Reader<T, ALIGNED> right(features, indices, scale, other, count, width, stride);
    float* stage = spectral_shared;
    float* spare = stage + 2 * S::kFloats;
    left.load(0), right.load(0);
    left.store(stage), right.store(stage + S::kFloats);
    __syncthreads();
    for (int k = 0; k < width; k += S::kDepth) {
      const bool more = k + S::kDepth < width;
      if (more) left.load(k + S::kDepth), right.load(k + S::kDepth);
      multiply<T>(stage, stage + S::kFloats, down, across, product);
      if (more) left.store(spare), right.store(spare + S::kFloats);
      __syncthreads();
      float* next = spare;
      spare = stage, stage = next;
    }
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) {
        const int row = first + down + 16 * i, column = other + across + 16 * j;
        if (row >= count || column >= count) continue;
        // A row without direction may hold NaN: chosen away, not multiplied away.
        const bool edge = row != column && inverse[row] > 0.f && inverse[column] > 0.f;
        const float cosine = edge ? product[i][j] * (inverse[row] * inverse[column]) : 0.f;
        affinity[(offset + row) * count + column] = cosine;
        sums[i] += cosine;
      }
  }
  for (int i = 0; i < 4; ++i) {  // the sixteen threads of a row are half a warp
    for (int step = 8; step > 0; step /= 2) sums[i] += __shfl_xor_sync(kEveryLane, sums[i], step);
    const int row = first + down + 16 * i;
    if (across == 0 && row < count) degrees[offset + row] = sums[i];
  }
}

}  // namespace spectral::device
