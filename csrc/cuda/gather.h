// A convolution and its transpose as one thing, as cpu/taps.h has it, in a form that a kernel takes
// as its parameter: every element that is filled gathers source elements through taps.
//
// Along each axis the filled positions fall into classes, within which everything is linear.
// Position i of a class is first + i * step, and through tap t it reads the weight at kernel_first
// + t * kernel_step and the source at i * source_step + offset_first + t * offset_step, where that
// lies inside the source. The convolution has one class. Its transpose has as many as the stride:
// position h gets something from kernel index k only if h + p - k d is a multiple of the stride.
#pragma once

#include "cuda/arithmetic.h"
#include "geometry.h"

namespace handconv {
namespace cuda {

struct AxisClass {
  int first, step, count;
  int source_step;
  int taps;  // may be 0: then the class gets the bias alone
  int kernel_first, kernel_step;
  int offset_first, offset_step;

  HANDCONV_HOST_DEVICE int filled(int i) const { return first + i * step; }
  HANDCONV_HOST_DEVICE int kernel(int tap) const { return kernel_first + tap * kernel_step; }
  HANDCONV_HOST_DEVICE int source(int i, int tap) const {
    return i * source_step + offset_first + tap * offset_step;
  }
};

// One axis of the gather. All numbers, and what is computed from them, fit in an int: see
// too_long_for_int.
struct GatherAxis {
  int source_size, filled_size, kernel_size;
  int stride, padding, dilation;
  bool transposed;

  HANDCONV_HOST_DEVICE int classes() const {
    return !transposed ? 1 : stride < filled_size ? stride : filled_size;
  }
  // Positions of the largest class, which is the first.
  HANDCONV_HOST_DEVICE int largest_class() const {
    return transposed ? ceil_divide(filled_size, stride) : filled_size;
  }

  HANDCONV_HOST_DEVICE AxisClass axis_class(int index) const {
    if (!transposed) return {0, 1, filled_size, stride, kernel_size, 0, 1, -padding, dilation};
    int divisor = stride;  // the greatest common one of stride and dilation
    for (int rest = dilation % stride; rest != 0;) {
      const int next = divisor % rest;
      divisor = rest;
      rest = next;
    }
    const int period = stride / divisor;  // after so many kernel indices the remainder comes again
    int k = 0;
    const int end = period < kernel_size ? period : kernel_size;
    while (k < end && (index + padding - k * dilation) % stride != 0) ++k;
    const int taps = k < end ? (kernel_size - k - 1) / period + 1 : 0;
    return {index,
            stride,
            ceil_divide(filled_size - index, stride),
            1,
            taps,
            k,
            period,
            (index + padding - k * dilation) / stride,
            -(dilation / divisor)};
  }
};

// filled[n, g, f, .] = bias[g, f] + sum over s and taps of w[g, f, s, tap] * source[n, g, s, .]
struct Gather {
  std::int64_t batch, groups;
  int source_channels, filled_channels;  // per group
  GatherAxis rows, columns;
  ImageStrides source_strides, filled_strides;
  std::int64_t w_group, w_filled, w_source, w_row, w_column;  // strides of w, in elements
  const void* source;
  const void* w;
  const void* bias;  // null without a bias
  void* filled;
};

inline GatherAxis make_gather_axis(const Axis& axis, Slot slot) {
  const bool transposed = slot == Slot::kInput;
  const auto number = [](std::int64_t value) { return static_cast<int>(value); };
  return {number(transposed ? axis.output : axis.input),
          number(transposed ? axis.input : axis.output),
          number(axis.kernel),
          number(axis.stride),
          number(axis.padding),
          number(axis.dilation),
          transposed};
}

// For the slots kOutput and kInput.
inline Gather make_gather(const Problem& problem, const Buffers& buffers) {
  const bool forward = problem.slot == Slot::kOutput;
  const Geometry& g = problem.geometry;
  const WeightStrides& w = problem.w_strides;
  const auto in = static_cast<int>(g.in_channels_per_group());
  const auto out = static_cast<int>(g.out_channels_per_group());
  return {g.batch,
          g.groups,
          forward ? in : out,
          forward ? out : in,
          make_gather_axis(g.height, problem.slot),
          make_gather_axis(g.width, problem.slot),
          forward ? problem.x_strides() : problem.y_strides(),
          forward ? problem.y_strides() : problem.x_strides(),
          out * w.out_channel,
          forward ? w.out_channel : w.in_channel,
          forward ? w.in_channel : w.out_channel,
          w.row,
          w.column,
          forward ? buffers.x : buffers.y,
          buffers.w,
          buffers.bias,
          forward ? buffers.y : buffers.x};
}

}  // namespace cuda
}  // namespace handconv
