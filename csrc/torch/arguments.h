// From tensors and arguments to a checked GeometryOf<Int>. Every refusal of bad input is worded
// here, as F.conv2d words it, and happens before any kernel runs. Int is int64_t for a real call
// and c10::SymInt while shapes are traced.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <array>
#include <optional>
#include <utility>

#include "geometry.h"

namespace handconv {

// How the kernel moves over the image: everything about a convolution that no tensor's shape tells.
// Pairs are (height, width).
template <class Int>
struct WindowOf {
  std::array<Int, 2> stride, padding, dilation;
  Int groups;
};
using Window = WindowOf<c10::SymInt>;

// Checked arguments. A pair may be given as one number for both axes.
template <class Int>
WindowOf<Int> make_window(c10::ArrayRef<Int> stride, c10::ArrayRef<Int> padding,
                          c10::ArrayRef<Int> dilation, const Int& groups);

// The tensors of F(y, x, w), by slot.
struct Operands {
  std::array<at::Tensor, kSlotCount> tensors;

  at::Tensor& operator[](Slot slot) { return tensors[static_cast<int>(slot)]; }
  const at::Tensor& operator[](Slot slot) const { return tensors[static_cast<int>(slot)]; }
};

// The two slots that an operation reads, in the order of its arguments.
std::pair<Slot, Slot> operand_slots(Slot filled);

// "conv2d", "conv2d_input_grad", "conv2d_weight_grad".
const char* operation_name(Slot filled);

// The geometry of the operation that fills `filled`; raises for operands that do not fit one
// another. `size` holds the spatial size of what is filled, which a stride leaves open: (H, W) for
// x, (KH, KW) for w; y's follows from the rest and it is ignored. y may be smaller than the natural
// output size (the rows that output_padding adds to x are such a case): positions of y outside it
// count as zeros.
template <class Int>
GeometryOf<Int> make_geometry(Slot filled, const Operands& operands,
                              const std::optional<at::Tensor>& bias, c10::ArrayRef<Int> size,
                              const WindowOf<Int>& window);

// The shape of what is filled.
template <class Int>
std::array<Int, 4> filled_shape(Slot filled, const GeometryOf<Int>& geometry);

// No products are summed into any element: what is left is the bias.
bool sums_are_empty(Slot filled, const Geometry& geometry);

// Images of one column, as sequences come that are laid along the height, solved as images of one
// row, which lie in memory alike: kernels go along rows.
inline Problem one_row_for_one_column(Problem problem) {
  const Axis& width = problem.geometry.width;
  if (width.input == 1 && width.kernel == 1 && width.output == 1 && width.padding == 0) {
    std::swap(problem.geometry.height, problem.geometry.width);
    std::swap(problem.w_strides.row, problem.w_strides.column);
  }
  return problem;
}

// channels_last if either operand is, as F.conv2d does; contiguous otherwise.
at::MemoryFormat filled_format(const at::Tensor& first, const at::Tensor& second);

// Of tensors that make_geometry has not refused.
DType to_dtype(at::ScalarType type);
Layout to_layout(at::MemoryFormat format);

}  // namespace handconv
