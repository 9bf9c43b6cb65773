// One member from rows to result, and the loop over members.
#include "../fiedler.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "defect.h"
#include "lanczos.h"
#include "laplacian.h"
#include "sign.h"
#include "team.h"
#include "tridiagonal.h"

namespace spectral {
namespace {

constexpr int64_t kSmallGraph = 512;        // rows to which several graphs are divided among the threads, and none is shared
constexpr int64_t kRowsOfAThread = 512;     // of a larger graph, and
constexpr int64_t kWorkOfAThread = 1 << 23; // N² d of a smaller one, that are worth a thread
constexpr int64_t kMostRows = 1 << 20;      // of graphs under way at a time: their bases take up to 256 MB

// Everything a thread needs for a member; kept from member to member.
struct Workspace {
  DenseLaplacian dense;
  FactoredLaplacian factored;
  Defect defect;
  Buffer<float> basis, work, vector, image, copy;
  Rows rows{};  // that the graph was built from
  std::vector<int64_t> own_rows;
};

// Lanczos vectors held before a restart. Small graphs hold all they are likely to need; of a large one no more than a sixth of
// the bytes of its rows is taken.
int64_t basis_capacity(int64_t size, const Features& features, bool dense) {
  const int64_t most = std::max<int64_t>(1, size - 1);
  if (dense) return std::min<int64_t>(most, 96);
  if (size <= 32768) return std::min<int64_t>(most, 64);
  const int64_t bytes = features.width * element_bytes(features.storage);
  return std::clamp<int64_t>(bytes / 6 / static_cast<int64_t>(sizeof(float)) - 14, 10, 48);
}

class Member {
 public:
  Member(const Kernels& kernels, Laplacian& laplacian, const Executor& executor, Workspace& space, const int64_t* indices,
         int64_t capacity)
      : laplacian_(laplacian), kernels_(kernels), executor_(executor), space_(space), indices_(indices), size_(laplacian.size),
        stride_(laplacian.stride), vector_(space.vector.reserve(stride_)), image_(space.image.reserve(3 * stride_)),
        direction_(image_ + 2 * stride_), correction_(image_ + stride_),
        lanczos_(kernels, laplacian, executor, space.basis.reserve(Lanczos::rows(capacity) * stride_),
                 space.work.reserve(stride_), capacity),
        rounding_(kUlp * std::max(laplacian.norm, 1.0) / laplacian.norm) {}

  void solve(const Results& out, int64_t b) {
    float* constant = lanczos_.row(0);
    std::fill_n(constant, stride_, 0.0f);
    std::fill_n(constant, size_, static_cast<float>(1.0 / std::sqrt(static_cast<double>(size_))));
    start(1, 0);
    lean(1);
    for (int round = 0; round < kRounds; ++round) {
      descend();
      if (refines_) measure_exactly();
      else measure();
      if (size_ <= 2 || probe()) break;
      // The probe has gone below v: v had missed the lowest eigenvector. Start again with both in the start vector.
      std::copy_n(image_, stride_, lanczos_.row(1));
      for (int64_t i = 0; i < stride_; ++i) lanczos_.row(1)[i] += 0.1f * vector_[i];
    }
    write(out, b);
  }

 private:
  void start(int64_t row, int64_t salt) {
    std::fill_n(lanczos_.row(row), stride_, 0.0f);
    start_vector(indices_, size_, salt, lanczos_.row(row));
  }

