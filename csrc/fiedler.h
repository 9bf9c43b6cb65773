// From indices into a feature store to Fiedler vectors, on the CPU. No torch header is needed on this side.
#pragma once
#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/support.h"
#include "solver_limits.h"

namespace spectral {

struct Features {
  const void* data;  // (M, d), rows contiguous
  Storage storage;
  int64_t width;   // d
  int64_t stride;  // elements from one row to the next
};

enum class Form : int64_t { automatic = 0, dense = 1, factored = 2 };

struct Options {
  Form form = Form::automatic;
  int64_t refresh_every = 32;  // factored form: see FactoredLaplacian
  const int64_t* numbers = nullptr;  // (members, size) what the start vector and the sign know a row by; null: its index
};

// Results for member b of B begin at vector + b · size and at element b of the rest, as in spectral_sampler.FiedlerResult.
struct Results {
  float *vector, *value, *residual, *gap, *error;
  int64_t *matvecs, *status;
};

// Whether the graph of `size` rows of `width` features is solved with S in memory unless asked otherwise.
bool dense_is_faster(int64_t size, int64_t width);

// Solves the graphs of `indices` (members, size). A member with a zero or non-finite row gets zeros and kInvalid. The bits of
// a member depend on its rows and their numbers alone, not on its neighbours or the number of threads.
void solve(const Features& features, const int64_t* indices, int64_t members, int64_t size, const Options& options,
           const Executor& executor, const Results& results);

// S without its diagonal (members, size, size) and its row sums (members, size); zeros where a row is invalid.
void cosine_graph(const Features& features, const int64_t* indices, int64_t members, int64_t size, const Executor& executor,
                  float* affinity, float* degrees);

}  // namespace spectral
