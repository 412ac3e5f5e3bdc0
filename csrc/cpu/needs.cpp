// What kernels cannot do.

#include "cpu/integers.h"
#include "cpu/rules.h"

namespace handconv {

Refusal never_refuse(const Problem&) { return nullptr; }

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

Refusal needs_depthwise_with_stride_1(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.in_channels != g.groups || g.out_channels != g.groups)
    return "needs one input and one output channel per group";
  return g.height.stride == 1 && g.width.stride == 1 ? nullptr : "needs stride 1";
}

Refusal needs_one_group(const Problem& problem) {
  return problem.geometry.groups == 1 ? nullptr : "needs one group";
}

Refusal needs_whole_windows(const Problem& problem) {
  const Geometry& g = problem.geometry;
  for (const Axis& axis : {g.height, g.width}) {
    if (axis.kernel != axis.input || axis.padding != 0)
      return "needs windows that see the whole image";
  }
  const bool nhwc = problem.layout == Layout::kNhwc;
  if (nhwc && g.groups > 1 && g.kernel_area() > 1)
    return "needs the channels of a group side by side";
  // Of a filter as of an image: a dimension of one element has any stride.
  const ImageStrides image =
      image_strides(problem.layout, g.in_channels_per_group(), g.height.kernel, g.width.kernel);
  const WeightStrides& w = problem.w_strides;
  const bool alike = (g.in_channels_per_group() == 1 || w.in_channel == image.channel) &&
                     (g.height.kernel == 1 || w.row == image.row) &&
                     (g.width.kernel == 1 || w.column == image.column);
  return alike ? nullptr : "needs filters in the memory order of the image";
}

Refusal needs_patches(const Problem& problem) {
  const Geometry& g = problem.geometry;
  for (const Axis& axis : {g.height, g.width}) {
    const bool adjoin = axis.kernel == axis.stride && (axis.kernel == 1 || axis.dilation == 1);
    if (!adjoin || axis.padding != 0 || axis.input != axis.output * axis.kernel)
      return "needs windows that lie side by side and cover the image";
  }
  return needs_one_group(problem);
}

Refusal needs_nhwc_and_groups_that_fill(const Problem& problem, int lanes) {
  const Geometry& g = problem.geometry;
  if (problem.layout != Layout::kNhwc) return "needs channels_last images";
  if (g.in_channels_per_group() != g.out_channels_per_group())
    return "needs groups of as many input as output channels";
  return lanes % g.in_channels_per_group() == 0 ? nullptr
                                                : "needs groups that divide the lanes of a vector";
}

Refusal needs_short_sums_and_strides(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const bool forward = problem.slot == Slot::kOutput;
  if (forward && g.width.stride > 2) return "needs pixels at most 2 columns apart";
  const std::int64_t source = forward ? g.in_channels_per_group() : g.out_channels_per_group();
  return source * g.kernel_area() <= 1024 ? nullptr
                                          : "so long a sum should be made of partial sums";
}

Refusal needs_rows_alike(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (problem.layout != Layout::kNchw) return "needs contiguous (NCHW) images";
  if (g.height.stride != 1 || g.width.stride != 1 || g.width.input != g.width.output)
    return "needs stride 1 and rows as long filled as in the source";
  const bool forward = problem.slot == Slot::kOutput;
  const std::int64_t source = forward ? g.in_channels_per_group() : g.out_channels_per_group();
  if (source * g.kernel_area() > 384) return "so long a sum should be made of partial sums";
  constexpr std::int64_t kMasks = std::int64_t{1} << 20;
  return (g.input_area() + g.output_area()) * g.kernel_area() <= kMasks
             ? nullptr
             : "planes and window are too large for a table of masks";
}

Refusal needs_pointwise(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const auto is_plain = [](const Axis& axis) {
    return axis.kernel == 1 && axis.stride == 1 && axis.padding == 0 && axis.input == axis.output;
  };
  return is_plain(g.height) && is_plain(g.width)
             ? nullptr
             : "needs a window of one tap, stride 1, no padding and all pixels";
}

Refusal needs_one_tap(const Problem& problem) {
  const Geometry& g = problem.geometry;
  return g.kernel_area() == 1 && g.height.padding == 0 && g.width.padding == 0
             ? nullptr
             : "needs a window of one tap and no padding";
}

}  // namespace handconv
