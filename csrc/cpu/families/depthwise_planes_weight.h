// Lanes are pixels of a row, for contiguous images and groups of one input channel: the kernel of
// depthwise_planes_weight*.h and its row.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/depthwise_planes_rows.h"
#include "cpu/depthwise_sums.h"
#include "cpu/depthwise_planes_tile.h"
#include "cpu/depthwise_planes_weight_rows.h"
#include "cpu/depthwise_planes_weight.h"
#include "rows.h"
// clang-format on

constexpr const char* kPlanes = "cpu.direct.depthwise.planes." HANDCONV_ISA_NAME;
constexpr const char* kAboutPlanes =
    "lanes are pixels along a row, sums of several taps stay in registers";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<DepthwisePlanesWeightKernel>(kPlanes, Slot::kWeight, Algorithm::kDirect, kAboutPlanes, needs_nchw_and_depthwise, better_by_rows_or_lanes),
};
// clang-format on
