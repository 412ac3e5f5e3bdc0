#include "cpu/rules.h"

namespace handconv {

Refusal never_refuse(const Problem&) { return nullptr; }

Refusal needs_nchw(const Problem& problem) {
  return problem.layout == Layout::kNchw ? nullptr : "needs contiguous (NCHW) images";
}

Refusal needs_nchw_and_depthwise(const Problem& problem) {
  if (problem.layout != Layout::kNchw) return "needs contiguous (NCHW) images";
  const bool depthwise = problem.geometry.in_channels_per_group() == 1;
  return depthwise ? nullptr : "needs one input channel per group";
}

Refusal needs_nhwc_and_depthwise(const Problem& problem) {
  if (problem.layout != Layout::kNhwc) return "needs channels_last images";
  return problem.geometry.in_channels_per_group() == 1 ? nullptr
                                                       : "needs one input channel per group";
}

Refusal needs_3x3_with_stride_1(const Problem& problem) {
  for (const Axis& axis : {problem.geometry.height, problem.geometry.width}) {
    if (axis.kernel != 3 || axis.stride != 1 || axis.dilation != 1)
      return "needs a 3x3 window with stride 1 and dilation 1";
  }
  return nullptr;
}

namespace {

// Source and filled channels of a group, and the smaller side of the filled image.
struct WinogradShape {
  std::int64_t source, filled, side;
  // Tiles of 4x4 round float32 more than F.conv2d's sums over few channels do, by a factor of 2.1
  // at 32 channels and 1.5 at 64. 16-bit types round more at the store.
  bool rounding_is_hidden;

  explicit WinogradShape(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const bool forward = problem.slot == Slot::kOutput;
    source = forward ? g.in_channels_per_group() : g.out_channels_per_group();
    filled = forward ? g.out_channels_per_group() : g.in_channels_per_group();
    const std::int64_t height = forward ? g.height.output : g.height.input;
    const std::int64_t width = forward ? g.width.output : g.width.input;
    side = height < width ? height : width;
    rounding_is_hidden = problem.dtype != DType::kFloat32 || source >= 64;
  }

  bool suits_tiles_of_4x4() const { return rounding_is_hidden && source >= 32 && side >= 20; }
};

constexpr Refusal kWinogradIsOff = "Winograd is switched off";

}  // namespace

Refusal not_for_tiles_of_2x2(const Problem& problem) {
  if (!problem.allows_winograd) return kWinogradIsOff;
  const WinogradShape shape(problem);
  if (shape.suits_tiles_of_4x4()) return "tiles of 4x4 do less work";
  if (shape.source < 32 || shape.filled < 32)
    return "few channels per group: transforming tiles would outweigh their products";
  return shape.side >= 12 ? nullptr : "transforming the weight would outweigh the products";
}

Refusal not_for_tiles_of_4x4(const Problem& problem) {
  if (!problem.allows_winograd) return kWinogradIsOff;
  const WinogradShape shape(problem);
  if (!shape.rounding_is_hidden) return "few channels per group: rounding would show";
  if (shape.source < 32 || shape.filled < 32)
    return "few channels per group: transforming tiles would outweigh their products";
  return shape.side >= 20 ? nullptr : "transforming the weight would outweigh the products";
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
  const bool small = g.groups > 1 && in <= 32 && out <= 32;
  // As lanes they would leave a vector nearly empty.
  const bool fills_few =
      (problem.slot == Slot::kOutput && out <= 4) || (problem.slot == Slot::kInput && in <= 4);
  return small || fills_few || in == 1
             ? nullptr
             : "groups have enough channels to be the lanes of direct.channels";
}

}  // namespace handconv
