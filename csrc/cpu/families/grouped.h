// Lanes are the channels of one group or of several: the kernels of broadcast.h, grouped_channels.h
// and grouped_weight.h and their rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/axis_reach.h"
#include "cpu/ranges.h"
#include "cpu/weight_orders.h"
#include "cpu/broadcast_tile.h"
#include "cpu/broadcast_weights.h"
#include "cpu/broadcast_plan.h"
#include "cpu/broadcast.h"
#include "cpu/grouped_weights.h"
#include "cpu/grouped_tile.h"
#include "cpu/grouped_plan.h"
#include "cpu/grouped_tables.h"
#include "cpu/grouped_channels.h"
#include "cpu/grouped_weight_tile.h"
#include "cpu/grouped_weight.h"
#include "rows.h"
// clang-format on

constexpr const char* kGrouped = "cpu.direct.grouped." HANDCONV_ISA_NAME;
constexpr const char* kAboutGrouped =
    "lanes are channels of adjacent groups, of padded pixels in scratch";
constexpr const char* kAboutGroupedWeight =
    "lanes are output channels of one group, inputs are broadcast from padded pixels in scratch";

constexpr const char* kBroadcast = "cpu.direct.broadcast." HANDCONV_ISA_NAME;
constexpr const char* kAboutBroadcast =
    "lanes are filled channels of one group, sources are broadcast from padded lines in scratch";

inline Refusal needs_groups_that_fill(const Problem& problem) {
  const int lanes = problem.dtype == DType::kFloat64 ? kLanes<double> : kLanes<float>;
  if (problem.geometry.in_channels_per_group() == 1) return "needs groups of some channels";
  return needs_nhwc_and_groups_that_fill(problem, lanes);
}

// clang-format off
constexpr Kernel kRows[] = {
    make_row<BroadcastKernel>    (kBroadcast, Slot::kOutput, Algorithm::kDirect, kAboutBroadcast, needs_short_sums_and_strides, strips_or<kVectorBytes, better_without_broadcasts>),
    make_row<BroadcastKernel>    (kBroadcast, Slot::kInput,  Algorithm::kDirect, kAboutBroadcast, needs_short_sums_and_strides, strips_or<kVectorBytes, better_without_broadcasts>),
    make_row<GroupedKernel>      (kGrouped, Slot::kOutput, Algorithm::kDirect, kAboutGrouped,       needs_groups_that_fill, needs_some_groups),
    make_row<GroupedKernel>      (kGrouped, Slot::kInput,  Algorithm::kDirect, kAboutGrouped,       needs_groups_that_fill, needs_some_groups),
    make_row<GroupedWeightKernel>(kGrouped, Slot::kWeight, Algorithm::kDirect, kAboutGroupedWeight, never_refuse,           many_channels_for_weights),
};
// clang-format on
