// Windows that lie side by side: the kernel of patches.h and its row.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/ranges.h"
#include "cpu/gemm_tile.h"
#include "cpu/gemm_weight_tile.h"
#include "cpu/patches.h"
#include "cpu/windows.h"
#include "rows.h"
// clang-format on

constexpr const char* kPatches = "cpu.direct.patches." HANDCONV_ISA_NAME;
constexpr const char* kAboutPatches =
    "windows side by side: one product of pixels by the elements of a patch";

constexpr const char* kWindows = "cpu.direct.windows." HANDCONV_ISA_NAME;
constexpr const char* kAboutWindows =
    "a signal of one channel: one product of outputs by windows, added up where they overlap";

inline Refusal needs_a_signal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const auto is_point = [](const Axis& axis) {
    return axis.input == 1 && axis.output == 1 && axis.kernel == 1 && axis.padding == 0;
  };
  const bool is_signal = (is_point(g.height) && g.width.dilation == 1) ||
                         (is_point(g.width) && g.height.dilation == 1);
  return g.in_channels == 1 && is_signal ? nullptr
                                         : "needs one row of one channel, without dilation";
}

inline Refusal not_for_windows(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.out_channels < 8) return "sums so few channels that each is better added where it belongs";
  return g.kernel_area() >= 6 ? nullptr : "has windows too short to be lanes";
}

// clang-format off
constexpr Kernel kRows[] = {
    make_row<PatchesKernel>(kPatches, Slot::kInput, Algorithm::kDirect, kAboutPatches, needs_patches, not_for_patches),
    make_row<WindowsKernel>(kWindows, Slot::kInput, Algorithm::kDirect, kAboutWindows, needs_a_signal, not_for_windows),
};
// clang-format on
