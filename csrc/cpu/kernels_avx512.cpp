// Compiled with the flags setup.py keeps for this file; empty on other architectures.
#if defined(__x86_64__)
#define SPECTRAL_TABLE avx512_kernels
#define SPECTRAL_NAME "avx512"
#include "kernels_body.h"
#endif
