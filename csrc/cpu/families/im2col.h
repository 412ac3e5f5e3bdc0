// Matrices: the kernels of im2col.h and im2col_gradients.h and their rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/im2col.h"
#include "cpu/im2col_gradients.h"
#include "rows.h"
// clang-format on

constexpr const char* kIm2col = "cpu.im2col." HANDCONV_ISA_NAME;
constexpr const char* kAboutIm2col =
    "columns of pixels are packed by panels and multiplied by the weight matrix";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<Im2colKernel>         (kIm2col,    Slot::kOutput, Algorithm::kIm2col, kAboutIm2col,    never_refuse, never_refuse),
    make_row<Im2colInputKernel>    (kIm2col,    Slot::kInput,  Algorithm::kIm2col, kAboutIm2col,    never_refuse, never_refuse),
    make_row<Im2colWeightKernel>   (kIm2col,    Slot::kWeight, Algorithm::kIm2col, kAboutIm2col,    never_refuse, never_refuse),
};
// clang-format on
