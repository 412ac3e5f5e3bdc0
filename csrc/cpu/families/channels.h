// Lanes are the filled channels of a group, or pixels: the kernel of gemm.h and its rows; and the
// kernel of channels.h.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/pixel_tiles.h"
#include "cpu/lanes.h"
#include "cpu/channels.h"
#include "cpu/gemm_tile.h"
#include "cpu/gemm_plan.h"
#include "cpu/gemm_images.h"
#include "cpu/gemm_weights.h"
#include "cpu/gemm.h"
#include "rows.h"
// clang-format on

constexpr const char* kGemm = "cpu.direct.gemm." HANDCONV_ISA_NAME;
constexpr const char* kAboutGemm =
    "pixels by channels, packed in blocks that stay in the caches; lanes are what adjoins in "
    "memory";
constexpr const char* kChannels = "cpu.direct.channels." HANDCONV_ISA_NAME;
constexpr const char* kAboutChannels =
    "lanes are output channels of a group, pixels are reached through pointers";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<GemmByLayout>  (kGemm,     Slot::kOutput, Algorithm::kDirect, kAboutGemm,     never_refuse, better_without_packing),
    make_row<GemmByLayout>  (kGemm,     Slot::kInput,  Algorithm::kDirect, kAboutGemm,     never_refuse, better_without_packing),
    make_row<ChannelsKernel>(kChannels, Slot::kOutput, Algorithm::kDirect, kAboutChannels, never_refuse, too_large_to_convert),
    make_row<ChannelsKernel>(kChannels, Slot::kInput,  Algorithm::kDirect, kAboutChannels, never_refuse, too_large_to_convert),
};
// clang-format on
