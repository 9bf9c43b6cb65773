// Compiled with the flags setup.py keeps for this file; empty on other architectures.
#if defined(__x86_64__)
#define SPECTRAL_TABLE avx2_kernels
#define SPECTRAL_NAME "avx2"
#include "kernels_body.h"
#endif
