// Lanes are channels, sums run over pixels: the kernels of gemm_weight.h and of channels_weight.h,
// and their rows.

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
#include "cpu/gemm_weight_tile.h"
#include "cpu/gemm_weight_plan.h"
#include "cpu/gemm_weight.h"
#include "rows.h"
// clang-format on

constexpr const char* kGemm = "cpu.direct.gemm." HANDCONV_ISA_NAME;
constexpr const char* kAboutGemm =
    "windows of one tap: channels by channels, packed in blocks of pixels";
constexpr const char* kChannels = "cpu.direct.channels." HANDCONV_ISA_NAME;
constexpr const char* kAboutChannels = "lanes are output channels of a group, sums run over pixels";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<GemmWeightKernel>    (kGemm,     Slot::kWeight, Algorithm::kDirect, kAboutGemm,     needs_one_tap,   few_channels_in_place),
    make_row<ChannelsWeightKernel>(kChannels, Slot::kWeight, Algorithm::kDirect, kAboutChannels, never_refuse,    never_refuse),
};
// clang-format on
