// Compiled for the oldest processor of the architecture: SSE2 on x86-64, NEON on arm64.
#define SPECTRAL_TABLE baseline_kernels
#define SPECTRAL_NAME "baseline"
#include "kernels_body.h"
