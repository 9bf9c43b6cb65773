// Solves one problem with the CUDA kernels on the CPU:  run_fiedler problem result [seed]
//
// problem: 11 int64 (members, count, rows, width, half features, threads, grid, capacity, storage, most steps, pitch of S),
// indices, features.
// storage: 0 S as float in shared memory, 1 as fp16 in shared memory, 2 as float in global memory, 3 S and the basis in shared
// memory.
// result: vector, value, residual, gap, error (float), matvecs, status (int64), affinity, degrees (float).
#include "cuda_on_cpu.h"

#include <cstdio>
#include <fstream>
#include <iterator>

#include "fiedler.cuh"
#include "graph.cuh"

using namespace spectral::device;
using cuda_on_cpu::launch;

template <class T>
std::vector<T> read(std::ifstream& file, size_t count) {
  std::vector<T> values(count);
  if (!file.read(reinterpret_cast<char*>(values.data()), count * sizeof(T))) throw std::runtime_error("the problem is short");
  return values;
}

template <class T>
void write(std::ofstream& file, const std::vector<T>& values) {
  file.write(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

template <class T>
void graph(const std::vector<T>& features, const std::vector<long long>& indices, int members, int count, int width, int threads,
           std::vector<float>& scale, std::vector<float>& inverse, std::vector<float>& affinity, std::vector<float>& degrees) {
  const int rows = members * count, warps = threads / 32;
  launch(row_factors<T>, (rows + warps - 1) / warps, threads, 0, features.data(), indices.data(), scale.data(), inverse.data(),
         rows, width, static_cast<long long>(width));
  const auto kernel = width % Stage<T>::kVector == 0 ? cosine_graph<T, true> : cosine_graph<T, false>;
  launch(kernel, dim3((count + kTile - 1) / kTile, members), kGraphThreads, Stage<T>::kBytes, features.data(), indices.data(), scale.data(), inverse.data(), affinity.data(), degrees.data(), count, width,
         static_cast<long long>(width));
}

int main(int argc, char** argv) try {
  if (argc > 3) cuda_on_cpu::seed = std::strtoull(argv[3], nullptr, 10);
  std::ifstream file(argv[1], std::ios::binary);
  const auto h = read<int64_t>(file, 11);
  const int members = h[0], count = h[1], width = h[3], threads = h[5], grid = h[6], capacity = h[7], storage = h[8], most = h[9],
            pitch = h[10];
  const auto indices = read<long long>(file, static_cast<size_t>(members) * count);
  const size_t nodes = indices.size();
  const float poison = std::nanf("");
  std::vector<float> scale(nodes, poison), inverse(nodes, poison), affinity(nodes * count, poison), degrees(nodes, poison);
  if (h[4]) graph(read<unsigned short>(file, h[2] * width), indices, members, count, width, threads, scale, inverse, affinity, degrees);
  else graph(read<float>(file, h[2] * width), indices, members, count, width, threads, scale, inverse, affinity, degrees);
  std::vector<float> basis(static_cast<size_t>(grid) * capacity * count, poison), vector(nodes, poison);
  std::vector<float> value(members, poison), residual(value), gap(value), error(value);
  std::vector<long long> matvecs(members, -1), status(members, -1);
  // As another maker of S may leave it: rows apart, and poison between them.
  std::vector<float> apart(static_cast<size_t>(members) * pitch * pitch, poison), own(static_cast<size_t>(members) * pitch, poison);
  for (size_t row = 0; row < nodes; ++row) {
    const size_t place = row / count * pitch + row % count;
    std::copy_n(affinity.data() + row * count, count, apart.data() + place * pitch);
    own[place] = inverse[row];
  }
  const FiedlerProblem problem = {indices.data(),  apart.data(),    own.data(),     storage == 3 ? nullptr : basis.data(),
                                  vector.data(),   value.data(),    residual.data(), gap.data(),
                                  error.data(),    matvecs.data(),  status.data(),  members,
                                  count,           pitch,           capacity,        most};
  const size_t room = fiedler_floats(count, capacity) * sizeof(float), square = static_cast<size_t>(count) * count;
  const size_t rows = static_cast<size_t>(capacity) * count * sizeof(float);
  if (storage == 0) launch(fiedler<float, true, false>, grid, threads, room + square * sizeof(float), problem);
  if (storage == 1) launch(fiedler<unsigned short, true, false>, grid, threads, room + square * sizeof(short), problem);
  if (storage == 2) launch(fiedler<float, false, false>, grid, threads, room, problem);
  if (storage == 3) launch(fiedler<float, true, true>, grid, threads, room + rows + square * sizeof(float), problem);
  std::ofstream out(argv[2], std::ios::binary);
  write(out, vector), write(out, value), write(out, residual), write(out, gap), write(out, error), write(out, matvecs), write(out, status);
  write(out, affinity), write(out, degrees);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 3;
}
