// Windows that see the whole image: the kernels of gemv.h and their rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/gemv.h"
#include "cpu/gemv_gradients.h"
#include "rows.h"
// clang-format on

constexpr const char* kGemv = "cpu.direct.gemv." HANDCONV_ISA_NAME;
constexpr const char* kAboutGemv =
    "windows that see the whole image: filters by a vector, read where they lie";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<GemvKernel>        (kGemv, Slot::kOutput, Algorithm::kDirect, kAboutGemv, needs_whole_windows, never_refuse),
    make_row<GemvGradientKernel>(kGemv, Slot::kInput,  Algorithm::kDirect, kAboutGemv, needs_whole_windows, never_refuse),
    make_row<GemvGradientKernel>(kGemv, Slot::kWeight, Algorithm::kDirect, kAboutGemv, needs_whole_windows, never_refuse),
};
// clang-format on
