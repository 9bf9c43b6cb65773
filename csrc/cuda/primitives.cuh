// Sums over warps and blocks. Free of host and torch headers: nvcc, NVRTC (tests/test_nvrtc.py) and
// tests/cuda/cuda_on_cpu.h compile this text. fp16 needs CUDA's own cuda_fp16.h, which NVRTC has to be shown by -I.
#pragma once
#ifdef SPECTRAL_ON_CPU
#define SPECTRAL_SHARED float* spectral_shared = static_cast<float*>(cuda_on_cpu::shared_memory())
#else
#include <cuda_fp16.h>
#define SPECTRAL_SHARED extern __shared__ float spectral_shared[]
#endif

namespace spectral::device {

constexpr unsigned kEveryLane = 0xffffffffu;
constexpr int kWarp = 32;
constexpr int kWarps = 32;       // most warps of a block: floats a reduction needs
constexpr float kUlp = 1.1920929e-07f;
constexpr float kTiny = 1e-30f;  // far below anything that matters in units of the norm of L, far above the smallest float

#ifdef SPECTRAL_ON_CPU
__device__ inline float from_half(unsigned short bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
__device__ inline unsigned short to_half(float value) { return std::bit_cast<unsigned short>(static_cast<_Float16>(value)); }
#else
__device__ inline float from_half(unsigned short bits) { return __half2float(__ushort_as_half(bits)); }
__device__ inline unsigned short to_half(float value) { return __half_as_ushort(__float2half_rn(value)); }
#endif

// Numbers as they lie in memory: float, or unsigned short for the bits of an fp16 number.
__device__ inline float widen(float value) { return value; }
__device__ inline float widen(unsigned short value) { return from_half(value); }
__device__ inline void narrow(float value, float* to) { *to = value; }
__device__ inline void narrow(float value, unsigned short* to) { *to = to_half(value); }

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

// Over the block, known to every thread afterwards. `scratch`: kWarps floats of shared memory. Every thread must call.
template <float (*Reduce)(float)>
__device__ inline float block_reduce(float value, float neutral, float* scratch) {
  value = Reduce(value);
  if (lane() == 0) scratch[warp()] = value;
  __syncthreads();
  value = Reduce(lane() < warps() ? scratch[lane()] : neutral);
  __syncthreads();  // scratch may be written again
  return value;
}
__device__ inline float block_sum(float value, float* scratch) { return block_reduce<warp_sum>(value, 0.f, scratch); }
__device__ inline float block_max(float value, float* scratch) { return block_reduce<warp_max>(value, -3e38f, scratch); }

}  // namespace spectral::device
