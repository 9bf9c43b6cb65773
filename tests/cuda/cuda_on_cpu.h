// Runs unmodified CUDA __global__ functions on the CPU, for correctness only. Include it before the .cuh under test.
//
// Default: one fiber for each CUDA thread, blocks one after another, ready threads picked in a seeded random order, shared
// memory poisoned with NaN. -DCUDA_ON_CPU_THREADS: one OS thread for each CUDA thread, for ThreadSanitizer (which reports a
// data race between barriers) and AddressSanitizer (which reports overruns of shared and global memory).
// Not modelled: tensor cores, asynchronous copies, the memory model, the scheduling of warps. x86-64 only.
#pragma once
#define SPECTRAL_ON_CPU
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>
#ifdef CUDA_ON_CPU_THREADS
#include <barrier>
#include <thread>
#define CUDA_ON_CPU_LOCAL thread_local
#else
#define CUDA_ON_CPU_LOCAL
#endif

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline CUDA_ON_CPU_LOCAL uint3 threadIdx, blockIdx;
inline CUDA_ON_CPU_LOCAL dim3 blockDim, gridDim;

namespace cuda_on_cpu {

constexpr size_t kMostShared = 227 * 1024;
constexpr int kLanes = 32;
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};
inline uint64_t seed = 0;  // 0: threads and blocks in order
struct Block;
inline CUDA_ON_CPU_LOCAL Block* block = nullptr;
inline CUDA_ON_CPU_LOCAL int thread = 0;  // its number in the block

struct Release {
  void operator()(void* memory) const { std::free(memory); }
};

#ifndef CUDA_ON_CPU_THREADS
extern "C" void cuda_on_cpu_switch(void** save, void* load);
asm(R"(
.text
.globl cuda_on_cpu_switch
.type cuda_on_cpu_switch,@function
cuda_on_cpu_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");
constexpr size_t kStack = 64 * 1024;
enum class State : uint8_t { ready, at_block, at_warp, done };
struct Fiber {
  void* stack;
  State state;
  unsigned mask;
  int kind;  // of the warp primitive it waits in
};
#endif

struct Block {
  int threads;
  std::vector<uint64_t> exchanged;  // what each thread hands to a warp primitive
  std::unique_ptr<void, Release> shared;
  size_t shared_bytes;
  uint3 id;
  dim3 shape, grid;
  const std::function<void()>* body;
#ifdef CUDA_ON_CPU_THREADS
  std::unique_ptr<std::barrier<>> all;
  std::vector<std::unique_ptr<std::barrier<>>> warp;
#else
  std::vector<Fiber> fibers;
  std::unique_ptr<char[]> stacks;
  void* scheduler = nullptr;
  std::mt19937_64 order;
#endif
};

inline void become(Block& b, int t) {
  block = &b, thread = t;
  threadIdx = {t % b.shape.x, t / b.shape.x % b.shape.y, t / (b.shape.x * b.shape.y)};
  blockIdx = b.id, blockDim = b.shape, gridDim = b.grid;
}

#ifdef CUDA_ON_CPU_THREADS
inline void run(Block& b) {
  std::vector<std::thread> threads;
  for (int t = 0; t < b.threads; ++t) threads.emplace_back([&b, t] { become(b, t), (*b.body)(); });
  for (auto& each : threads) each.join();
}
inline void wait_for_block() { block->all->arrive_and_wait(); }
inline void wait_for_warp(unsigned mask, int) {
  if (mask != ~0u) throw Fault("partial masks need the fibers");
  block->warp[thread / kLanes]->arrive_and_wait();
}
inline void prepare(Block& b) {
  b.all = std::make_unique<std::barrier<>>(b.threads);
  for (int w = 0; w * kLanes < b.threads; ++w)
    b.warp.push_back(std::make_unique<std::barrier<>>(std::min(kLanes, b.threads - w * kLanes)));
}
#else
inline void yield() {
  Block* b = block;
  const int t = thread;
  cuda_on_cpu_switch(&b->fibers[t].stack, b->scheduler);
}
inline void enter() {
  Block* b = block;
  const int t = thread;
  (*b->body)();
  b->fibers[t].state = State::done;
  cuda_on_cpu_switch(&b->fibers[t].stack, b->scheduler);
  __builtin_unreachable();
}
inline void prepare(Block& b) {
  b.fibers.resize(b.threads);
  b.stacks.reset(new char[kStack * b.threads]);
  b.order.seed(seed);
}
// Frees the warps whose every named lane waits in the same primitive.
inline bool release_warps(Block& b) {
  bool freed = false;
  for (int base = 0; base < b.threads; base += kLanes) {
    const int lanes = std::min(kLanes, b.threads - base);
    for (int l = 0; l < lanes; ++l) {
      const Fiber& first = b.fibers[base + l];
      if (first.state != State::at_warp) continue;
      if (!(first.mask >> l & 1)) throw Fault("a lane calls a warp primitive with a mask that leaves it out");
      bool all = true;
      for (int k = 0; k < lanes; ++k)
        if (first.mask >> k & 1) {
          const Fiber& other = b.fibers[base + k];
          if (other.state == State::done) throw Fault("a lane named in the mask has left the kernel");
          all &= other.state == State::at_warp && other.mask == first.mask && other.kind == first.kind;
        }
      if (!all) continue;
      const unsigned mask = first.mask;
      for (int k = 0; k < lanes; ++k)
        if (mask >> k & 1) b.fibers[base + k].state = State::ready;
      freed = true;
    }
  }
  return freed;
}
inline void run(Block& b) {
  std::vector<int> order(b.threads);
  for (int t = 0; t < b.threads; ++t) {
    order[t] = t;
    void** stack = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(b.stacks.get() + (t + 1) * kStack) & ~uintptr_t{15});
    *--stack = nullptr;
    *--stack = reinterpret_cast<void*>(&enter);
    for (int i = 0; i < 6; ++i) *--stack = nullptr;
    b.fibers[t] = {stack, State::ready, 0, 0};
  }
  for (;;) {
    if (seed) std::shuffle(order.begin(), order.end(), b.order);
    for (int t : order)
      if (b.fibers[t].state == State::ready) become(b, t), cuda_on_cpu_switch(&b.scheduler, b.fibers[t].stack);
    int done = 0, waiting = 0;
    for (const Fiber& fiber : b.fibers) done += fiber.state == State::done, waiting += fiber.state == State::at_block;
    if (done == b.threads) return;
    if (release_warps(b)) continue;
    if (waiting == b.threads) {
      for (Fiber& fiber : b.fibers) fiber.state = State::ready;
    } else if (waiting + done == b.threads) {
      throw Fault("__syncthreads was reached by " + std::to_string(waiting) + " of " + std::to_string(b.threads) + " threads");
    } else {
      throw Fault("deadlock: threads wait at different barriers");
    }
  }
}
inline void wait_for_block() { block->fibers[thread].state = State::at_block, yield(); }
inline void wait_for_warp(unsigned mask, int kind) {
  Fiber& fiber = block->fibers[thread];
  fiber.state = State::at_warp, fiber.mask = mask, fiber.kind = kind;
  yield();
}
#endif

