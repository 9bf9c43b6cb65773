// The residual of a vector in double, from the rows themselves: the rounding of S is part of what it shows.
#pragma once
#include <cstdint>

#include "kernels.h"
#include "support.h"

namespace spectral {

class Defect {
 public:
  // out (padded) = L v − θ v over ‖L‖_∞, away from v and the constant vector; its length comes back. Two passes over the rows,
  // whose bits do not depend on the executor. `value`: about θ, of which the last digits are found here. room: `size` doubles.
  double measure(const Rows& rows, int64_t size, double norm, double value, const float* v, const Kernels& kernels,
                 const Executor& executor, double* room, float* out);
  double value() const { return value_; }  // θ over ‖L‖_∞

 private:
  double value_ = 0.0;
  Buffer<double> partial_;
  Buffer<float> scratch_;
};

}  // namespace spectral
