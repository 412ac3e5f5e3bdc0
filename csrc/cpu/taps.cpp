#include "cpu/taps.h"

#include <algorithm>

#include "cpu/integers.h"

namespace handconv {
AxisTaps::AxisTaps(const Axis& axis, Slot filled) : kernel_size(axis.kernel) {
  const bool forward = filled == Slot::kOutput;
  source_size = forward ? axis.input : axis.output;
  filled_size = forward ? axis.output : axis.input;
  const std::int64_t step = forward ? 1 : axis.stride;

  tap_storage_.reserve(static_cast<std::size_t>(axis.kernel));
  for (std::int64_t first = 0; first < std::min(step, filled_size); ++first) {
    const auto tap_begin = static_cast<std::int64_t>(tap_storage_.size());
    for (std::int64_t k = 0; k < axis.kernel; ++k) {
      const std::int64_t reach = k * axis.dilation - axis.padding;
      if (forward) {
        tap_storage_.push_back({k, reach});
      } else if ((first - reach) % axis.stride == 0) {
        tap_storage_.push_back({k, (first - reach) / axis.stride});
      }
    }
    const std::int64_t count = ceil_divide(filled_size - first, step);
    const auto taps = static_cast<std::int64_t>(tap_storage_.size()) - tap_begin;
    class_storage_.push_back(
        {first, step, count, forward ? axis.stride : 1, {tap_storage_.data() + tap_begin, taps}});
  }
  classes_ = class_storage_.data();
  class_count_ = static_cast<std::int64_t>(class_storage_.size());
}

AxisTaps::AxisTaps(AxisTaps&&) noexcept = default;
AxisTaps::~AxisTaps() = default;

Gather::Gather(const Problem& problem, const Buffers& buffers)
    : batch(problem.geometry.batch),
      groups(problem.geometry.groups),
      rows(problem.geometry.height, problem.slot),
      columns(problem.geometry.width, problem.slot),
      w(buffers.w),
      bias(buffers.bias) {
  const bool forward = problem.slot == Slot::kOutput;
  const Geometry& geometry = problem.geometry;
  const WeightStrides& strides = problem.w_strides;
  source_channels = forward ? geometry.in_channels_per_group() : geometry.out_channels_per_group();
  filled_channels = forward ? geometry.out_channels_per_group() : geometry.in_channels_per_group();
  source_strides = forward ? problem.x_strides() : problem.y_strides();
  filled_strides = forward ? problem.y_strides() : problem.x_strides();
  w_group = geometry.out_channels_per_group() * strides.out_channel;
  w_filled = forward ? strides.out_channel : strides.in_channel;
  w_source = forward ? strides.in_channel : strides.out_channel;
  w_row = strides.row;
  w_column = strides.column;
  source = forward ? buffers.x : buffers.y;
  filled = forward ? buffers.y : buffers.x;
}

Range outputs_inside(const Axis& axis, std::int64_t k) {
  const std::int64_t reach = k * axis.dilation - axis.padding;  // input = output * stride + reach
  const std::int64_t first = std::max<std::int64_t>(0, -floor_divide(reach, axis.stride));
  const std::int64_t last =
      std::min(axis.output, floor_divide(axis.input - 1 - reach, axis.stride) + 1);
  return {first, std::max(first, last)};
}

}  // namespace handconv
