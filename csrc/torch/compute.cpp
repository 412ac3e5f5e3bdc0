// Where tensors become pointers: the ops on the devices that have kernels.

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include "table.h"
#include "torch/operations.h"
#include "torch/switches.h"

namespace handconv {
namespace {

std::vector<int64_t> to_ints(c10::SymIntArrayRef values) {
  const auto ints = C10_AS_INTARRAYREF_SLOW(values);
  return ints.vec();
}

WindowOf<int64_t> to_ints(const Window& window) {
  const auto pair = [](const std::array<c10::SymInt, 2>& values) -> std::array<int64_t, 2> {
    return {values[0].expect_int(), values[1].expect_int()};
  };
  return {pair(window.stride), pair(window.padding), pair(window.dilation),
          window.groups.expect_int()};
}

void fill_with_bias(at::Tensor& filled, const std::optional<at::Tensor>& bias) {
  filled.zero_();
  if (bias) filled.add_(bias->reshape({1, -1, 1, 1}));
}

// CUDA kernels load 16 bytes at a time where they can, and some sum in another order where they
// cannot; so that values alone decide the result, an image that begins elsewhere is copied.
bool is_aligned(const at::Tensor& image) {
  return image.is_cpu() || reinterpret_cast<std::uintptr_t>(image.const_data_ptr()) % 16 == 0;
}

// Images are read in the layout of the problem; a weight is read wherever its strides lead.
void make_dense(Operands& operands, Slot filled, at::MemoryFormat format) {
  for (const auto slot : {Slot::kOutput, Slot::kInput}) {
    at::Tensor& image = operands[slot];
    if (slot == filled || !image.defined()) continue;
    image = image.contiguous(format);
    if (!is_aligned(image)) image = image.clone(format);
  }
}

// The stream that torch has made current on that device, as the cudaStream_t that it is.
void* current_stream(const c10::Device& device) {
  if (device.is_cpu()) return nullptr;
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle();
}

// What follows the workspace of a call. Where torch was asked to fill new memory, a kernel that
// writes beyond its workspace is found out by it.
constexpr int64_t kGuardBytes = 64;

bool memory_is_filled(const at::Tensor& scratch) {
  return scratch.is_cpu() && at::globalContext().deterministicAlgorithms() &&
         at::globalContext().deterministicFillUninitializedMemory();
}

void check_guard(const at::Tensor& scratch, const Kernel& kernel) {
  const auto* guard = scratch.const_data_ptr<uint8_t>() + scratch.numel() - kGuardBytes;
  for (int64_t i = 0; i < kGuardBytes; ++i) {
    TORCH_INTERNAL_ASSERT(guard[i] == 0xff, kernel.name, " wrote beyond its workspace");
  }
}

void run(const Problem& problem, Algorithm algorithm, const Operands& operands,
         const std::optional<at::Tensor>& bias) {
  const Kernel& kernel = choose(problem, algorithm);
  const WorkspaceSize size = kernel.workspace(problem);
  const auto bytes = static_cast<int64_t>(Workspace::total_bytes(size, at::get_num_threads()));
  const c10::Device device = operands[problem.slot].device();
  const at::Tensor scratch = at::empty({bytes + (device.is_cpu() ? kGuardBytes : 0)},
                                       at::TensorOptions(device).dtype(at::kByte));
  const auto pointer = [](const at::Tensor& tensor) {
    return const_cast<void*>(tensor.const_data_ptr());
  };
  const Buffers buffers{pointer(operands[Slot::kInput]), pointer(operands[Slot::kWeight]),
                        pointer(operands[Slot::kOutput]), bias ? bias->const_data_ptr() : nullptr,
                        current_stream(device)};
  kernel.run(problem, buffers,
             Workspace(static_cast<std::byte*>(scratch.mutable_data_ptr()), size));
  if (memory_is_filled(scratch)) check_guard(scratch, kernel);
}

template <Device device>
at::Tensor compute(const Call& call) {
  const Slot filled = call.filled;
  const auto [first, second] = operand_slots(filled);
  const auto size = to_ints(call.size);
  const Geometry geometry =
      make_geometry<int64_t>(filled, call.operands, call.bias, size, to_ints(call.window));
  const auto format = filled_format(call.operands[first], call.operands[second]);

  const c10::DeviceGuard guard(call.operands[first].device());
  Operands operands = call.operands;
  at::Tensor& result = operands[filled];
  result = at::empty(filled_shape(filled, geometry),
                     call.operands[first].options().memory_format(format));
  if (result.numel() == 0) return result;
  const auto bias = call.bias ? std::optional(call.bias->contiguous()) : std::nullopt;
  if (sums_are_empty(filled, geometry)) {
    fill_with_bias(result, bias);
    return result;
  }
  make_dense(operands, filled, format);
  const auto w_strides = operands[Slot::kWeight].strides();
  const Problem problem =
      one_row_for_one_column({device,
                              filled,
                              to_dtype(result.scalar_type()),
                              to_layout(format),
                              bias.has_value(),
                              allows_tf32(device),
                              allows_winograd(call.algorithm),
                              geometry,
                              {w_strides[0], w_strides[1], w_strides[2], w_strides[3]}});
  run(problem, call.algorithm, operands, bias);
  return result;
}

#if !HANDCONV_WITH_CUDA
at::Tensor refuse_cuda(const Call& call) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, "handconv::", operation_name(call.filled),
      " got a CUDA tensor, but handconv was built without CUDA. With a torch that has CUDA and a "
      "toolkit (nvcc) of the same major version, install it again; HANDCONV_CUDA=1 says what is "
      "missing");
}
#endif

}  // namespace
}  // namespace handconv

TORCH_LIBRARY_IMPL(handconv, CPU, library) {
  handconv::register_trios<handconv::compute<handconv::Device::kCpu>>(library);
}

TORCH_LIBRARY_IMPL(handconv, CUDA, library) {
#if HANDCONV_WITH_CUDA
  handconv::register_trios<handconv::compute<handconv::Device::kCuda>>(library);
#else
  handconv::register_trios<handconv::refuse_cuda>(library);
#endif
}
