// Memory and threads, as the kernels see them.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>

namespace spectral {

// Uninitialised memory on cache-line boundaries that only ever grows, so that a thread reuses it from member to member.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  T* reserve(int64_t count) {
    if (count > capacity_) {
      std::free(data_);
      capacity_ = 0;
      const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
      data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
      if (data_ == nullptr) throw std::bad_alloc();
      capacity_ = count;
    }
    return data_;
  }
  T* data() { return data_; }
  const T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  int64_t capacity_ = 0;
};

// Runs body(first, last) over pieces of [0, count). How the range is cut is up to the executor, so a body may only write what
// belongs to its items: then results have the same bits for every number of threads.
class Executor {
 public:
  using Body = std::function<void(int64_t, int64_t)>;
  virtual ~Executor() = default;
  virtual void run(int64_t count, const Body& body) const = 0;
  virtual int64_t threads() const { return 1; }  // that may run at a time
};

class Serial final : public Executor {
 public:
  void run(int64_t count, const Body& body) const override { body(0, count); }
};

}  // namespace spectral
