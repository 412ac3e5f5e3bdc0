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

Refusal refuse_all_but_small_groups(const Problem& problem, int lanes) {
  if (problem.layout != Layout::kNhwc) return "needs channels_last images";
  const Geometry& g = problem.geometry;
  const bool small = g.in_channels_per_group() <= lanes && g.out_channels_per_group() <= lanes;
  return small ? nullptr : "needs groups whose channels fit in one vector";
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

Refusal better_without_packing(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const bool forward = problem.slot == Slot::kOutput;
  const std::int64_t filled = forward ? g.out_channels_per_group() : g.in_channels_per_group();
  if (problem.layout == Layout::kNhwc && filled <= 16) {
    return "fills too few channels to pay for packing pixels";
  }
  const bool in_place = problem.layout == Layout::kNhwc &&
                        (problem.dtype == DType::kFloat32 || problem.dtype == DType::kFloat64);
  const bool many_pixels = g.output_area() > 84 && g.in_channels_per_group() >= 128;
  if (forward && in_place && many_pixels && filled <= 256) {
    return "fills so few channels that packing pixels costs more than reaching them by pointers";
  }
  const auto sees_padding = [](const Axis& axis) {
    return axis.padding > 0 && axis.dilation > 1 && axis.dilation * 4 >= axis.input;
  };
  return sees_padding(g.height) && sees_padding(g.width) && !too_large_to_convert(problem)
             ? "tiles whose tap sees padding alone are many, and direct.channels skips them"
             : nullptr;
}

Refusal many_channels_per_group(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
  const bool few = in < 16 && out < 16;
  // As many as planes fills in one tile; as lanes they would leave a vector nearly empty.
  const bool fills_few =
      (problem.slot == Slot::kOutput && out <= 4) || (problem.slot == Slot::kInput && in <= 4);
  return few || fills_few || in == 1
             ? nullptr
             : "groups have enough channels to be the lanes of direct.channels";
}

}  // namespace handconv
