// The operators of torch.ops.spectral_sampler: schemas, argument checks and the CPU registration.
//
// Only PyTorch's stable ABI is used (torch/csrc/stable), so one binary serves every torch from the release named by
// TORCH_TARGET_VERSION in setup.py, CPU and CUDA builds alike. Kernels for another device register in their own folder with
// STABLE_TORCH_LIBRARY_IMPL, and the dispatcher picks: nothing here asks where a tensor lives.
#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <stdexcept>
#include <tuple>

#include "fiedler.h"

namespace {

using spectral::Features;
using spectral::Storage;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// at::parallel_for, with torch.set_num_threads in force; nested calls run in the thread they are made in.
class TorchThreads final : public spectral::Executor {
 public:
  void run(int64_t count, const Body& body) const override { torch::stable::parallel_for(0, count, 1, body); }
  int64_t threads() const override { return torch::stable::get_num_threads(); }
};

Features checked(const Tensor& features, const Tensor& indices) {
  STD_TORCH_CHECK(features.dim() == 2, "features must be of shape (M, d), got ", features.dim(), " dimensions");
  STD_TORCH_CHECK(indices.dim() == 2, "indices must be of shape (B, N), got ", indices.dim(), " dimensions");
  const ScalarType type = features.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16,
                  "features must be bfloat16, float32 or float16");
  STD_TORCH_CHECK(indices.scalar_type() == ScalarType::Long, "indices must be int64");
  STD_TORCH_CHECK(features.size(1) > 0, "features must have at least one column");
  STD_TORCH_CHECK(indices.size(1) > 1, "indices must name at least two rows for each member, got ", indices.size(1));
  const auto* index = static_cast<const int64_t*>(indices.data_ptr());
  for (int64_t i = 0; i < indices.numel(); ++i)  // the kernels read through these: checked here, once
    STD_TORCH_CHECK(index[i] >= 0 && index[i] < features.size(0), "indices must be in [0, ", features.size(0), "), got ",
                    index[i]);
  const Storage storage = type == ScalarType::Float  ? Storage::float32
                          : type == ScalarType::Half ? Storage::float16
                                                     : Storage::bfloat16;
  return {features.data_ptr(), storage, features.size(1), features.stride(0)};
}

// The store itself where the features of a row lie side by side, however far apart the rows are.
Tensor with_whole_rows(const Tensor& features) {
  return features.dim() == 2 && features.stride(1) == 1 ? features : torch::stable::contiguous(features);
}

using Solution = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Solution numbered(const Tensor& features, const Tensor& indices, const Tensor& numbers, int64_t form, int64_t refresh_every) {
  const Tensor rows = with_whole_rows(features), chosen = torch::stable::contiguous(indices);
  const Tensor known_by = torch::stable::contiguous(numbers);
  const Features source = checked(rows, chosen);
  STD_TORCH_CHECK(known_by.scalar_type() == ScalarType::Long && known_by.dim() == 2 && known_by.size(0) == chosen.size(0) &&
                      known_by.size(1) == chosen.size(1),
                  "numbers must be int64 of the shape of indices");
  STD_TORCH_CHECK(form >= 0 && form <= 2, "form must be 0 (automatic), 1 (dense) or 2 (factored), got ", form);
  STD_TORCH_CHECK(refresh_every >= 1, "refresh_every must be at least 1, got ", refresh_every);
  const int64_t members = chosen.size(0), size = chosen.size(1);
  const auto vector = torch::stable::new_empty(rows, {members, size}, ScalarType::Float);
  const auto value = torch::stable::new_empty(rows, {members}, ScalarType::Float);
  const auto residual = torch::stable::new_empty(rows, {members}, ScalarType::Float);
  const auto matvecs = torch::stable::new_empty(rows, {members}, ScalarType::Long);
  const auto status = torch::stable::new_empty(rows, {members}, ScalarType::Long);
  const auto gap = torch::stable::new_empty(rows, {members}, ScalarType::Float);
  const auto error = torch::stable::new_empty(rows, {members}, ScalarType::Float);
  const spectral::Results results = {
      static_cast<float*>(vector.data_ptr()), static_cast<float*>(value.data_ptr()), static_cast<float*>(residual.data_ptr()),
      static_cast<float*>(gap.data_ptr()), static_cast<float*>(error.data_ptr()), static_cast<int64_t*>(matvecs.data_ptr()),
      static_cast<int64_t*>(status.data_ptr())};
  const spectral::Options options = {static_cast<spectral::Form>(form), refresh_every,
                                     static_cast<const int64_t*>(known_by.data_ptr())};
  spectral::solve(source, static_cast<const int64_t*>(chosen.data_ptr()), members, size, options, TorchThreads(), results);
  return {vector, value, residual, matvecs, status, gap, error};
}

Solution fiedler(const Tensor& features, const Tensor& indices, int64_t form, int64_t refresh_every) {
  return numbered(features, indices, indices, form, refresh_every);
}

std::tuple<Tensor, Tensor> cosine_graph(const Tensor& features, const Tensor& indices) {
  const Tensor rows = with_whole_rows(features), chosen = torch::stable::contiguous(indices);
  const Features source = checked(rows, chosen);
  const int64_t members = chosen.size(0), size = chosen.size(1);
  const auto affinity = torch::stable::new_empty(rows, {members, size, size}, ScalarType::Float);
  const auto degrees = torch::stable::new_empty(rows, {members, size}, ScalarType::Float);
  spectral::cosine_graph(source, static_cast<const int64_t*>(chosen.data_ptr()), members, size, TorchThreads(),
                         static_cast<float*>(affinity.data_ptr()), static_cast<float*>(degrees.data_ptr()));
  return {affinity, degrees};
}

PyObject* instruction_set(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(spectral::select_kernels().name);
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
}

PyMethodDef kMethods[] = {
    {"instruction_set", instruction_set, METH_NOARGS, "The instruction set this processor was given: baseline, avx2 or avx512."},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef kModule = {PyModuleDef_HEAD_INIT, "_C", "Registers torch.ops.spectral_sampler.", -1,
                       kMethods,              nullptr, nullptr, nullptr, nullptr};

}  // namespace

STABLE_TORCH_LIBRARY(spectral_sampler, library) {
  // (vector (B, N), value (B), residual (B), num_matvecs (B), status (B), gap (B), error (B)) of the graphs of features[indices].
  library.def(
      "fiedler(Tensor features, Tensor indices, int form=0, int refresh_every=32) -> (Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor)");
  // The same, its rows known by `numbers` (B, N) to the start vector and the sign, and not by where they lie in `features`.
  library.def(
      "fiedler.numbered(Tensor features, Tensor indices, Tensor numbers, int form=0, int refresh_every=32) -> (Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor, Tensor)");
  // (affinity without its diagonal (B, N, N), degrees (B, N)).
  library.def("cosine_graph(Tensor features, Tensor indices) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(spectral_sampler, CPU, library) {
  library.impl("fiedler", TORCH_BOX(&fiedler));
  library.impl("fiedler.numbered", TORCH_BOX(&numbered));
  library.impl("cosine_graph", TORCH_BOX(&cosine_graph));
}

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C(void) { return PyModule_Create(&kModule); }
