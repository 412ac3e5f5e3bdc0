// Lanes are the filled channels of a group: the kernel of channels.h and its rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/pixel_tiles.h"
#include "cpu/lanes.h"
#include "cpu/pixel_kernel.h"
#include "cpu/channels.h"
#include "rows.h"
// clang-format on

constexpr const char* kChannels = "cpu.direct.channels." HANDCONV_ISA_NAME;
constexpr const char* kAboutChannels =
    "lanes are output channels of a group, pixels are reached through pointers";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<ChannelsKernel>(kChannels, Slot::kOutput, Algorithm::kDirect, kAboutChannels, never_refuse, too_large_to_convert),
    make_row<ChannelsKernel>(kChannels, Slot::kInput,  Algorithm::kDirect, kAboutChannels, never_refuse, too_large_to_convert),
};
// clang-format on
