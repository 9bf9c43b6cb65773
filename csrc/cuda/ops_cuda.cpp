// Registers torch.ops.spectral_sampler.{fiedler, cosine_graph} for CUDA tensors, on PyTorch's stable ABI. Compiled only where
// nvcc made the kernels. Loads beside a CPU build of torch too: the one symbol of libtorch_cuda is looked up when needed.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <tuple>

#include "cuda/launch.h"

namespace {

using namespace spectral::device;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMostBytesOfS = int64_t{1} << 28;  // members are taken in parts of this much
constexpr int64_t kLargest = 1024;                   // nodes; S of more is better never formed

void* current_stream(int32_t device) {
  using Function = AOTITorchError (*)(int32_t, void**);
  static const auto get = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
  STD_TORCH_CHECK(get != nullptr, "this build of torch has no CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(get(device, &stream) == 0, "torch has no current CUDA stream");
  return stream;
}

void check(int error, const char* what) { STD_TORCH_CHECK(error == 0, what, ": ", error_name(error)); }

DeviceFeatures checked(const Tensor& features, const Tensor& indices) {
  STD_TORCH_CHECK(features.dim() == 2, "features must be of shape (M, d), got ", features.dim(), " dimensions");
  STD_TORCH_CHECK(indices.dim() == 2, "indices must be of shape (B, N), got ", indices.dim(), " dimensions");
  const ScalarType type = features.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Half, "features must be float32 or float16");
  STD_TORCH_CHECK(indices.scalar_type() == ScalarType::Long, "indices must be int64");
  STD_TORCH_CHECK(features.get_device_index() == indices.get_device_index(), "features and indices must be on one device");
  STD_TORCH_CHECK(features.size(1) > 0, "features must have at least one column");
  STD_TORCH_CHECK(indices.size(1) > 1 && indices.size(1) <= kLargest, "indices must name 2 to ", kLargest,
                  " rows for each member, got ", indices.size(1));
  return {features.data_ptr(), type == ScalarType::Half, features.size(1), features.stride(0)};
}

template <class T>
T* data(const Tensor& tensor, int64_t offset = 0) {
  return static_cast<T*>(tensor.data_ptr()) + offset;
}

// Indices on the device are not read here: `fiedler.py` checks those that come from the host, before they move.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fiedler(const Tensor& features, const Tensor& indices, int64_t form,
                                                                   int64_t) {
  STD_TORCH_CHECK(form == 0 || form == 1 || form == 3,
                  "on CUDA form must be 0 (automatic), 1 (dense) or 3 (dense, S kept as fp16), got ", form);
  const Tensor rows = torch::stable::contiguous(features), chosen = torch::stable::contiguous(indices);
  const DeviceFeatures source = checked(rows, chosen);
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  const int64_t members = chosen.size(0), count = chosen.size(1);
  const auto real = [&](std::initializer_list<int64_t> shape) { return torch::stable::new_empty(rows, shape, ScalarType::Float); };
  const auto vector = real({members, count}), value = real({members}), residual = real({members}), gap = real({members});
  const auto matvecs = torch::stable::new_empty(rows, {members}, ScalarType::Long);
  const auto status = torch::stable::new_empty(rows, {members}, ScalarType::Long);
  const int64_t part = std::clamp<int64_t>(kMostBytesOfS / (4 * count * count), 1, std::max<int64_t>(members, 1));
  void* stream = current_stream(rows.get_device_index());
  for (int64_t first = 0; first < members; first += part) {
    const int now = static_cast<int>(std::min(part, members - first)), size = static_cast<int>(count);
    Workspace workspace;
    check(plan(now, size, form == 3 ? StorageOfS::shared_half : StorageOfS::automatic, &workspace), "planning");
    const auto scale = real({now, count}), inverse = real({now, count}), degrees = real({now, count});
    const auto affinity = real({now, count, count}), basis = real({workspace.blocks, workspace.capacity, count});
    const auto* index = data<const long long>(chosen, first * count);
    check(launch_graph(source, index, now, size, data<float>(scale), data<float>(inverse), data<float>(affinity),
                       data<float>(degrees), stream),
          "cosine_graph");
    const DeviceResults results = {data<float>(vector, first * count),   data<float>(value, first),
                                   data<float>(residual, first),         data<float>(gap, first),
                                   data<long long>(matvecs, first),      data<long long>(status, first)};
    check(launch_fiedler(index, data<float>(affinity), data<float>(inverse), now, size, workspace, data<float>(basis), results,
                         stream),
          "fiedler");
  }
  return {vector, value, residual, matvecs, status, gap};
}

std::tuple<Tensor, Tensor> cosine_graph(const Tensor& features, const Tensor& indices) {
  const Tensor rows = torch::stable::contiguous(features), chosen = torch::stable::contiguous(indices);
  const DeviceFeatures source = checked(rows, chosen);
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  const int64_t members = chosen.size(0), count = chosen.size(1);
  const auto real = [&](std::initializer_list<int64_t> shape) { return torch::stable::new_empty(rows, shape, ScalarType::Float); };
  const auto scale = real({members, count}), inverse = real({members, count}), degrees = real({members, count});
  const auto affinity = real({members, count, count});
  check(launch_graph(source, data<const long long>(chosen), static_cast<int>(members), static_cast<int>(count),
                     data<float>(scale), data<float>(inverse), data<float>(affinity), data<float>(degrees),
                     current_stream(rows.get_device_index())),
        "cosine_graph");
  return {affinity, degrees};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(spectral_sampler, CUDA, library) {
  library.impl("fiedler", TORCH_BOX(&fiedler));
  library.impl("cosine_graph", TORCH_BOX(&cosine_graph));
}