  // Adds to the noise what v looks like where rows of low degree carry it: (L − λ) v = 0 is (d_i − λ) v_i = u_i·(Uᵀv), so v
  // is large where d_i is close to λ, which lies about as far below the least degree as kBelow of their spread. Saves a few steps.
  void lean(int64_t row) {
    constexpr float kBelow = 0.05f;
    const float* degrees = laplacian_.degrees;
    const float least = *std::min_element(degrees, degrees + size_);
    const float spread = *std::max_element(degrees, degrees + size_) - least;
    if (!(spread > 1e-3 * laplacian_.norm)) return;  // degrees that differ by little more than rounding say nothing
    const auto weight = [&](int64_t i) { return 1.0f / (degrees[i] - least + kBelow * spread); };
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < size_; ++i) {
      sum += static_cast<double>(weight(i));
      squares += static_cast<double>(weight(i)) * static_cast<double>(weight(i));
    }
    const double mean = sum / static_cast<double>(size_);
    const double deviation = std::sqrt(squares / static_cast<double>(size_) - mean * mean);
    float* out = lanczos_.row(row);
    for (int64_t i = 0; i < size_; ++i) out[i] += static_cast<float>((static_cast<double>(weight(i)) - mean) / deviation);
  }

  // v ← lowest Ritz vector, made orthogonal to the constant vector and of unit length again.
  void descend() {
    const auto accept = [](double, double bound) { return bound <= static_cast<double>(kStop * kUlp); };
    const RitzPair pair = lanczos_.descend(1, accept, kMostSteps, vector_);
    matvecs_ += pair.steps;
    ritz_ = pair.value;
    converged_ = accept(pair.value, pair.bound);
    tridiagonal_ = lanczos_.tridiagonal();
    double part = 0.0;
    const double length = lanczos_.orthogonalise(1, vector_, &part);
    kernels_.scale(vector_, static_cast<float>(1.0 / length), stride_, vector_);
  }

  // Looks for λ3 away from v, which is in row 1; false where it finds something below v, which is then in image_.
  bool probe() {
    const auto known = static_cast<int64_t>(2 + locked_.size());
    start(known, kProbeSalt);
    const auto apart = [&](double other, double bound) {
      const double distance = other - ritz_;
      return bound <= (refines_ ? kClose : kApart) * std::max(distance, kGap * rounding_) || distance + bound < 0.0;
    };
    const RitzPair pair = lanczos_.descend(known, apart, kMostSteps, image_, refines_ ? 2 : 4);
    matvecs_ += pair.steps;
    // λ3 is at least the first of these, and never above the second.
    const double lower = lowest_with(locked_, pair.value - pair.bound);
    gap_ = std::clamp(second_below(tridiagonal_, lower) - ritz_, 0.0, 2.0);
    if (pair.value < ritz_ - static_cast<double>(kResidual) * rounding_) return false;
    if (refines_ && converged_ && gap_ > kGap * rounding_) refine();
    return true;
  }

  // Rayleigh quotient and residual r of v in double, in two passes over the rows. What the space of v's own descent can solve of
  // (L − θ) δ = −r, the parts along low eigenvectors, goes to correction_ at once, and r without it to direction_; v goes to row 1.
  void measure_exactly() {
    residual_ = space_.defect.measure(space_.rows, size_, laplacian_.norm, ritz_ * laplacian_.norm, vector_, kernels_, executor_,
                                      reinterpret_cast<double*>(image_), direction_);
    theta_ = space_.defect.value() * laplacian_.norm;
    std::fill_n(correction_, stride_, 0.0f);
    length_ = lanczos_.solve(1, ritz_ - kUlp, space_.defect.value(), direction_, correction_);
    locked_ = lanczos_.keep(1, vector_);
  }

  // v + δ where that is better, after a run that starts from what is left of r. Afterwards ‖r + (L − θ) δ‖ is what that run
  // leaves and the error of T, which is made of float's products.
  void refine() {
    std::copy_n(direction_, stride_, lanczos_.row(2));
    const RitzPair pair = lanczos_.descend(2, [](double, double) { return false; }, kRefineSteps, image_);
    matvecs_ += pair.steps;
    gap_ = std::clamp(pair.value - ritz_, 0.0, gap_);
    length_ += lanczos_.solve(2, ritz_ - kUlp, space_.defect.value(), direction_, correction_);
    const double left = std::sqrt(lanczos_.sum_squares(direction_)) + 4.0 * rounding_ * length_;
    if (!(left < residual_)) return;
    residual_ = left;
    for (int64_t i = 0; i < stride_; ++i) vector_[i] += correction_[i];
    kernels_.scale(vector_, static_cast<float>(1.0 / std::sqrt(lanczos_.sum_squares(vector_))), stride_, vector_);
  }

