// Winograd's algorithm along one axis, for windows whose other side is 1, with stride 1: the kernel
// of winograd.h and its rows.

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
#include "rows.h"
// clang-format on

template <class T>
using Winograd1x3Kernel = WinogradKernel<T, Tilings<NoTiling, Tiling<4, 3>>>;
template <class T>
using Winograd3x1Kernel = WinogradKernel<T, Tilings<Tiling<4, 3>, NoTiling>>;
template <class T>
using Winograd1x5Kernel = WinogradKernel<T, Tilings<NoTiling, Tiling<2, 5>>>;
template <class T>
using Winograd5x1Kernel = WinogradKernel<T, Tilings<Tiling<2, 5>, NoTiling>>;
template <class T>
using Winograd1x7Kernel = WinogradKernel<T, Tilings<NoTiling, Tiling<3, 4, 7>>>;
template <class T>
using Winograd7x1Kernel = WinogradKernel<T, Tilings<Tiling<3, 4, 7>, NoTiling>>;

constexpr const char* kWinograd1x3 = "cpu.winograd.for1x3." HANDCONV_ISA_NAME;
constexpr const char* kAbout1x3 = "tiles of 1x4 by 6 products of matrices in place of 12";
constexpr const char* kWinograd3x1 = "cpu.winograd.for3x1." HANDCONV_ISA_NAME;
constexpr const char* kAbout3x1 = "tiles of 4x1 by 6 products of matrices in place of 12";
constexpr const char* kWinograd1x5 = "cpu.winograd.for1x5." HANDCONV_ISA_NAME;
constexpr const char* kAbout1x5 = "tiles of 1x2 by 6 products of matrices in place of 10";
constexpr const char* kWinograd5x1 = "cpu.winograd.for5x1." HANDCONV_ISA_NAME;
constexpr const char* kAbout5x1 = "tiles of 2x1 by 6 products of matrices in place of 10";
constexpr const char* kWinograd1x7 = "cpu.winograd.for1x7." HANDCONV_ISA_NAME;
constexpr const char* kAbout1x7 = "tiles of 1x3 by 12 products of matrices in place of 21";
constexpr const char* kWinograd7x1 = "cpu.winograd.for7x1." HANDCONV_ISA_NAME;
constexpr const char* kAbout7x1 = "tiles of 3x1 by 12 products of matrices in place of 21";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<Winograd1x3Kernel>(kWinograd1x3, Slot::kOutput, Algorithm::kWinograd, kAbout1x3, needs_1x3_with_stride_1, not_for_lines_of_3),
    make_row<Winograd1x3Kernel>(kWinograd1x3, Slot::kInput,  Algorithm::kWinograd, kAbout1x3, needs_1x3_with_stride_1, not_for_lines_of_3),
    make_row<Winograd3x1Kernel>(kWinograd3x1, Slot::kOutput, Algorithm::kWinograd, kAbout3x1, needs_3x1_with_stride_1, not_for_lines_of_3),
    make_row<Winograd3x1Kernel>(kWinograd3x1, Slot::kInput,  Algorithm::kWinograd, kAbout3x1, needs_3x1_with_stride_1, not_for_lines_of_3),
    make_row<Winograd1x5Kernel>(kWinograd1x5, Slot::kOutput, Algorithm::kWinograd, kAbout1x5, needs_1x5_with_stride_1, not_for_lines_of_5),
    make_row<Winograd1x5Kernel>(kWinograd1x5, Slot::kInput,  Algorithm::kWinograd, kAbout1x5, needs_1x5_with_stride_1, not_for_lines_of_5),
    make_row<Winograd5x1Kernel>(kWinograd5x1, Slot::kOutput, Algorithm::kWinograd, kAbout5x1, needs_5x1_with_stride_1, not_for_lines_of_5),
    make_row<Winograd5x1Kernel>(kWinograd5x1, Slot::kInput,  Algorithm::kWinograd, kAbout5x1, needs_5x1_with_stride_1, not_for_lines_of_5),
    make_row<Winograd1x7Kernel>(kWinograd1x7, Slot::kOutput, Algorithm::kWinograd, kAbout1x7, needs_1x7_with_stride_1, not_for_lines_of_7),
    make_row<Winograd1x7Kernel>(kWinograd1x7, Slot::kInput,  Algorithm::kWinograd, kAbout1x7, needs_1x7_with_stride_1, not_for_lines_of_7),
    make_row<Winograd7x1Kernel>(kWinograd7x1, Slot::kOutput, Algorithm::kWinograd, kAbout7x1, needs_7x1_with_stride_1, not_for_lines_of_7),
    make_row<Winograd7x1Kernel>(kWinograd7x1, Slot::kInput,  Algorithm::kWinograd, kAbout7x1, needs_7x1_with_stride_1, not_for_lines_of_7),
};
// clang-format on
