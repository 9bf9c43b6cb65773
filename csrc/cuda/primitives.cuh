// Sums over warps and blocks. Free of host and torch headers: nvcc, NVRTC (tests/test_nvrtc.py) and
// tests/cuda/cuda_on_cpu.h compile this text. fp16 needs CUDA's own cuda_fp16.h, which NVRTC has to be shown by -I.
#pragma once
#include "../solver_limits.h"
#ifdef SPECTRAL_ON_CPU
#define SPECTRAL_SHARED float* spectral_shared = static_cast<float*>(cuda_on_cpu::shared_memory())
#else
#include <cuda_fp16.h>
#define SPECTRAL_SHARED extern __shared__ __align__(16) float spectral_shared[]
#endif

namespace spectral::device {

constexpr unsigned kEveryLane = 0xffffffffu;
constexpr int kWarp = 32;
constexpr int kWarps = 32;       // most warps of a block
constexpr int kScratch = 2 * kWarps;  // floats a reduction needs
constexpr float kTiny = 1e-30f;  // far below anything that matters in units of the norm of L, far above the smallest float

#ifdef SPECTRAL_ON_CPU
__device__ inline float quotient(float a, float b) { return a / b; }
__device__ inline float from_half(unsigned short bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
__device__ inline unsigned short to_half(float value) { return std::bit_cast<unsigned short>(static_cast<_Float16>(value)); }
#else
// Good to two ulp, in a quarter of the time that rounding correctly takes.
__device__ inline float quotient(float a, float b) { return __fdividef(a, b); }
__device__ inline float from_half(unsigned short bits) { return __half2float(__ushort_as_half(bits)); }
__device__ inline unsigned short to_half(float value) { return __half_as_ushort(__float2half_rn(value)); }
#endif

// Numbers as they lie in memory: float, or unsigned short for the bits of an fp16 number.
__device__ inline float widen(float value) { return value; }
__device__ inline float widen(unsigned short value) { return from_half(value); }
__device__ inline void narrow(float value, float* to) { *to = value; }
__device__ inline void narrow(float value, unsigned short* to) { *to = to_half(value); }

// Sixteen bytes at a time, from and to addresses that are multiples of sixteen.
struct alignas(16) Sixteen {
  unsigned word[4];
};
template <class T>
__device__ inline Sixteen sixteen_at(const T* from) { return *reinterpret_cast<const Sixteen*>(from); }
__device__ inline void widen(const Sixteen& raw, float (&to)[4]) {
  for (int k = 0; k < 4; ++k) to[k] = __uint_as_float(raw.word[k]);
}
__device__ inline void widen(const Sixteen& raw, float (&to)[8]) {
  for (int k = 0; k < 8; ++k) to[k] = from_half(static_cast<unsigned short>(raw.word[k / 2] >> (16 * (k % 2))));
}
__device__ inline void put_four(const float* four, float* to) {
  Sixteen raw;
  for (int k = 0; k < 4; ++k) raw.word[k] = __float_as_uint(four[k]);
  *reinterpret_cast<Sixteen*>(to) = raw;
}

__device__ inline float infinity() { return __uint_as_float(0x7f800000u); }  // NVRTC has no INFINITY

__device__ inline int lane() { return threadIdx.x & (kWarp - 1); }
__device__ inline int warp() { return threadIdx.x / kWarp; }
__device__ inline int warps() { return blockDim.x / kWarp; }

__device__ inline float warp_sum(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kEveryLane, value, step);
  return value;
}

__device__ inline float warp_max(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(kEveryLane, value, step));
  return value;
}

// Eight sums over a warp in 9 shuffles: a lane ends with the sum of value[place], place = 0 … 7 by bits 2 to 4 of its number.
__device__ inline float warp_sums(float (&value)[8], int* place) {
  for (int half = 4; half > 0; half /= 2) {
    const int step = 4 * half;
    const bool upper = lane() & step;
    for (int k = 0; k < half; ++k) {  // each lane keeps one half of the sums and gives the other away
      const float given = upper ? value[k] : value[k + half];
      value[k] = (upper ? value[k + half] : value[k]) + __shfl_xor_sync(kEveryLane, given, step);
    }
  }
  *place = lane() / 4;
  float sum = value[0] + __shfl_xor_sync(kEveryLane, value[0], 2);
  return sum + __shfl_xor_sync(kEveryLane, sum, 1);
}

// Reductions over the block, known to every thread afterwards, at one barrier each: two halves of the scratch take turns, and
// the barrier of the turn between lies before a half is written again. Every thread must call. The barrier also publishes
// what was written to shared memory before.
class Reduction {
 public:
  __device__ explicit Reduction(float* scratch) : scratch_(scratch) {}
  __device__ float sum(float value) { return reduce<warp_sum>(value, 0.f); }
  __device__ float max(float value) { return reduce<warp_max>(value, -3e38f); }

 private:
  template <float (*Reduce)(float)>
  __device__ float reduce(float value, float neutral) {
    float* half = scratch_ + turn_ * kWarps;
    turn_ ^= 1;
    value = Reduce(value);
    if (lane() == 0) half[warp()] = value;
    __syncthreads();
    return Reduce(lane() < warps() ? half[lane()] : neutral);
  }

  float* scratch_;  // kScratch floats of shared memory
  int turn_ = 0;
};

}  // namespace spectral::device
