#include "launch.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "fiedler.cuh"
#include "graph.cuh"

namespace spectral::device {

namespace {

constexpr int kThreads = 256, kCapacity = 130;
constexpr int kFewest = 40;  // basis rows that shared memory has to have room for: realistic searches seldom restart then
constexpr int kRowsABlock = kThreads / kWarp;

template <class T>
int graph_of(const DeviceFeatures& features, const long long* indices, int members, int count, float* scale, float* inverse,
             float* affinity, float* degrees, cudaStream_t stream) {
  const T* data = static_cast<const T*>(features.data);
  const int rows = members * count, width = static_cast<int>(features.width);
  row_factors<T><<<(rows + kRowsABlock - 1) / kRowsABlock, kThreads, 0, stream>>>(data, indices, scale, inverse, rows, width,
                                                                                  features.stride);
  constexpr int kVector = Stage<T>::kVector;
  const bool aligned =
      width % kVector == 0 && features.stride % kVector == 0 && reinterpret_cast<uintptr_t>(features.data) % 16 == 0;
  const auto kernel = aligned ? cosine_graph<T, true> : cosine_graph<T, false>;
  const int stripes = (count + kTile - 1) / kTile;
  for (int first = 0; first < members; first += 65535) {  // the second axis of a grid ends there
    const int part = std::min(65535, members - first);
    const long long nodes = static_cast<long long>(first) * count;
    kernel<<<dim3(stripes, part), kGraphThreads, Stage<T>::kBytes, stream>>>(
        data, indices + nodes, scale + nodes, inverse + nodes, affinity + nodes * count, degrees + nodes, count, width,
        features.stride);
  }
  return cudaGetLastError();
}

using Solver = void (*)(FiedlerProblem);

Solver solver_of(const Workspace& workspace) {
  switch (workspace.storage) {
    case StorageOfS::shared: return workspace.basis ? fiedler<float, true, false> : fiedler<float, true, true>;
    case StorageOfS::shared_half: return fiedler<unsigned short, true, false>;
    default: return fiedler<float, false, false>;
  }
}

long long bytes_of(int count, int capacity, int entry) {
  return fiedler_floats(count, capacity) * static_cast<long long>(sizeof(float)) + static_cast<long long>(entry) * count * count;
}

// Basis rows that fit beside fp32 S into `room` bytes of shared memory, at most `most`.
int resident_rows(int count, int most, long long room) {
  const long long each = bytes_of(count, 1, 0) - bytes_of(count, 0, 0) + 4LL * count;
  return static_cast<int>(std::clamp((room - bytes_of(count, 0, 4)) / each, 0LL, static_cast<long long>(most)));
}

}  // namespace

int plan(int members, int count, StorageOfS wanted, Workspace* workspace) {
  int device = 0, processors = 0, limit = 0, per_processor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&per_processor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  if (error != cudaSuccess) return error;
  int capacity = std::min(kCapacity, count + 2);
  const bool fits = bytes_of(count, capacity, 4) <= limit;
  StorageOfS storage = wanted == StorageOfS::automatic ? (fits ? StorageOfS::shared : StorageOfS::global) : wanted;
  const int entry = storage == StorageOfS::shared ? 4 : storage == StorageOfS::shared_half ? 2 : 0;
  long long shared = bytes_of(count, capacity, entry), basis = static_cast<long long>(capacity) * count;
  if (shared > limit) return cudaErrorInvalidValue;
  if (storage == StorageOfS::shared) {
    // The basis too, for two blocks a multiprocessor or else for one, if it is then long enough. 1 KiB a block is the system's.
    const int fewest = std::min(kFewest, capacity);
    const int beside = resident_rows(count, capacity, per_processor / 2 - 1024), alone = resident_rows(count, capacity, limit);
    const int rows = beside >= fewest ? beside : alone;
    if (rows >= fewest) capacity = rows, basis = 0, shared = bytes_of(count, rows, 4) + 4LL * rows * count;
  }
  *workspace = {0, capacity, static_cast<int>(shared), storage, basis};
  const Solver kernel = solver_of(*workspace);
  int side_by_side = 0;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&side_by_side, kernel, kThreads, shared);
  workspace->blocks = std::min(members, processors * std::max(side_by_side, 1));
  return error;
}

int launch_graph(const DeviceFeatures& features, const long long* indices, int members, int count, float* scale, float* inverse,
                 float* affinity, float* degrees, void* stream) {
  const auto of = features.half ? graph_of<unsigned short> : graph_of<float>;
  return of(features, indices, members, count, scale, inverse, affinity, degrees, static_cast<cudaStream_t>(stream));
}

int launch_fiedler(const long long* indices, const float* affinity, const float* inverse, int members, int count, int pitch,
                   const Workspace& workspace, float* basis, const DeviceResults& results, void* stream) {
  const FiedlerProblem problem = {indices,          affinity,        inverse,     basis,
                                  results.vector,   results.value,   results.residual, results.gap,
                                  results.error,    results.matvecs, results.status,   members,
                                  count,            pitch,           workspace.capacity, kMostSteps};
  solver_of(workspace)<<<workspace.blocks, kThreads, workspace.shared, static_cast<cudaStream_t>(stream)>>>(problem);
  return cudaGetLastError();
}

const char* error_name(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace spectral::device
