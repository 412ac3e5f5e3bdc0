// Lanes are the filled channels of a group, or pixels: the kernel of gemm.h and its rows; and the
// kernel of channels.h.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/ranges.h"
#include "cpu/gemm_tile.h"
#include "cpu/channels_plan.h"
#include "cpu/channels_weights.h"
#include "cpu/channels_strip.h"
#include "cpu/channels_sums.h"
#include "cpu/channels.h"
#include "cpu/channels_deep.h"
#include "cpu/gemm_plan.h"
#include "cpu/gemm_images.h"
#include "cpu/gemm_weights.h"
#include "cpu/gemm_store.h"
#include "cpu/gemm.h"
#include "cpu/gemm_layouts.h"
#include "cpu/pointwise_tile.h"
#include "cpu/pointwise_plan.h"
#include "cpu/pointwise_operands.h"
#include "cpu/pointwise.h"
#include "rows.h"
// clang-format on

constexpr const char* kPointwise = "cpu.direct.pointwise." HANDCONV_ISA_NAME;
constexpr const char* kAboutPointwise =
    "windows of one tap: channels by channels, rows where they lie and lanes packed by whom they "
    "serve";
constexpr const char* kGemm = "cpu.direct.gemm." HANDCONV_ISA_NAME;
constexpr const char* kAboutGemm =
    "pixels by channels, packed in blocks that stay in the caches; lanes are what adjoins in "
    "memory";
constexpr const char* kChannels = "cpu.direct.channels." HANDCONV_ISA_NAME;
constexpr const char* kAboutChannels =
    "lanes are filled channels of a group, pixels lie in strips of padded rows";

inline Refusal better_in_blocks_here(const Problem& problem) {
  return better_in_blocks(problem, kVectorBytes);
}

// clang-format off
constexpr Kernel kRows[] = {
    make_row<PointwiseByLayout>(kPointwise,  Slot::kOutput, Algorithm::kDirect, kAboutPointwise,  needs_pointwise,  better_in_blocks_here),
    make_row<PointwiseByLayout>(kPointwise,  Slot::kInput,  Algorithm::kDirect, kAboutPointwise,  needs_pointwise,  better_in_blocks_here),
    make_row<GemmByLayout>     (kGemm,       Slot::kOutput, Algorithm::kDirect, kAboutGemm,       never_refuse,     strips_or<kVectorBytes, better_without_packing>),
    make_row<GemmByLayout>     (kGemm,       Slot::kInput,  Algorithm::kDirect, kAboutGemm,       never_refuse,     strips_or<kVectorBytes, better_without_packing>),
    make_row<ChannelsByDepth>  (kChannels,   Slot::kOutput, Algorithm::kDirect, kAboutChannels,   never_refuse,     fills_patches),
    make_row<ChannelsByDepth>  (kChannels,   Slot::kInput,  Algorithm::kDirect, kAboutChannels,   never_refuse,     fills_patches),
};
// clang-format on
