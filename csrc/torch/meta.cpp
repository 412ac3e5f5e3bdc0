// Shapes, dtypes and strides of the results, without computing them: what torch.compile,
// torch.export and FakeTensor run.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "torch/operations.h"

namespace handconv {
namespace {

at::Tensor conv2d_meta(const Call& call) {
  const auto [first, second] = operand_slots(call.filled);
  const auto geometry =
      make_geometry<c10::SymInt>(call.filled, call.operands, call.bias, call.size, call.window);
  const auto format = filled_format(call.operands[first], call.operands[second]);
  return at::empty_symint(filled_shape(call.filled, geometry),
                          call.operands[first].options().memory_format(format));
}

}  // namespace
}  // namespace handconv

TORCH_LIBRARY_IMPL(handconv, Meta, library) {
  handconv::register_trios<handconv::conv2d_meta>(library);
}
