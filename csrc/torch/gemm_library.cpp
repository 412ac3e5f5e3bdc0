// The GEMM of the im2col algorithm by torch, that is by cuBLAS.

#include "cuda/gemm_library.h"

#if HANDCONV_WITH_CUDA

#include <ATen/Context.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <array>
#include <optional>

namespace handconv {
namespace {

at::ScalarType to_scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return at::kDouble;
    case DType::kBFloat16:
      return at::kBFloat16;
    case DType::kFloat16:
      return at::kHalf;
    default:
      return at::kFloat;
  }
}

// The matrices [first, first + count) of a batch, as a tensor that does not own its memory.
template <class Pointer>
at::Tensor view(const MatrixBatch<Pointer>& matrices, std::int64_t first, std::int64_t count,
                std::int64_t rows, std::int64_t columns, const at::TensorOptions& options) {
  const auto* base = static_cast<const char*>(matrices.data) +
                     first * matrices.batch_stride * options.dtype().itemsize();
  const std::array<std::int64_t, 3> sizes{count, rows, columns};
  const std::array<std::int64_t, 3> strides{matrices.batch_stride, matrices.row_stride,
                                            matrices.column_stride};
  // With its device named, the memory need not be looked up.
  return at::for_blob(const_cast<char*>(base), sizes)
      .strides(strides)
      .options(options)
      .target_device(options.device())
      .make_tensor();
}

}  // namespace

// The library is asked once for each product, whose sizes and alignment do not depend on the batch
// of the convolution; cuBLAS then chooses the same kernel, and repeats its results bit by bit, each
// stream having a workspace of its own. torch runs it on the current stream, which `stream` is.
void multiply_matrices(const BatchedProduct& product, void*) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  std::optional<at::NoTF32Guard> no_tf32;
  if (!product.allows_tf32) no_tf32.emplace();
  constexpr std::int64_t kLargestBatch = 1 << 15;  // the grid of a batched GEMM ends at 2^16
  const c10::impl::VirtualGuardImpl device(at::kCUDA);
  const auto options = at::TensorOptions(to_scalar_type(product.dtype)).device(device.getDevice());
  for (std::int64_t first = 0; first < product.batch; first += kLargestBatch) {
    const std::int64_t count = std::min(kLargestBatch, product.batch - first);
    const at::Tensor a = view(product.a, first, count, product.m, product.k, options);
    const at::Tensor b = view(product.b, first, count, product.k, product.n, options);
    at::Tensor c = view(product.c, first, count, product.m, product.n, options);
    if (product.accumulate) {
      at::baddbmm_out(c, c, a, b);
    } else {
      at::bmm_out(c, a, b);
    }
  }
}

}  // namespace handconv

#endif
