// Plain interface between the torch-facing C++ and the kernels: no torch header on the CUDA side, no CUDA header on torch's.
#pragma once
#include <cstdint>

namespace spectral::device {

struct DeviceFeatures {
  const void* data;  // (rows, width), float or fp16
  bool half;
  int64_t width, stride;
};

struct DeviceResults {
  float *vector, *value, *residual, *gap, *error;
  long long *matvecs, *status;
};

enum class StorageOfS : int { automatic = 0, shared = 1, shared_half = 2, global = 3 };

struct Workspace {
  int blocks;       // of the persistent solver
  int capacity;     // basis rows of each
  int shared;       // bytes of shared memory a block takes
  StorageOfS storage;
  int64_t basis;    // floats of device memory each block's basis takes; 0 where it lies in shared memory
};

// Which S a block can keep in shared memory: N ≤ 237 in fp32 and ≤ 334 in fp16 on sm_90 and sm_100, 200 and 282 on sm_80.
// What the solver needs on the current device; 0, or a cudaError_t.
int plan(int members, int count, StorageOfS wanted, Workspace* workspace);

// S without its diagonal (members, count, count) and its row sums; scale, inverse: room for members · count floats.
int launch_graph(const DeviceFeatures& features, const long long* indices, int members, int count, float* scale, float* inverse,
                 float* affinity, float* degrees, void* stream);

// Fiedler pairs from S (members, pitch, pitch) and inverse (members, pitch), of which the first `count` rows and columns are
// read; basis: room for blocks · workspace.basis floats.
int launch_fiedler(const long long* indices, const float* affinity, const float* inverse, int members, int count, int pitch,
                   const Workspace& workspace, float* basis, const DeviceResults& results, void* stream);

const char* error_name(int error);

}  // namespace spectral::device
