// Threads that solve large members together.
//
// Each takes members to solve; one that finds none left takes pieces of the loops of those that are still at it. Nobody waits
// for a thread that has not begun: where the system gives its core to somebody else, the others do its share, and only a piece
// that it holds is waited for. A parallel region waits for every thread at the end of every loop, a few times a Lanczos step.
#pragma once
#include <cstdint>
#include <functional>

#include "support.h"

namespace spectral {

// Solves member `member` in work space `seat`; the executor hands pieces of its loops to whoever is free.
using SolveMember = std::function<void(int64_t seat, int64_t member, const Executor& executor)>;

// Calls solve for each of `members`, for at most `seats` of them at a time, on the calling thread and `threads` − 1 new ones.
// Throws what a call has thrown, after all of them.
void solve_together(int64_t members, int64_t seats, int64_t threads, const SolveMember& solve);

}  // namespace spectral
