#pragma once
#include <cstdint>

namespace spectral {

// The sign of spectral_sampler.fiedler.canonical_sign: ±1 for a unit vector of `size` entries.
float canonical_sign(const float* vector, const float* degrees, const int64_t* indices, int64_t size, double norm);

// White noise in [−1, 1) from the dataset indices, as spectral_sampler.fiedler.start_vectors.
void start_vector(const int64_t* indices, int64_t size, int64_t salt, float* out);

}  // namespace spectral
