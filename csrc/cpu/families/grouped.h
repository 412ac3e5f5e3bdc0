// Lanes are the output channels of one group: the kernel of grouped_weight.h and its row.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/grouped_weight.h"
#include "rows.h"
// clang-format on

constexpr const char* kGrouped = "cpu.direct.grouped." HANDCONV_ISA_NAME;
constexpr const char* kAboutGrouped =
    "lanes are output channels of one group, inputs are broadcast from padded pixels in scratch";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<GroupedWeightKernel>(kGrouped, Slot::kWeight, Algorithm::kDirect, kAboutGrouped, never_refuse, many_channels_for_weights),
};
// clang-format on
