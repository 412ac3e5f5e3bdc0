// Lanes are channels: the kernels of channels.h and channels_weight.h and their rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/pixel_tiles.h"
#include "cpu/lanes.h"
#include "cpu/channels.h"
#include "cpu/channels_weight.h"
#include "rows.h"
// clang-format on

// Groups whose channels, of y and of x, fit in one vector.
inline Refusal needs_nhwc_and_small_groups(const Problem& problem) {
  const int lanes = problem.dtype == DType::kFloat64 ? kLanes<double> : kLanes<float>;
  return refuse_all_but_small_groups(problem, lanes);
}

constexpr const char* kDepthwise = "cpu.direct.depthwise." HANDCONV_ISA_NAME;
constexpr const char* kGrouped = "cpu.direct.grouped." HANDCONV_ISA_NAME;
constexpr const char* kChannels = "cpu.direct.channels." HANDCONV_ISA_NAME;
constexpr const char* kAboutDepthwise = "lanes are channels, each a group of its own";
constexpr const char* kAboutGrouped =
    "lanes are channels of several groups, which get their inputs permuted";
constexpr const char* kAboutChannels =
    "lanes are output channels of a group, pixels are reached through pointers";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<DepthwiseKernel>      (kDepthwise, Slot::kOutput, Algorithm::kDirect, kAboutDepthwise, needs_nhwc_and_depthwise, never_refuse),
    make_row<DepthwiseKernel>      (kDepthwise, Slot::kInput,  Algorithm::kDirect, kAboutDepthwise, needs_nhwc_and_depthwise, never_refuse),
    make_row<DepthwiseWeightKernel>(kDepthwise, Slot::kWeight, Algorithm::kDirect, kAboutDepthwise, needs_nhwc_and_depthwise, never_refuse),
    make_row<GroupedKernel>        (kGrouped,   Slot::kOutput, Algorithm::kDirect, kAboutGrouped,   needs_nhwc_and_small_groups, never_refuse),
    make_row<GroupedKernel>        (kGrouped,   Slot::kInput,  Algorithm::kDirect, kAboutGrouped,   needs_nhwc_and_small_groups, never_refuse),
    make_row<ChannelsKernel>       (kChannels,  Slot::kOutput, Algorithm::kDirect, kAboutChannels,  never_refuse, too_large_to_convert),
    make_row<ChannelsKernel>       (kChannels,  Slot::kInput,  Algorithm::kDirect, kAboutChannels,  never_refuse, too_large_to_convert),
    make_row<ChannelsWeightKernel> (kChannels,  Slot::kWeight, Algorithm::kDirect, kAboutChannels,  never_refuse, too_large_to_convert),
};
// clang-format on
