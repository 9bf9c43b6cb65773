#include "launch.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "fiedler.cuh"
#include "graph.cuh"

namespace spectral::device {

namespace {

constexpr int kThreads = 256, kCapacity = 130, kMost = 1000;
constexpr int kRowsABlock = kThreads / kWarp;

template <class T>
int graph_of(const DeviceFeatures& features, const long long* indices, int members, int count, float* scale, float* inverse,
             float* affinity, float* degrees, cudaStream_t stream) {
  const T* data = static_cast<const T*>(features.data);
  const int rows = members * count, width = static_cast<int>(features.width);
  row_factors<T><<<(rows + kRowsABlock - 1) / kRowsABlock, kThreads, 0, stream>>>(data, indices, scale, inverse, rows, width,
                                                                                  features.stride);
  constexpr int kShared = 2 * kDepth * kPitch * sizeof(float);
  const int stripes = (count + kTile - 1) / kTile;
  for (int first = 0; first < members; first += 65535) {  // the second axis of a grid ends there
    const int part = std::min(65535, members - first);
    const long long nodes = static_cast<long long>(first) * count;
    cosine_graph<T><<<dim3(stripes, part), kGraphThreads, kShared, stream>>>(
        data, indices + nodes, scale + nodes, inverse + nodes, affinity + nodes * count, degrees + nodes, count, width,
        features.stride);
  }
  return cudaGetLastError();
}

template <class T, bool RESIDENT>
int fiedler_of(const FiedlerProblem& problem, const Workspace& workspace, cudaStream_t stream) {
  const auto kernel = fiedler<T, RESIDENT>;
  if (workspace.shared > 48 * 1024) {  // more has to be asked for
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, workspace.shared);
    if (error != cudaSuccess) return error;
  }
  kernel<<<workspace.blocks, kThreads, workspace.shared, stream>>>(problem);
  return cudaGetLastError();
}

long long bytes_of(int count, int capacity, int entry) {
  return fiedler_floats(count, capacity) * static_cast<long long>(sizeof(float)) + static_cast<long long>(entry) * count * count;
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
  const int capacity = std::min(kCapacity, count + 2);
  const bool fits = bytes_of(count, capacity, 4) <= limit;
  StorageOfS storage = wanted == StorageOfS::automatic ? (fits ? StorageOfS::shared : StorageOfS::global) : wanted;
  const int entry = storage == StorageOfS::shared ? 4 : storage == StorageOfS::shared_half ? 2 : 0;
  const long long shared = bytes_of(count, capacity, entry);
  if (shared > limit) return cudaErrorInvalidValue;
  const int side_by_side = std::clamp(static_cast<int>(per_processor / (shared + 1024)), 1, 2048 / kThreads);
  *workspace = {std::min(members, processors * side_by_side), capacity, static_cast<int>(shared), storage};
  return cudaSuccess;
}

int launch_graph(const DeviceFeatures& features, const long long* indices, int members, int count, float* scale, float* inverse,
                 float* affinity, float* degrees, void* stream) {
  const auto of = features.half ? graph_of<unsigned short> : graph_of<float>;
  return of(features, indices, members, count, scale, inverse, affinity, degrees, static_cast<cudaStream_t>(stream));
}

int launch_fiedler(const long long* indices, const float* affinity, const float* inverse, int members, int count,
                   const Workspace& workspace, float* basis, const DeviceResults& results, void* stream) {
  const FiedlerProblem problem = {indices,          affinity,    inverse,         basis,          results.vector, results.value,
                                  results.residual, results.gap, results.matvecs, results.status, members,        count,
                                  workspace.capacity, kMost};
  const auto queue = static_cast<cudaStream_t>(stream);
  switch (workspace.storage) {
    case StorageOfS::shared: return fiedler_of<float, true>(problem, workspace, queue);
    case StorageOfS::shared_half: return fiedler_of<unsigned short, true>(problem, workspace, queue);
    default: return fiedler_of<float, false>(problem, workspace, queue);
  }
}

const char* error_name(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace spectral::device
