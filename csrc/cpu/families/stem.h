// Images of few channels: the kernel of stem.h and its row.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/ranges.h"
#include "cpu/stem_strip.h"
#include "cpu/stem_tile.h"
#include "cpu/stem_plan.h"
#include "cpu/stem.h"
#include "rows.h"
// clang-format on

constexpr const char* kStem = "cpu.direct.stem." HANDCONV_ISA_NAME;
constexpr const char* kAboutStem =
    "few input channels: strips of padded source, in which a table of offsets leads to terms";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<StemByLayout>(kStem, Slot::kOutput, Algorithm::kDirect, kAboutStem, needs_one_group, not_a_stem),
};
// clang-format on
