// Convolution as an implicit matrix product: the rows of the table. gemm_product.h says what the
// products are, gemm_simt.h and gemm_tensor_cores.h compute them, gemm_plan.h cuts them.

#include <iterator>

#include "cuda/gemm_plan.h"
#include "cuda/gemm_rows.h"
#include "cuda/kernels.h"

namespace handconv {
namespace cuda {
namespace {

Refusal no_tensor_cores(const Problem& problem) {
  if (problem.dtype == DType::kFloat64) return "needs a 16-bit type, or float32 as TF32";
  if (problem.dtype == DType::kFloat32 && !problem.allows_tf32) return "needs TF32 to be allowed";
  return too_many_tiles(problem);
}

// A few source channels of the only group are worth filling up to a pack: the stem of a network.
Refusal mostly_empty_tiles(const Problem& problem) {
  constexpr int kEnough = 8;
  const Geometry& g = problem.geometry;
  const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
  const bool fills = problem.slot == Slot::kInput ? in >= kEnough : out >= kEnough;
  const bool both = in >= kEnough && out >= kEnough;
  return both || (g.groups == 1 && fills) ? nullptr : "tiles would be mostly empty";
}

#include "rows.h"

template <template <class> class KernelClass>
constexpr Kernel simt_row(Slot slot) {
  return make_row<KernelClass>("cuda.direct.gemm.simt", slot, Algorithm::kDirect,
                               "implicit matrix product, register tiles", too_many_tiles,
                               never_refuse);
}
template <template <class> class KernelClass>
constexpr Kernel tensor_row(Slot slot) {
  return make_row<KernelClass>("cuda.direct.gemm.tensor_cores", slot, Algorithm::kDirect,
                               "implicit matrix product on tensor cores", no_tensor_cores,
                               mostly_empty_tiles);
}

constexpr Kernel kRows[] = {
    tensor_row<TensorGather>(Slot::kOutput), simt_row<SimtGather>(Slot::kOutput),
    tensor_row<TensorGather>(Slot::kInput),  simt_row<SimtGather>(Slot::kInput),
    tensor_row<TensorWeight>(Slot::kWeight), simt_row<SimtWeight>(Slot::kWeight),
};

}  // namespace
}  // namespace cuda

KernelList cuda_gemm() { return {std::begin(cuda::kRows), std::end(cuda::kRows)}; }

}  // namespace handconv
