// Lanes are output channels: the kernel of channels_weight.h and its row.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/ranges.h"
#include "cpu/weight_tile.h"
#include "cpu/weight_packing.h"
#include "cpu/weight_store.h"
#include "cpu/weight_plan.h"
#include "cpu/weight_strips.h"
#include "cpu/channels_weight.h"
#include "rows.h"
// clang-format on

constexpr const char* kChannels = "cpu.direct.channels." HANDCONV_ISA_NAME;
constexpr const char* kAboutChannels = "lanes are output channels of a group, sums run over pixels";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<ChannelsWeightKernel>(kChannels, Slot::kWeight, Algorithm::kDirect, kAboutChannels, never_refuse, never_refuse),
};
// clang-format on
