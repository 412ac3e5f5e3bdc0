// Who takes which problem among the CUDA kernels. Each predicate returns the reason of a refusal,
// or null.
#pragma once

#include "table.h"

namespace handconv {
namespace cuda {

// Of a grid.
constexpr std::int64_t kMostBlocks = (std::int64_t{1} << 31) - 1;

inline Refusal never_refuse(const Problem&) { return nullptr; }

// Kernels count positions and channels in int; only offsets into tensors are int64_t.
inline Refusal too_long_for_int(const Problem& problem) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 29;
  const auto fits = [](const Axis& axis) {
    return axis.input < kLimit && axis.output < kLimit && axis.padding < kLimit &&
           axis.receptive_field() < kLimit && axis.stride < kLimit && axis.dilation < kLimit;
  };
  const Geometry& g = problem.geometry;
  const bool all = fits(g.height) && fits(g.width) && g.in_channels < kLimit &&
                   g.out_channels < kLimit && g.kernel_area() < kLimit;
  return all ? nullptr : "needs sizes that fit in an int";
}

}  // namespace cuda
}  // namespace handconv
