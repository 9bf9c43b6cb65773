// Solves one problem with the CUDA kernels on the CPU:  run_fiedler problem result [seed]
//
// problem: 10 int64 (members, count, rows, width, half features, threads, grid, capacity, storage, most matvecs), indices,
// features.
// storage: 0 S as float in shared memory, 1 as fp16 in shared memory, 2 as float in global memory.
// result: vector, value, residual, gap (float), matvecs, status (int64), affinity, degrees (float).
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
  launch(cosine_graph<T>, dim3((count + kTile - 1) / kTile, members), kGraphThreads, 2 * kDepth * kPitch * sizeof(float),
         features.data(), indices.data(), scale.data(), inverse.data(), affinity.data(), degrees.data(), count, width,
         static_cast<long long>(width));
}

int main(int argc, char** argv) try {
  if (argc > 3) cuda_on_cpu::seed = std::strtoull(argv[3], nullptr, 10);
  std::ifstream file(argv[1], std::ios::binary);
  const auto h = read<int64_t>(file, 10);
  const int members = h[0], count = h[1], width = h[3], threads = h[5], grid = h[6], capacity = h[7], storage = h[8], most = h[9];
  const auto indices = read<long long>(file, static_cast<size_t>(members) * count);
  const size_t nodes = indices.size();
  const float poison = std::nanf("");
  std::vector<float> scale(nodes, poison), inverse(nodes, poison), affinity(nodes * count, poison), degrees(nodes, poison);
  if (h[4]) graph(read<unsigned short>(file, h[2] * width), indices, members, count, width, threads, scale, inverse, affinity, degrees);
  else graph(read<float>(file, h[2] * width), indices, members, count, width, threads, scale, inverse, affinity, degrees);
  std::vector<float> basis(static_cast<size_t>(grid) * capacity * count, poison), vector(nodes, poison);
  std::vector<float> value(members, poison), residual(value), gap(value);
  std::vector<long long> matvecs(members, -1), status(members, -1);
  const FiedlerProblem problem = {indices.data(), affinity.data(), inverse.data(), basis.data(),  vector.data(), value.data(),
                                  residual.data(), gap.data(),     matvecs.data(), status.data(), members,       count,
                                  capacity,        most};
  const size_t room = fiedler_floats(count, capacity) * sizeof(float), square = static_cast<size_t>(count) * count;
  if (storage == 0) launch(fiedler<float, true>, grid, threads, room + square * sizeof(float), problem);
  if (storage == 1) launch(fiedler<unsigned short, true>, grid, threads, room + square * sizeof(short), problem);
  if (storage == 2) launch(fiedler<float, false>, grid, threads, room, problem);
  std::ofstream out(argv[2], std::ios::binary);
  write(out, vector), write(out, value), write(out, residual), write(out, gap), write(out, matvecs), write(out, status);
  write(out, affinity), write(out, degrees);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 3;
}