  // Rayleigh quotient and residual of v from L itself; v goes to row 1.
  void measure() {
    std::copy_n(vector_, stride_, lanczos_.row(1));
    laplacian_.replaced(1);
    laplacian_.apply(1, lanczos_.row(1), image_);
    ++matvecs_;
    theta_ = lanczos_.dot(vector_, image_);
    const float factor = static_cast<float>(theta_);
    kernels_.subtract(vector_, stride_, 1, &factor, image_, stride_);
    residual_ = std::sqrt(lanczos_.sum_squares(image_)) / laplacian_.norm;
  }

  void write(const Results& out, int64_t b) const {
    const double value = theta_ / laplacian_.norm, residual = std::max(residual_, rounding_);
    const double gap = gap_ > static_cast<double>(kGap) * rounding_ ? gap_ : 0.0;
    int64_t status = residual <= static_cast<double>(kResidual) * rounding_ ? int64_t{kConverged} : 0;
    if (gap == 0.0) status |= kDegenerate;
    if (value < -static_cast<double>(kResidual) * rounding_) status |= kIndefinite;
    const float sign = canonical_sign(vector_, laplacian_.degrees, indices_, size_, laplacian_.norm);
    for (int64_t i = 0; i < size_; ++i) out.vector[b * size_ + i] = sign * vector_[i];
    out.value[b] = static_cast<float>(theta_);
    out.residual[b] = static_cast<float>(residual);
    out.gap[b] = static_cast<float>(gap);
    // What was measured in double may be less than a rounding of float.
    out.error[b] = std::min(static_cast<float>(2.0 * (refines_ ? residual_ : residual) / gap), kWorst);
    out.matvecs[b] = matvecs_;
    out.status[b] = status;
  }

  Laplacian& laplacian_;
  const Kernels& kernels_;
  const Executor& executor_;
  Workspace& space_;
  const int64_t* indices_;
  int64_t size_, stride_;
  const bool refines_ = size_ >= kRefined;
  float *vector_, *image_, *direction_, *correction_;
  Lanczos lanczos_;
  double rounding_;  // e, see limits.py
  double ritz_ = 0.0, theta_ = 0.0, residual_ = 0.0, gap_ = 2.0;
  double length_ = 0.0;  // of the correction δ
  std::vector<RitzPair> locked_;  // above v, kept away from while λ3 is looked for
  bool converged_ = false;
  int64_t matvecs_ = 0;
  Tridiagonal tridiagonal_;  // of the descent to v
};

Rows rows_of(const Features& features, const int64_t* indices) {
  const int64_t stride = features.stride * element_bytes(features.storage);
  return {static_cast<const char*>(features.data), stride, features.width, features.storage, indices};
}

// Runs build(rows); where rows are out of float's range once squared, again on a scaled copy of them.
template <class Build>
bool build_safely(Workspace& space, const Rows& rows, int64_t size, const Build& build) {
  space.rows = rows;
  if (build(rows) == Rescue::none) return true;
  float* copy = space.copy.reserve(size * rows.width);
  if (!rescaled(rows, size, copy)) return false;
  space.own_rows.resize(static_cast<std::size_t>(size));
  std::iota(space.own_rows.begin(), space.own_rows.end(), 0);
  const int64_t stride = rows.width * static_cast<int64_t>(sizeof(float));
  space.rows = {reinterpret_cast<const char*>(copy), stride, rows.width, Storage::float32, space.own_rows.data()};
  return build(space.rows) == Rescue::none;
}

void refuse(const Results& out, int64_t b, int64_t size) {
  std::fill_n(out.vector + b * size, size, 0.0f);
  out.value[b] = out.residual[b] = out.gap[b] = out.error[b] = 0.0f;
  out.matvecs[b] = 0;
  out.status[b] = kInvalid;
}

// `last`: where the members of this thread end, for the look ahead at the rows of the next one.
void solve_member(const Kernels& kernels, const Features& features, const int64_t* indices, int64_t b, int64_t last,
                  int64_t size, const Options& options, const Executor& executor, Workspace& space, const Results& out) {
  const int64_t* own = indices + b * size;
  const Rows rows = rows_of(features, own), next = rows_of(features, own + size);
  const bool dense = options.form == Form::dense || (options.form == Form::automatic && dense_is_faster(size, features.width));
  const int64_t capacity = basis_capacity(size, features, dense);
  space.factored.refresh_every = options.refresh_every;
  const int64_t* numbers = options.numbers ? options.numbers + b * size : own;
  const bool valid = build_safely(space, rows, size, [&](const Rows& from) {
    return dense ? space.dense.build(from, size, kernels, executor, b + 1 < last ? &next : nullptr)
                 : space.factored.build(from, size, kernels, executor, Lanczos::rows(capacity));
  });
  if (!valid) return refuse(out, b, size);
  Laplacian& laplacian = dense ? static_cast<Laplacian&>(space.dense) : space.factored;
  Member(kernels, laplacian, executor, space, numbers, capacity).solve(out, b);
}

}  // namespace

