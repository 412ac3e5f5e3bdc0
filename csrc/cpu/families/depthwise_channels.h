// Lanes are channels, each a group of its own: the kernels of depthwise_channels*.h and their rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/ranges.h"
#include "cpu/depthwise_columns.h"
#include "cpu/depthwise_channels_ahead.h"
#include "cpu/depthwise_channels_tile.h"
#include "cpu/depthwise_channels_plan.h"
#include "cpu/depthwise_channels_weights.h"
#include "cpu/depthwise_channels.h"
#include "cpu/depthwise_channels_weight.h"
#include "rows.h"
// clang-format on

constexpr const char* kChannels = "cpu.direct.depthwise.channels." HANDCONV_ISA_NAME;
constexpr const char* kAboutChannels = "lanes are channels, each a group of its own";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<DepthwiseChannelsKernel>      (kChannels, Slot::kOutput, Algorithm::kDirect, kAboutChannels, needs_nhwc_and_depthwise, better_by_rows_or_lanes),
    make_row<DepthwiseChannelsKernel>      (kChannels, Slot::kInput,  Algorithm::kDirect, kAboutChannels, needs_nhwc_and_depthwise, better_by_rows_or_lanes),
    make_row<DepthwiseChannelsWeightKernel>(kChannels, Slot::kWeight, Algorithm::kDirect, kAboutChannels, needs_nhwc_and_depthwise, better_by_rows_or_lanes),
};
// clang-format on
