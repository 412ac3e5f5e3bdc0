#include "cpu/rules.h"

namespace handconv {

Refusal never_refuse(const Problem&) { return nullptr; }

Refusal needs_nchw(const Problem& problem) {
  return problem.layout == Layout::kNchw ? nullptr : "needs contiguous (NCHW) images";
}

Refusal needs_nhwc_and_depthwise(const Problem& problem) {
  if (problem.layout != Layout::kNhwc) return "needs channels_last images";
  const Geometry& g = problem.geometry;
  const bool depthwise = g.in_channels_per_group() == 1 && g.out_channels_per_group() == 1;
  return depthwise ? nullptr : "needs one input and one output channel per group";
}

Refusal too_large_to_convert(const Problem& problem) {
  const bool in_place = problem.layout == Layout::kNhwc &&
                        (problem.dtype == DType::kFloat32 || problem.dtype == DType::kFloat64);
  const Geometry& g = problem.geometry;
  const std::int64_t x = g.in_channels * g.input_area(), y = g.out_channels * g.output_area();
  constexpr std::int64_t kElements = std::int64_t{1} << 24;
  return in_place || x + y <= kElements
             ? nullptr
             : "one sample is too large to be converted whole; im2col streams it";
}

Refusal many_channels_per_group(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
  const bool small = g.groups > 1 && in <= 32 && out <= 32;
  // As lanes they would leave a vector nearly empty.
  const bool fills_few =
      (problem.slot == Slot::kOutput && out <= 4) || (problem.slot == Slot::kInput && in <= 4);
  return small || fills_few || in == 1
             ? nullptr
             : "groups have enough channels to be the lanes of direct.channels";
}

}  // namespace handconv