inline void* shared_memory() { return block->shared.get(); }

template <class V>
V exchange(unsigned mask, V value, int source, int kind) {
  static_assert(sizeof(V) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  block->exchanged[thread] = bits;
  wait_for_warp(mask, kind);
  const int from = thread / kLanes * kLanes + source;
  bits = from < block->threads ? block->exchanged[from] : 0;
  wait_for_warp(mask, kind);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 shape, size_t shared_bytes, A... arguments) {
  const int threads = shape.x * shape.y * shape.z;
  if (threads < 1 || threads > 1024) throw Fault("a block of " + std::to_string(threads) + " threads");
  if (shared_bytes > kMostShared) throw Fault("too much shared memory");
  const std::function<void()> body = [=] { kernel(static_cast<P>(arguments)...); };
  Block b{};
  b.threads = threads, b.shape = shape, b.grid = grid, b.body = &body, b.shared_bytes = shared_bytes;
  b.exchanged.resize(threads);
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, std::max<size_t>(shared_bytes, 1))) throw Fault("no memory");
  b.shared.reset(memory);
  prepare(b);
  std::vector<uint3> ids;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) ids.push_back({x, y, z});
  std::mt19937_64 order(seed);
  if (seed) std::shuffle(ids.begin(), ids.end(), order);
  for (const uint3& id : ids) {
    b.id = id;
    std::memset(memory, 0xFF, shared_bytes);  // NaN
    run(b);
  }
}

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::wait_for_block(); }
inline void __syncwarp() { cuda_on_cpu::wait_for_warp(~0u, 2); }
template <class V>
V __shfl_xor_sync(unsigned mask, V value, int step) {
  return cuda_on_cpu::exchange(mask, value, (cuda_on_cpu::thread % cuda_on_cpu::kLanes) ^ step, 1);
}
