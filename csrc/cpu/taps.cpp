#include "cpu/taps.h"

#include <algorithm>

#include "cpu/integers.h"
#include "cpu/rules_shape.h"

namespace handconv {
AxisTaps::AxisTaps(const Axis& axis, Slot filled) : kernel_size(axis.kernel) {
  const bool forward = filled == Slot::kOutput;
  source_size = forward ? axis.input : axis.output;
  filled_size = forward ? axis.output : axis.input;
  const std::int64_t step = forward ? 1 : axis.stride;

  tap_storage_.reserve(static_cast<std::size_t>(axis.kernel));
  for (std::int64_t first = 0; first < std::min(step, filled_size); ++first) {
    const auto taps_before = static_cast<std::int64_t>(tap_storage_.size());
    for (std::int64_t k = 0; k < axis.kernel; ++k) {
      const std::int64_t reach = k * axis.dilation - axis.padding;
      if (forward) {
        tap_storage_.push_back({k, reach});
      } else if ((first - reach) % axis.stride == 0) {
        tap_storage_.push_back({k, (first - reach) / axis.stride});
      }
    }
    const std::int64_t count = ceil_divide(filled_size - first, step);
    const auto taps = static_cast<std::int64_t>(tap_storage_.size()) - taps_before;
    class_storage_.push_back({first, step, count, forward ? axis.stride : 1, {nullptr, taps}});
  }
  refer_to_storage();
}

AxisTaps::AxisTaps(const AxisTaps& whole, Range filled)
    : filled_size(filled.last - filled.first), kernel_size(whole.kernel_size) {
  const AxisClass& any = whole.classes()[0];
  const std::int64_t moved = filled.first / any.step * any.source_step;
  std::int64_t last = 0;
  source_first = whole.source_size;
  for (const AxisClass& part : whole.classes()) {
    if (part.first >= filled_size) break;
    AxisClass kept = part;
    kept.count = ceil_divide(filled_size - part.first, part.step);
    for (const Tap& tap : part.taps) {
      const std::int64_t begin = moved + tap.offset;
      source_first = std::min(source_first, std::max<std::int64_t>(begin, 0));
      last = std::max(last, begin + (kept.count - 1) * kept.source_step + 1);
      tap_storage_.push_back(tap);
    }
    class_storage_.push_back(kept);
  }
  source_size = std::max<std::int64_t>(std::min(last, whole.source_size) - source_first, 0);
  for (Tap& tap : tap_storage_) tap.offset += moved - source_first;
  refer_to_storage();
}

// The taps of the classes follow each other.
void AxisTaps::refer_to_storage() {
  const Tap* taps = tap_storage_.data();
  for (AxisClass& part : class_storage_) {
    part.taps.first = taps;
    taps += part.taps.count;
  }
  classes_ = class_storage_.data();
  class_count_ = static_cast<std::int64_t>(class_storage_.size());
}

AxisTaps::AxisTaps(AxisTaps&&) noexcept = default;
AxisTaps::~AxisTaps() = default;

namespace {

// Less in float32 where whole sums are so short that one block, as long as elsewhere, has more than
// twice the error of F.conv2d: long windows along one axis, and small images.
std::int64_t block_terms_of(const Problem& problem) {
  constexpr std::int64_t kTerms = 384;
  if (problem.dtype != DType::kFloat32) return kTerms;
  const Geometry& g = problem.geometry;
  const std::int64_t terms = Shape(problem).source * g.kernel_area();
  const bool is_line = g.height.kernel == 1 || g.width.kernel == 1;
  if (is_line && g.kernel_area() >= 16 && terms <= 1600) return 160;
  return torch_rounds_less(problem) && terms <= 600 ? 96 : kTerms;
}

}  // namespace

Gather::Gather(const Problem& problem, const Buffers& buffers)
    : batch(problem.geometry.batch),
      groups(problem.geometry.groups),
      rows(problem.geometry.height, problem.slot),
      columns(problem.geometry.width, problem.slot),
      block_terms(block_terms_of(problem)),
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

Gather::Gather(const Gather& whole, Range filled_columns, std::int64_t element_bytes)
    : batch(whole.batch),
      groups(whole.groups),
      source_channels(whole.source_channels),
      filled_channels(whole.filled_channels),
      rows(whole.rows, {0, whole.rows.filled_size}),
      columns(whole.columns, filled_columns),
      source_strides(whole.source_strides),
      filled_strides(whole.filled_strides),
      block_terms(whole.block_terms),
      w_group(whole.w_group),
      w_filled(whole.w_filled),
      w_source(whole.w_source),
      w_row(whole.w_row),
      w_column(whole.w_column),
      w(whole.w),
      bias(whole.bias) {
  source = static_cast<const std::byte*>(whole.source) +
           (rows.source_first * source_strides.row + columns.source_first * source_strides.column) *
               element_bytes;
  filled = static_cast<std::byte*>(whole.filled) +
           filled_columns.first * filled_strides.column * element_bytes;
}

Range outputs_inside(const Axis& axis, std::int64_t k) {
  const std::int64_t reach = k * axis.dilation - axis.padding;  // input = output * stride + reach
  const std::int64_t first = std::max<std::int64_t>(0, -floor_divide(reach, axis.stride));
  const std::int64_t last =
      std::min(axis.output, floor_divide(axis.input - 1 - reach, axis.stride) + 1);
  return {first, std::max(first, last)};
}

}  // namespace handconv
