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

}  // namespace handconv
