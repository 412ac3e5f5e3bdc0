// Windows that lie side by side: the kernel of patches.h and its row.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/gemm_tile.h"
#include "cpu/patches.h"
#include "rows.h"
// clang-format on

constexpr const char* kPatches = "cpu.direct.patches." HANDCONV_ISA_NAME;
constexpr const char* kAboutPatches =
    "windows side by side: one product of pixels by the elements of a patch";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<PatchesKernel>(kPatches, Slot::kInput, Algorithm::kDirect, kAboutPatches, needs_patches, not_for_patches),
};
// clang-format on
