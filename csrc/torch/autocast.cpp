// Under torch.autocast every op runs in the lower precision of its device, as F.conv2d does.

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>

#include "torch/operations.h"

namespace handconv {
namespace {

template <c10::DeviceType device>
at::Tensor conv2d_autocast(const Call& call) {
  const c10::impl::ExcludeDispatchKeyGuard below(
      at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const auto cast = [](const at::Tensor& tensor) {
    return at::autocast::cached_cast(at::autocast::get_autocast_dtype(device), tensor, device);
  };
  Call lowered = call;
  for (auto& operand : lowered.operands.tensors) {
    if (operand.defined()) operand = cast(operand);
  }
  if (lowered.bias) lowered.bias = cast(*lowered.bias);
  return dispatch(lowered);
}

}  // namespace
}  // namespace handconv

TORCH_LIBRARY_IMPL(handconv, AutocastCPU, library) {
  handconv::register_trios<handconv::conv2d_autocast<c10::kCPU>>(library);
}

TORCH_LIBRARY_IMPL(handconv, AutocastCUDA, library) {
  handconv::register_trios<handconv::conv2d_autocast<c10::kCUDA>>(library);
}
