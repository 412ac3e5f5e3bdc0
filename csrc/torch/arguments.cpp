#include "torch/arguments.h"

#include <c10/util/Exception.h>

#include <limits>

namespace handconv {
namespace {

// Twice a padding must be a number, and so must the reach of a dilated kernel.
constexpr int64_t kLargest = std::numeric_limits<int64_t>::max() / 2;

template <class Int>
c10::ArrayRef<Int> sizes_of(const at::Tensor& tensor) {
  if constexpr (std::is_same_v<Int, int64_t>) {
    return tensor.sizes();
  } else {
    return tensor.sym_sizes();
  }
}

template <class Int>
std::array<Int, 2> expand_pair(c10::ArrayRef<Int> values, const char* name) {
  TORCH_CHECK(values.size() == 1 || values.size() == 2, "expected ", name,
              " to be a single integer value or a list of 2 values to match the convolution "
              "dimensions, but got ",
              name, "=", values);
  return {values.front(), values.back()};
}

template <class Int, class Predicate>
bool both(const std::array<Int, 2>& pair, Predicate holds) {
  return holds(pair[0]) && holds(pair[1]);
}

std::string type_name(const at::Tensor& tensor, bool with_device) {
  return with_device ? tensor.toString() : c10::str(tensor.dtype().name());
}

void check_same_type(const at::Tensor& input, const at::Tensor& other, const char* other_name) {
  const bool same_device = input.device() == other.device();
  TORCH_CHECK(same_device && input.scalar_type() == other.scalar_type(), "Input type (",
              type_name(input, !same_device), ") and ", other_name, " type (",
              type_name(other, !same_device), ") should be the same");
}

void check_supported(Slot filled, const at::Tensor& tensor) {
  const auto dtype = tensor.scalar_type();
  const bool supported =
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf;
  TORCH_CHECK_NOT_IMPLEMENTED(supported, "handconv::", operation_name(filled),
                              " is not implemented for dtype ", dtype,
                              "; supported are float32, float64, bfloat16 and float16");
}

void check_is_image(const at::Tensor& tensor, const char* operation) {
  TORCH_CHECK(tensor.dim() == 4, "Expected 3D (unbatched) or 4D (batched) input to ", operation,
              ", but got input of size: ", tensor.sym_sizes());
}

void check_is_weight(const at::Tensor& w, const at::Tensor& input) {
  TORCH_CHECK(w.dim() == 4, "Expected ", w.dim(), "-dimensional input for ", w.dim(),
              "-dimensional weight ", w.sym_sizes(), ", but got ", input.dim(),
              "-dimensional input of size ", input.sym_sizes(), " instead");
}

template <class Int>
void check_weight_and_groups(c10::ArrayRef<Int> w, const Int& groups) {
  TORCH_CHECK(w[0] >= groups, "Given groups=", groups, ", expected weight to be at least ", groups,
              " at dimension 0, but got weight of size ", w, " instead");
  TORCH_CHECK(w[0] % groups == 0, "Given groups=", groups, ", expected weight to be divisible by ",
              groups, " at dimension 0, but got weight of size [", w, "] instead");
}

// `given` is how F.conv2d and F.conv_transpose2d begin the sentence.
template <class Int>
void check_channels(const std::string& given, c10::ArrayRef<Int> w, c10::ArrayRef<Int> input,
                    const Int& expected) {
  TORCH_CHECK(input[1] == expected, given, "weight of size ", w, ", expected input", input,
              " to have ", expected, " channels, but got ", input[1], " channels instead");
}

template <class Int>
void check_bias(const std::string& given, c10::ArrayRef<Int> w, const at::Tensor& bias,
                const Int& expected) {
  TORCH_CHECK(bias.dim() == 1 && sizes_of<Int>(bias)[0] == expected, given, "weight of size ", w,
              ", expected bias to be 1-dimensional with ", expected,
              " elements, but got bias of size ", sizes_of<Int>(bias), " instead");
}

template <class Int>
void check_kernel_fits(const GeometryOf<Int>& geometry) {
  const auto& [h, w] = std::tie(geometry.height, geometry.width);
  TORCH_CHECK(h.kernel > 0 && w.kernel > 0,
              "kernel size should be greater than zero, but got kernel_height: ", h.kernel,
              " kernel_width: ", w.kernel);
  TORCH_CHECK(h.dilation <= kLargest / h.kernel && w.dilation <= kLargest / w.kernel,
              "Given dilation=(", h.dilation, ", ", w.dilation, ") and a kernel of size (",
              h.kernel, ", ", w.kernel, "), expected the dilated kernel to span at most ", kLargest,
              " elements");
  TORCH_CHECK(h.padded_input() >= h.receptive_field() && w.padded_input() >= w.receptive_field(),
              "Calculated padded input size per channel: (", h.padded_input(), " x ",
              w.padded_input(), "). Kernel size: (", h.receptive_field(), " x ",
              w.receptive_field(), "). Kernel size can't be greater than actual input size");
}

// An image without pixels has no convolution, whatever its padding; but no images have one. How
// many there are is asked last: while shapes are traced it may depend on data and have no answer.
template <class Int>
void check_has_pixels(c10::ArrayRef<Int> image) {
  TORCH_CHECK((image[2] > 0 && image[3] > 0) || image[0] == 0,
              "Only zero batch or zero channel inputs are supported, but got input shape: ", image);
}

template <class Int>
GeometryOf<Int> assemble(const Int& batch, const Int& in_channels, const Int& out_channels,
                         const std::array<Int, 2>& input, const std::array<Int, 2>& kernel,
                         const WindowOf<Int>& window) {
  const auto axis = [&](int i) -> AxisOf<Int> {
    return {input[i], kernel[i], window.stride[i], window.padding[i], window.dilation[i], Int(0)};
  };
  GeometryOf<Int> geometry{batch, window.groups, in_channels, out_channels, axis(0), axis(1)};
  check_kernel_fits(geometry);
  geometry.height.output = geometry.height.natural_output();
  geometry.width.output = geometry.width.natural_output();
  return geometry;
}

// y is given: its own size counts, which may fall short of the natural one.
template <class Int>
void adopt_output_size(GeometryOf<Int>& geometry, c10::ArrayRef<Int> y) {
  TORCH_CHECK(y[2] <= geometry.height.output && y[3] <= geometry.width.output, "y of size ", y,
              " is larger than the output that x and w of these sizes give, (",
              geometry.height.output, " x ", geometry.width.output, ")");
  geometry.height.output = y[2];
  geometry.width.output = y[3];
}

template <class Int>
std::array<Int, 2> spatial(c10::ArrayRef<Int> shape) {
  return {shape[2], shape[3]};
}

template <class Int>
std::string given_groups(const WindowOf<Int>& window) {
  return c10::str("Given groups=", window.groups, ", ");
}

template <class Int>
GeometryOf<Int> forward_geometry(const at::Tensor& x_tensor, const at::Tensor& w_tensor,
                                 const std::optional<at::Tensor>& bias,
                                 const WindowOf<Int>& window) {
  check_is_image(x_tensor, "conv2d");
  check_is_weight(w_tensor, x_tensor);
  const auto x = sizes_of<Int>(x_tensor), w = sizes_of<Int>(w_tensor);
  check_weight_and_groups(w, window.groups);
  check_channels<Int>(given_groups(window), w, x, w[1] * window.groups);
  if (bias) check_bias<Int>("Given ", w, *bias, w[0]);
  check_has_pixels(x);
  return assemble<Int>(x[0], x[1], w[0], spatial(x), spatial(w), window);
}

template <class Int>
GeometryOf<Int> input_grad_geometry(const at::Tensor& y_tensor, const at::Tensor& w_tensor,
                                    const std::optional<at::Tensor>& bias,
                                    const std::array<Int, 2>& size, const WindowOf<Int>& window) {
  check_is_image(y_tensor, "conv_transpose2d");
  check_is_weight(w_tensor, y_tensor);
  const auto y = sizes_of<Int>(y_tensor), w = sizes_of<Int>(w_tensor);
  check_weight_and_groups(w, window.groups);
  check_channels<Int>("Given transposed=1, ", w, y, w[0]);
  const Int channels = w[1] * window.groups;
  if (bias) check_bias<Int>("Given transposed=1, ", w, *bias, channels);
  check_has_pixels(y);
  TORCH_CHECK(size[0] > 0 && size[1] > 0, "the size of x should be greater than zero, but got (",
              size[0], " x ", size[1], ")");
  auto geometry = assemble<Int>(y[0], channels, w[0], size, spatial(w), window);
  adopt_output_size(geometry, y);
  return geometry;
}

template <class Int>
GeometryOf<Int> weight_grad_geometry(const at::Tensor& y_tensor, const at::Tensor& x_tensor,
                                     const std::array<Int, 2>& size, const WindowOf<Int>& window) {
  check_is_image(y_tensor, "conv2d_weight_grad");
  check_is_image(x_tensor, "conv2d_weight_grad");
  const auto y = sizes_of<Int>(y_tensor), x = sizes_of<Int>(x_tensor);
  TORCH_CHECK(x[0] == y[0], "x of size ", x, " and y of size ", y,
              " should have the same batch size");
  TORCH_CHECK(x[1] % window.groups == 0 && y[1] % window.groups == 0,
              "Given groups=", window.groups,
              ", expected the channels of x and of y to be divisible by it, but got x of size ", x,
              " and y of size ", y);
  check_has_pixels(x);
  check_has_pixels(y);
  auto geometry = assemble<Int>(x[0], x[1], y[1], spatial(x), size, window);
  adopt_output_size(geometry, y);
  return geometry;
}

}  // namespace

template <class Int>
WindowOf<Int> make_window(c10::ArrayRef<Int> stride, c10::ArrayRef<Int> padding,
                          c10::ArrayRef<Int> dilation, const Int& groups) {
  TORCH_CHECK(groups > 0, "non-positive groups is not supported");
  WindowOf<Int> window{expand_pair(stride, "stride"), expand_pair(padding, "padding"),
                       expand_pair(dilation, "dilation"), groups};
  TORCH_CHECK(both(window.padding, [](const Int& p) { return p >= 0; }),
              "negative padding is not supported");
  TORCH_CHECK(both(window.stride, [](const Int& s) { return s > 0; }),
              "non-positive stride is not supported");
  TORCH_CHECK(both(window.dilation, [](const Int& d) { return d > 0; }),
              "dilation should be greater than zero");
  for (int i = 0; i < 2; ++i) {
    TORCH_CHECK(window.padding[i] <= kLargest, "Given padding=", window.padding[i],
                " at dimension ", i, " , expected padding to be at most ", kLargest);
  }
  return window;
}

std::pair<Slot, Slot> operand_slots(Slot filled) {
  switch (filled) {
    case Slot::kOutput:
      return {Slot::kInput, Slot::kWeight};
    case Slot::kInput:
      return {Slot::kOutput, Slot::kWeight};
    default:
      return {Slot::kOutput, Slot::kInput};
  }
}

const char* operation_name(Slot filled) {
  constexpr const char* kNames[kSlotCount] = {"conv2d", "conv2d_input_grad", "conv2d_weight_grad"};
  return kNames[static_cast<int>(filled)];
}

template <class Int>
GeometryOf<Int> make_geometry(Slot filled, const Operands& operands,
                              const std::optional<at::Tensor>& bias, c10::ArrayRef<Int> size,
                              const WindowOf<Int>& window) {
  const auto [first, second] = operand_slots(filled);
  check_same_type(operands[first], operands[second], filled == Slot::kWeight ? "x" : "weight");
  if (bias) check_same_type(operands[first], *bias, "bias");
  check_supported(filled, operands[first]);
  switch (filled) {
    case Slot::kOutput:
      return forward_geometry<Int>(operands[first], operands[second], bias, window);
    case Slot::kInput:
      return input_grad_geometry<Int>(operands[first], operands[second], bias,
                                      expand_pair(size, "size"), window);
    default:
      return weight_grad_geometry<Int>(operands[first], operands[second], expand_pair(size, "size"),
                                       window);
  }
}

template <class Int>
std::array<Int, 4> filled_shape(Slot filled, const GeometryOf<Int>& geometry) {
  const auto& [h, w] = std::tie(geometry.height, geometry.width);
  switch (filled) {
    case Slot::kOutput:
      return {geometry.batch, geometry.out_channels, h.output, w.output};
    case Slot::kInput:
      return {geometry.batch, geometry.in_channels, h.input, w.input};
    default:
      return {geometry.out_channels, geometry.in_channels_per_group(), h.kernel, w.kernel};
  }
}

bool sums_are_empty(Slot filled, const Geometry& geometry) {
  return filled == Slot::kWeight ? geometry.batch == 0
                                 : geometry.in_channels == 0 || geometry.out_channels == 0;
}

at::MemoryFormat filled_format(const at::Tensor& first, const at::Tensor& second) {
  const bool channels_last = first.suggest_memory_format() == at::MemoryFormat::ChannelsLast ||
                             second.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

DType to_dtype(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return DType::kFloat64;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kHalf:
      return DType::kFloat16;
    default:
      return DType::kFloat32;
  }
}

Layout to_layout(at::MemoryFormat format) {
  return format == at::MemoryFormat::ChannelsLast ? Layout::kNhwc : Layout::kNchw;
}

#define HANDCONV_INSTANTIATE(Int)                                                                 \
  template WindowOf<Int> make_window(c10::ArrayRef<Int>, c10::ArrayRef<Int>, c10::ArrayRef<Int>,  \
                                     const Int&);                                                 \
  template GeometryOf<Int> make_geometry(Slot, const Operands&, const std::optional<at::Tensor>&, \
                                         c10::ArrayRef<Int>, const WindowOf<Int>&);               \
  template std::array<Int, 4> filled_shape(Slot, const GeometryOf<Int>&);
HANDCONV_INSTANTIATE(int64_t)
HANDCONV_INSTANTIATE(c10::SymInt)
#undef HANDCONV_INSTANTIATE

}  // namespace handconv
