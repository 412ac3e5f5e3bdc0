#include "cpu/rules.h"

namespace handconv {

Refusal never_refuse(const Problem&) {
  return nullptr;
}

Refusal needs_nchw(const Problem& problem) {
  return problem.layout == Layout::kNchw ? nullptr : "needs contiguous (NCHW) images";
}

Refusal needs_nhwc_and_depthwise(const Problem& problem) {
  if (problem.layout != Layout::kNhwc) return "needs channels_last images";
  const Geometry& g = problem.geometry;
  const bool depthwise = g.in_channels_per_group() == 1 && g.out_channels_per_group() == 1;
  return depthwise ? nullptr : "needs one input and one output channel per group";
}

Refusal many_channels_per_group(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const bool few = g.in_channels_per_group() < 16 && g.out_channels_per_group() < 16;
  const bool one = g.in_channels_per_group() == 1;
  return few || one ? nullptr : "groups have enough channels to be the lanes of direct.channels";
}

}  // namespace handconv
