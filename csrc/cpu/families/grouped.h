// Lanes are channels of several small groups: the kernel of grouped_channels.h and its rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/pixel_tiles.h"
#include "cpu/lanes.h"
#include "cpu/pixel_kernel.h"
#include "cpu/grouped_channels.h"
#include "rows.h"
// clang-format on

// Groups whose channels, of y and of x, fit in one vector.
inline Refusal needs_nhwc_and_small_groups(const Problem& problem) {
  const int lanes = problem.dtype == DType::kFloat64 ? kLanes<double> : kLanes<float>;
  return refuse_all_but_small_groups(problem, lanes);
}

constexpr const char* kChannels = "cpu.direct.grouped.channels." HANDCONV_ISA_NAME;
constexpr const char* kAboutChannels =
    "lanes are channels of several groups, which get their inputs permuted";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<GroupedChannelsKernel>(kChannels, Slot::kOutput, Algorithm::kDirect, kAboutChannels, needs_nhwc_and_small_groups, never_refuse),
    make_row<GroupedChannelsKernel>(kChannels, Slot::kInput,  Algorithm::kDirect, kAboutChannels, needs_nhwc_and_small_groups, never_refuse),
};
// clang-format on
