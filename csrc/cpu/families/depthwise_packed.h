// Lanes are channels of packed strips, for large depthwise kernels in either layout: the kernel of
// depthwise_packed*.h and its rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/depthwise_sums.h"
#include "cpu/depthwise_packed_tile.h"
#include "cpu/depthwise_packed_plan.h"
#include "cpu/depthwise_packed.h"
#include "rows.h"
// clang-format on

constexpr const char* kPacked = "cpu.direct.depthwise.packed." HANDCONV_ISA_NAME;
constexpr const char* kAboutPacked = "lanes are channels of strips that are copied and padded";

inline Refusal small_depthwise_kernel_here(const Problem& problem) {
  return small_depthwise_kernel(problem, kVectorBytes);
}

// clang-format off
constexpr Kernel kRows[] = {
    make_row<DepthwisePackedKernel>(kPacked, Slot::kOutput, Algorithm::kDirect, kAboutPacked, needs_depthwise_with_stride_1, small_depthwise_kernel_here),
    make_row<DepthwisePackedKernel>(kPacked, Slot::kInput,  Algorithm::kDirect, kAboutPacked, needs_depthwise_with_stride_1, small_depthwise_kernel_here),
};
// clang-format on
