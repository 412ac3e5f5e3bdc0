// What the rules of several kernels ask of a problem.
#pragma once

#include "geometry.h"

namespace handconv {

// Channels of a group, and the smaller side of the filled image.
struct Shape {
  std::int64_t source, filled, side;

  explicit Shape(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const bool forward = problem.slot == Slot::kOutput;
    source = forward ? g.in_channels_per_group() : g.out_channels_per_group();
    filled = forward ? g.out_channels_per_group() : g.in_channels_per_group();
    const std::int64_t height = forward ? g.height.output : g.height.input;
    const std::int64_t width = forward ? g.width.output : g.width.input;
    side = height < width ? height : width;
  }
};

// Alone, so small an image goes to matrix products of torch's own instead of oneDNN. Its input
// gradient is sums over channels, tap by tap, and then over taps, which round less.
inline bool torch_rounds_less(const Problem& problem) {
  const Geometry& g = problem.geometry;
  constexpr std::int64_t kFewElements = 20480;
  const bool large_window = g.height.kernel > 3 && g.width.kernel > 3;
  return problem.slot == Slot::kInput && problem.dtype == DType::kFloat32 && g.groups == 1 &&
         !large_window && g.kernel_area() > 1 && g.in_channels * g.input_area() <= kFewElements;
}

}  // namespace handconv
