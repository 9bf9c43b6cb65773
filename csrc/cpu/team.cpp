#include "team.h"

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace spectral {
namespace {

constexpr int kSpins = 1000;  // some 20 µs: about the serial work between two loops, and less than to fall asleep and wake

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns once the value is another than `known`.
template <class T>
void await_change(const std::atomic<T>& value, T known) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != known) return;
    pause();
  }
  value.wait(known, std::memory_order_acquire);
}

// The first error of several threads.
class Failure {
 public:
  void keep_current() {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (!error_) error_ = std::current_exception();
  }
  void rethrow() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

class Team {
 public:
  Team(int64_t members, int64_t seats, const SolveMember& solve)
      : members_(members), solve_(solve), unsolved_(members), loops_(static_cast<std::size_t>(seats)) {}

  // What every thread does, for as long as a member is unsolved.
  void work() {
    const int64_t seat = taken_seats_.fetch_add(1);
    if (seat < static_cast<int64_t>(loops_.size())) lead(seat);
    for (;;) {
      const int seen = news_.load(std::memory_order_acquire);  // first: what comes later is then not slept through
      if (unsolved_.load(std::memory_order_acquire) == 0) return;
      bool helped = false;
      for (Loop& loop : loops_)
        while (help(loop)) helped = true;
      if (!helped) await_change(news_, seen);
    }
  }
  void rethrow() { failure_.rethrow(); }

 private:
  // The loop that the member of a seat is in.
  struct alignas(64) Loop {
    std::atomic<int64_t> untaken{0};  // pieces; the next to be taken is the last of them
    std::atomic<int64_t> unfinished{0};
    const Executor::Body* body = nullptr;
    Failure failure;
  };

  class Shared final : public Executor {
   public:
    Shared(Team& team, Loop& loop) : team_(team), loop_(loop) {}
    void run(int64_t count, const Body& body) const override { team_.share(loop_, count, body); }

   private:
    Team& team_;
    Loop& loop_;
  };

  void lead(int64_t seat) {
    const Shared executor(*this, loops_[static_cast<std::size_t>(seat)]);
    for (int64_t member; (member = begun_.fetch_add(1)) < members_;) {
      try {
        solve_(seat, member, executor);
      } catch (...) {
        failure_.keep_current();
      }
      if (unsolved_.fetch_sub(1) == 1) announce();
    }
  }

  void share(Loop& loop, int64_t count, const Executor::Body& body) {
    if (count == 1) return body(0, 1);
    loop.body = &body;
    loop.unfinished.store(count, std::memory_order_relaxed);
    loop.untaken.store(count, std::memory_order_release);
    announce();
    while (help(loop)) continue;
    for (int64_t left; (left = loop.unfinished.load(std::memory_order_acquire)) > 0;) await_change(loop.unfinished, left);
    loop.failure.rethrow();
  }

  // Does a piece, if one is left. Until it is finished the loop cannot end, nor another begin in its place.
  bool help(Loop& loop) {
    int64_t left = loop.untaken.load(std::memory_order_relaxed);
    do {
      if (left == 0) return false;
    } while (!loop.untaken.compare_exchange_weak(left, left - 1, std::memory_order_acquire, std::memory_order_relaxed));
    try {
      (*loop.body)(left - 1, left);
    } catch (...) {
      loop.failure.keep_current();
    }
    if (loop.unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) loop.unfinished.notify_one();
    return true;
  }

  void announce() {
    news_.fetch_add(1, std::memory_order_release);
    news_.notify_all();
  }

  const int64_t members_;
  const SolveMember& solve_;  // of the caller, who is there until all members are solved
  std::atomic<int64_t> taken_seats_{0}, begun_{0}, unsolved_;
  std::atomic<int> news_{0};  // changes when there is a piece to take, and when all is done
  std::vector<Loop> loops_;
  Failure failure_;
};

}  // namespace

void solve_together(int64_t members, int64_t seats, int64_t threads, const SolveMember& solve) {
  // Threads may come late and find all done, or nobody there any more: they own what they look at.
  const auto team = std::make_shared<Team>(members, seats, solve);
  try {
    for (int64_t t = 1; t < threads; ++t) std::thread([team] { team->work(); }).detach();
  } catch (const std::system_error&) {  // the system has no more: those that there are will do
  }
  team->work();
  team->rethrow();
}

}  // namespace spectral
