// The problem that a kernel solves, in plain numbers: no torch type appears here, so that CPU
// kernels, CUDA kernels and their tests all read the same struct.
//
// Vocabulary: x (N, C, H, W) is the input, w (OC, C / groups, KH, KW) the weight, y (N, OC, OH, OW)
// the output of
//     F(y, x, w) = < y, conv(x, w) >,
// a form that is linear in each of the three. A kernel fills one slot of it, given the other two.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define HANDCONV_HOST_DEVICE __host__ __device__
#else
#define HANDCONV_HOST_DEVICE
#endif

namespace handconv {

// Which tensor is filled, and so which operation it is: conv2d fills y, conv2d_input_grad x,
// conv2d_weight_grad w.
enum class Slot { kOutput, kInput, kWeight };
constexpr int kSlotCount = 3;

enum class Device { kCpu, kCuda };
enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16 };
enum class Layout { kNchw, kNhwc };  // the memory order of x and y

// One spatial axis (height or width). Every length is in elements, and `dilation` is the true one:
// neighbouring taps lie `dilation` apart, 1 being the ordinary convolution.
template <class Int>
struct AxisOf {
  Int input;   // H or W
  Int kernel;  // KH or KW
  Int stride;
  Int padding;  // zeros on either side
  Int dilation;
  Int output;  // OH or OW

  // Input elements that one output element looks at, first to last.
  HANDCONV_HOST_DEVICE Int receptive_field() const { return (kernel - 1) * dilation + 1; }
  HANDCONV_HOST_DEVICE Int padded_input() const { return input + padding * 2; }
  // The input position that output position `out` sees through tap `k`; it may lie in the padding.
  HANDCONV_HOST_DEVICE Int input_position(Int out, Int k) const {
    return out * stride - padding + k * dilation;
  }
  // floor((H + 2p - d(k-1) - 1) / s) + 1: the last window that still fits.
  HANDCONV_HOST_DEVICE Int natural_output() const {
    return (padded_input() - receptive_field()) / stride + 1;
  }
};

template <class Int>
struct GeometryOf {
  Int batch;         // N
  Int groups;        // channels are split into this many independent convolutions
  Int in_channels;   // C
  Int out_channels;  // OC
  AxisOf<Int> height;
  AxisOf<Int> width;

  HANDCONV_HOST_DEVICE Int in_channels_per_group() const { return in_channels / groups; }
  HANDCONV_HOST_DEVICE Int out_channels_per_group() const { return out_channels / groups; }
  HANDCONV_HOST_DEVICE Int kernel_area() const { return height.kernel * width.kernel; }
  HANDCONV_HOST_DEVICE Int input_area() const { return height.input * width.input; }
  HANDCONV_HOST_DEVICE Int output_area() const { return height.output * width.output; }
};

using Axis = AxisOf<std::int64_t>;
using Geometry = GeometryOf<std::int64_t>;

// Elements between neighbours of w along each of its dimensions: the weight may come in any memory
// order.
struct WeightStrides {
  std::int64_t out_channel, in_channel, row, column;
};

// Elements between neighbours of x or of y.
struct ImageStrides {
  std::int64_t sample, channel, row, column;
};

HANDCONV_HOST_DEVICE inline ImageStrides image_strides(Layout layout, std::int64_t channels,
                                                       std::int64_t height, std::int64_t width) {
  const std::int64_t sample = channels * height * width;
  if (layout == Layout::kNchw) return {sample, height * width, width, 1};
  return {sample, 1, width * channels, channels};
}

struct Problem {
  Device device;
  Slot slot;
  DType dtype;  // of x, w, y and the bias alike
  Layout layout;
  bool has_bias;         // added to what the slot fills: OC elements when y is filled, C when x is
  bool allows_tf32;      // float32 products may be rounded to TF32, as torch's own switch says
  bool allows_winograd;  // it was asked for, or its switch is on
  Geometry geometry;
  WeightStrides w_strides;

  HANDCONV_HOST_DEVICE ImageStrides x_strides() const {
    return image_strides(layout, geometry.in_channels, geometry.height.input, geometry.width.input);
  }
  HANDCONV_HOST_DEVICE ImageStrides y_strides() const {
    return image_strides(layout, geometry.out_channels, geometry.height.output,
                         geometry.width.output);
  }
};

// The buffers of one call. The tensor that the slot fills is written everywhere and never read; the
// others are only read.
struct Buffers {
  void* x;
  void* w;
  void* y;
  const void* bias;  // null without a bias
  void* stream;      // the cudaStream_t that kernels run on; null on the CPU
};

}  // namespace handconv
