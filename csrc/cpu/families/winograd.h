// Winograd's algorithm for square windows with stride 1: the kernels of winograd.h and
// winograd_weight.h, and their rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/ranges.h"
#include "cpu/winograd_filter.h"
#include "cpu/winograd_grid.h"
#include "cpu/winograd_weights.h"
#include "cpu/winograd_tiles.h"
#include "cpu/winograd_plan.h"
#include "cpu/winograd_product.h"
#include "cpu/winograd.h"
#include "cpu/weight_store.h"
#include "cpu/winograd_weight_plan.h"
#include "cpu/winograd_weight_tiles.h"
#include "cpu/winograd_weight.h"
#include "rows.h"
// clang-format on

template <class T>
using Winograd2Kernel = WinogradKernel<T, Tilings<Tiling<2, 3>, Tiling<2, 3>>>;
template <class T>
using Winograd3Kernel = WinogradKernel<T, Tilings<Tiling<3, 3>, Tiling<3, 3>>>;
template <class T>
using Winograd4Kernel = WinogradKernel<T, Tilings<Tiling<4, 3>, Tiling<4, 3>>>;
template <class T>
using Winograd5Kernel = WinogradKernel<T, Tilings<Tiling<2, 5>, Tiling<2, 5>>>;

constexpr const char* kWinograd2 = "cpu.winograd.2x2." HANDCONV_ISA_NAME;
constexpr const char* kAboutWinograd2 = "tiles of 2x2 by 16 products of matrices in place of 36";
constexpr const char* kWinograd3 = "cpu.winograd.3x3." HANDCONV_ISA_NAME;
constexpr const char* kAboutWinograd3 = "tiles of 3x3 by 25 products of matrices in place of 81";
constexpr const char* kWinograd4 = "cpu.winograd.4x4." HANDCONV_ISA_NAME;
constexpr const char* kAboutWinograd4 = "tiles of 4x4 by 36 products of matrices in place of 144";

constexpr const char* kWinograd5 = "cpu.winograd.for5x5." HANDCONV_ISA_NAME;
constexpr const char* kAboutWinograd5 =
    "windows of 5x5 by tiles of 2x2: 36 products of matrices in place of 100";

inline Refusal not_for_tiles_of_2x2_here(const Problem& problem) {
  return not_for_tiles_of_2x2(problem, kVectorBytes);
}

// clang-format off
constexpr Kernel kRows[] = {
    make_row<Winograd2Kernel>(kWinograd2, Slot::kOutput, Algorithm::kWinograd, kAboutWinograd2, needs_3x3_with_stride_1, not_for_tiles_of_2x2_here),
    make_row<Winograd2Kernel>(kWinograd2, Slot::kInput,  Algorithm::kWinograd, kAboutWinograd2, needs_3x3_with_stride_1, not_for_tiles_of_2x2_here),
    make_row<Winograd3Kernel>(kWinograd3, Slot::kOutput, Algorithm::kWinograd, kAboutWinograd3, needs_3x3_with_stride_1, not_for_tiles_of_3x3),
    make_row<Winograd3Kernel>(kWinograd3, Slot::kInput,  Algorithm::kWinograd, kAboutWinograd3, needs_3x3_with_stride_1, not_for_tiles_of_3x3),
    make_row<Winograd4Kernel>(kWinograd4, Slot::kOutput, Algorithm::kWinograd, kAboutWinograd4, needs_3x3_with_stride_1, not_for_tiles_of_4x4),
    make_row<Winograd4Kernel>(kWinograd4, Slot::kInput,  Algorithm::kWinograd, kAboutWinograd4, needs_3x3_with_stride_1, not_for_tiles_of_4x4),
    make_row<Winograd5Kernel>(kWinograd5, Slot::kOutput, Algorithm::kWinograd, kAboutWinograd5, needs_5x5_with_stride_1, not_for_windows_of_5x5),
    make_row<Winograd5Kernel>(kWinograd5, Slot::kInput,  Algorithm::kWinograd, kAboutWinograd5, needs_5x5_with_stride_1, not_for_windows_of_5x5),
    make_row<Winograd2WeightKernel>(kWinograd2, Slot::kWeight, Algorithm::kWinograd, kAboutWinograd2, needs_3x3_with_stride_1, not_for_weights_by_2x2),
    make_row<Winograd4WeightKernel>(kWinograd4, Slot::kWeight, Algorithm::kWinograd, kAboutWinograd4, needs_3x3_with_stride_1, not_for_weights_by_4x4),
};
// clang-format on
