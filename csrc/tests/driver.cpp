// Every kernel on memory that ends where the data ends, for the sanitizers: no torch, so that what they report is ours.
// Exits with 0 if all results are unit vectors with a small residual, alike for every number of threads.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../cpu/team.h"
#include "../fiedler.h"

namespace {

using namespace spectral;

class Threads final : public Executor {
 public:
  explicit Threads(int64_t count) : count_(count) {}
  void run(int64_t items, const Body& body) const override {
    std::vector<std::thread> running;
    for (int64_t t = 0; t < count_; ++t)
      running.emplace_back([&, t] {
        if (items * t / count_ < items * (t + 1) / count_) body(items * t / count_, items * (t + 1) / count_);
      });
    for (auto& thread : running) thread.join();
  }
  int64_t threads() const override { return count_; }

 private:
  int64_t count_;
};

uint16_t half_of(float x) {  // truncating; enough for test data
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const int32_t exponent = static_cast<int32_t>(bits >> 23 & 255) - 112;
  if (exponent <= 0) return static_cast<uint16_t>(bits >> 31 << 15);
  return static_cast<uint16_t>(bits >> 31 << 15 | static_cast<uint32_t>(exponent) << 10 | (bits >> 13 & 1023));
}

uint16_t bfloat_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>(bits >> 16);
}

struct Solution {
  std::vector<float> vector, value, residual, gap, error;
  std::vector<int64_t> matvecs, status;
  Solution(int64_t members, int64_t size)
      : vector(members * size), value(members), residual(members), gap(members), error(members), matvecs(members), status(members) {}
  Results results() {
    return {vector.data(), value.data(), residual.data(), gap.data(), error.data(), matvecs.data(), status.data()};
  }
};

int failures = 0;

void expect(bool holds, const char* what, int64_t size, int64_t width) {
  if (holds) return;
  std::printf("N=%ld d=%ld: %s\n", static_cast<long>(size), static_cast<long>(width), what);
  ++failures;
}

void check(const Features& features, const std::vector<int64_t>& indices, int64_t size, Form form, bool poisoned) {
  const auto members = static_cast<int64_t>(indices.size()) / size;
  Solution serial(members, size), threaded(members, size);
  Options options;
  options.form = form;
  solve(features, indices.data(), members, size, options, Serial(), serial.results());
  solve(features, indices.data(), members, size, options, Threads(size <= 512 ? 3 : 8), threaded.results());
  const auto bytes = serial.vector.size() * sizeof(float);
  expect(std::memcmp(serial.vector.data(), threaded.vector.data(), bytes) == 0, "threads change the bits", size, features.width);
  for (int64_t b = 0; b < members; ++b) {
    if (poisoned && b == 0) {
      expect(serial.status[b] == kInvalid, "poison not seen", size, features.width);
      continue;
    }
    double squares = 0.0;
    for (int64_t i = 0; i < size; ++i) squares += std::pow(static_cast<double>(serial.vector[b * size + i]), 2);
    expect(std::fabs(squares - 1.0) < 1e-4, "not a unit vector", size, features.width);
    expect(serial.residual[b] < 1e-4f, "residual", size, features.width);
  }
}

void problem(int64_t size, int64_t width, Storage storage, float scale, bool poisoned) {
  const int64_t members = 3, rows = size + 5;
  std::mt19937 random(static_cast<unsigned>(size * 1000 + width));
  std::normal_distribution<float> normal;
  // Exactly as large as the data: one byte further is an error.
  std::unique_ptr<float[]> floats(new float[rows * width]);
  std::unique_ptr<uint16_t[]> halves(new uint16_t[rows * width]);
  for (int64_t i = 0; i < rows * width; ++i) {
    floats[i] = (1.0f + normal(random)) * scale;
    halves[i] = storage == Storage::float16 ? half_of(floats[i] + 0.01f) : bfloat_of(floats[i] + 0.01f);
  }
  if (poisoned) {
    floats[(rows - 1) * width] = NAN;
    halves[(rows - 1) * width] = storage == Storage::float16 ? 0x7E00 : 0x7FC0;
  }
  std::vector<int64_t> indices(members * size);
  for (int64_t i = 0; i < members * size; ++i) indices[i] = (i % size * 7 + i / size) % (rows - 1);
  if (poisoned) indices[size - 1] = rows - 1;
  const void* data = storage == Storage::float32 ? static_cast<const void*>(floats.get()) : halves.get();
  const Features features = {data, storage, width, width};
  for (const Form form : {Form::dense, Form::factored}) check(features, indices, size, form, poisoned);
  std::vector<float> affinity(members * size * size), degrees(members * size);
  cosine_graph(features, indices.data(), members, size, Threads(2), affinity.data(), degrees.data());
}

// Members whose loops are shared, on more threads than there are members: every piece once, and errors come out at the end.
void together(bool fails) {
  constexpr int64_t kMembers = 5, kLoops = 200, kPieces = 7;
  std::vector<int64_t> done(kMembers * kPieces);
  bool thrown = false;
  try {
    solve_together(kMembers, 2, 8, [&](int64_t, int64_t member, const Executor& executor) {
      for (int64_t loop = 0; loop < kLoops; ++loop)
        executor.run(kPieces, [&](int64_t first, int64_t last) {
          if (fails && member == 1 && loop == 3 && first == 2) throw std::bad_alloc();
          for (int64_t i = first; i < last; ++i) ++done[member * kPieces + i];
        });
    });
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  bool all = true;
  for (int64_t i = 0; i < kMembers * kPieces; ++i) all = all && (done[i] == kLoops || (fails && i / kPieces == 1));
  expect(all, "a piece was left out, or done twice", kMembers, kPieces);
  expect(thrown == fails, "an error was lost", kMembers, kPieces);
}

}  // namespace

int main() {
  for (const Storage storage : {Storage::float32, Storage::float16, Storage::bfloat16})
    for (const int64_t size : {2, 3, 15, 16, 17, 33, 129, 260})
      for (const int64_t width : {1, 3, 16, 31, 257})
        for (const bool poisoned : {false, true}) problem(size, width, storage, 1.0f, poisoned);
  problem(40, 30, Storage::float32, 1e30f, false);
  problem(40, 30, Storage::float32, 1e-30f, true);
  problem(1500, 20, Storage::float32, 1.0f, false);  // several chunks and blocks
  problem(1500, 20, Storage::float16, 1.0f, true);
  problem(40, 30, Storage::bfloat16, 1e-30f, false);
  problem(700, 40, Storage::float32, 1.0f, false);
  for (int i = 0; i < 20; ++i) together(i % 2 == 1);
  std::printf("%s: %s\n", select_kernels().name, failures == 0 ? "ok" : "FAILED");
  return failures == 0 ? 0 : 1;
}
