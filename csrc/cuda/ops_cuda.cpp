// Registers torch.ops.spectral_sampler.{fiedler, fiedler_of_graph, cosine_graph} for CUDA tensors, on PyTorch's stable ABI.
// Compiled only where nvcc made the kernels. Loads beside a CPU build of torch too: the one symbol of libtorch_cuda is looked
// up when needed.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <tuple>

#include "launch.h"

namespace {

using namespace spectral::device;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMostBytesOfS = int64_t{1} << 28;  // members are taken in parts of this much
constexpr int64_t kLargest = 1024;                   // nodes; S of more is better never formed

// kernels/cuda.py looks the same symbol up in the same way and reports its absence before anything is solved.
void* current_stream(int32_t device) {
  using Function = AOTITorchError (*)(int32_t, void**);
  static const auto get = [] {
    // torch has loaded it, but with its symbols to itself: a name that was not linked against is not in RTLD_DEFAULT.
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return reinterpret_cast<Function>(dlsym(library ? library : RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
  }();
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

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// What a solve writes, of all members, and the workspace on the device of `like`.
class Solve {
 public:
  Solve(const Tensor& like, const Tensor& indices, int64_t form)
      : like_(like), indices_(indices), members_(indices.size(0)), count_(indices.size(1)), form_(form) {
    STD_TORCH_CHECK(form == 0 || form == 1 || form == 3,
                    "on CUDA form must be 0 (automatic), 1 (dense) or 3 (dense, S kept as fp16), got ", form);
    vector_ = real({members_, count_}), value_ = real({members_}), residual_ = real({members_});
    gap_ = real({members_}), error_ = real({members_});
    matvecs_ = torch::stable::new_empty(like, {members_}, ScalarType::Long);
    status_ = torch::stable::new_empty(like, {members_}, ScalarType::Long);
  }

  Tensor real(std::initializer_list<int64_t> shape) const { return torch::stable::new_empty(like_, shape, ScalarType::Float); }

  // Members first … first + members − 1 from their S (members, pitch, pitch).
  void run(int64_t first, int64_t members, const float* affinity, const float* inverse, int64_t pitch, void* stream) {
    const int now = static_cast<int>(members), size = static_cast<int>(count_);
    Workspace workspace;
    check(plan(now, size, form_ == 3 ? StorageOfS::shared_half : StorageOfS::automatic, &workspace), "planning");
    const auto basis = real({workspace.blocks, workspace.basis});
    const DeviceResults results = {data<float>(vector_, first * count_), data<float>(value_, first),
                                   data<float>(residual_, first),        data<float>(gap_, first),
                                   data<float>(error_, first),           data<long long>(matvecs_, first),
                                   data<long long>(status_, first)};
    check(launch_fiedler(data<const long long>(indices_, first * count_), affinity, inverse, now, size, static_cast<int>(pitch),
                         workspace, data<float>(basis), results, stream),
          "fiedler");
  }

  Outputs outputs() const { return {vector_, value_, residual_, matvecs_, status_, gap_, error_}; }

 private:
  Tensor like_, indices_, vector_, value_, residual_, gap_, error_, matvecs_, status_;
  int64_t members_, count_, form_;
};

// Indices on the device are not read here: `fiedler.py` checks those that come from the host, before they move.
Outputs fiedler(const Tensor& features, const Tensor& indices, int64_t form, int64_t) {
  const Tensor rows = torch::stable::contiguous(features), chosen = torch::stable::contiguous(indices);
  const DeviceFeatures source = checked(rows, chosen);
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  const int64_t members = chosen.size(0), count = chosen.size(1);
  const int64_t part = std::clamp<int64_t>(kMostBytesOfS / (4 * count * count), 1, std::max<int64_t>(members, 1));
  void* stream = current_stream(rows.get_device_index());
  Solve solve(rows, chosen, form);
  for (int64_t first = 0; first < members; first += part) {
    const int64_t now = std::min(part, members - first);
    const auto scale = solve.real({now, count}), inverse = solve.real({now, count}), degrees = solve.real({now, count});
    const auto affinity = solve.real({now, count, count});
    check(launch_graph(source, data<const long long>(chosen, first * count), static_cast<int>(now), static_cast<int>(count),
                       data<float>(scale), data<float>(inverse), data<float>(affinity), data<float>(degrees), stream),
          "cosine_graph");
    solve.run(first, now, data<float>(affinity), data<float>(inverse), count, stream);
  }
  return solve.outputs();
}

// The same from S made elsewhere: affinity (B, P, P) with a zero diagonal, inverse (B, P), 0 for a row without direction, P ≥ N.
Outputs fiedler_of_graph(const Tensor& affinity, const Tensor& inverse, const Tensor& indices, int64_t form) {
  const Tensor weights = torch::stable::contiguous(affinity), lengths = torch::stable::contiguous(inverse);
  const Tensor chosen = torch::stable::contiguous(indices);
  STD_TORCH_CHECK(weights.dim() == 3 && lengths.dim() == 2 && chosen.dim() == 2, "affinity must be (B, P, P), inverse (B, P)");
  const int64_t members = chosen.size(0), count = chosen.size(1), pitch = weights.size(2);
  STD_TORCH_CHECK(weights.size(0) == members && weights.size(1) == pitch && lengths.size(0) == members && lengths.size(1) == pitch,
                  "affinity must be (B, P, P) and inverse (B, P) for indices (B, N)");
  STD_TORCH_CHECK(count > 1 && count <= kLargest && count <= pitch, "indices must name 2 to ", kLargest, " rows, got ", count);
  STD_TORCH_CHECK(weights.scalar_type() == ScalarType::Float && lengths.scalar_type() == ScalarType::Float,
                  "affinity and inverse must be float32");
  STD_TORCH_CHECK(chosen.scalar_type() == ScalarType::Long, "indices must be int64");
  STD_TORCH_CHECK(weights.get_device_index() == chosen.get_device_index() && weights.get_device_index() == lengths.get_device_index(),
                  "affinity, inverse and indices must be on one device");
  const torch::stable::accelerator::DeviceGuard guard(weights.get_device_index());
  Solve solve(weights, chosen, form);
  if (members)
    solve.run(0, members, data<float>(weights), data<float>(lengths), pitch, current_stream(weights.get_device_index()));
  return solve.outputs();
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

STABLE_TORCH_LIBRARY_FRAGMENT(spectral_sampler, library) {
  library.def(
      "fiedler_of_graph(Tensor affinity, Tensor inverse, Tensor indices, int form=0) -> (Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(spectral_sampler, CUDA, library) {
  library.impl("fiedler", TORCH_BOX(&fiedler));
  library.impl("fiedler_of_graph", TORCH_BOX(&fiedler_of_graph));
  library.impl("cosine_graph", TORCH_BOX(&cosine_graph));
}