bool dense_is_faster(int64_t size, int64_t width) {
  // A product with S costs N² and one with the rows 2 N d; forming S costs N² d / 2. Measured over d from 128 to 2048 the two
  // are equal between N = 400 and 700 (docs/performance.md).
  return size <= 512 || (size <= 640 && width >= size);
}

void solve(const Features& features, const int64_t* indices, int64_t members, int64_t size, const Options& options,
           const Executor& executor, const Results& results) {
  const Kernels& kernels = select_kernels();  // here and not in a thread of its own: it may throw
  const auto solve_one = [&](int64_t b, int64_t last, const Executor& inner, Workspace& space) {
    solve_member(kernels, features, indices, b, last, size, options, inner, space, results);
  };
  const int64_t seats = std::clamp<int64_t>(kMostRows / size, 1, std::min(members, executor.threads()));
  const int64_t worth = size <= kSmallGraph ? size * size * features.width / kWorkOfAThread
                                             : (size + kRowsOfAThread - 1) / kRowsOfAThread;
  const int64_t threads = std::min(executor.threads(), seats * std::max<int64_t>(1, worth));
  if (threads == 1 || (members > 1 && size <= kSmallGraph)) {
    executor.run(members, [&](int64_t first, int64_t last) {
      Workspace space;
      for (int64_t b = first; b < last; ++b) solve_one(b, last, Serial(), space);
    });
    return;
  }
  std::vector<Workspace> spaces(static_cast<std::size_t>(seats));
  solve_together(members, seats, threads, [&](int64_t seat, int64_t b, const Executor& inner) {
    solve_one(b, b + 1, inner, spaces[static_cast<std::size_t>(seat)]);
  });
}

void cosine_graph(const Features& features, const int64_t* indices, int64_t members, int64_t size, const Executor& executor,
                  float* affinity, float* degrees) {
  const Kernels& kernels = select_kernels();
  executor.run(members, [&](int64_t first, int64_t last) {
    Workspace space;
    const Serial serial;
    for (int64_t b = first; b < last; ++b) {
      const Rows rows = rows_of(features, indices + b * size);
      float *out = affinity + b * size * size, *sums = degrees + b * size;
      const bool valid = build_safely(space, rows, size, [&](const Rows& from) {
        return space.dense.build(from, size, kernels, serial);
      });
      for (int64_t i = 0; i < size; ++i)
        std::copy_n(valid ? space.dense.affinity() + i * space.dense.stride : out + i * size, size, out + i * size);
      if (valid) std::copy_n(space.dense.degrees, size, sums);
      else std::fill_n(out, size * size, 0.0f), std::fill_n(sums, size, 0.0f);
    }
  });
}

}  // namespace spectral
