// Lanes are pixels of a row, for contiguous images and groups of one input channel: the kernels of
// depthwise_planes*.h and their rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/depthwise_planes_rows.h"
#include "cpu/depthwise_sums.h"
#include "cpu/depthwise_planes_tile.h"
#include "cpu/depthwise_planes_columns.h"
#include "cpu/depthwise_planes_walk.h"
#include "cpu/depthwise_planes_short.h"
#include "cpu/depthwise_planes.h"
#include "rows.h"
// clang-format on

constexpr const char* kPlanes = "cpu.direct.depthwise.planes." HANDCONV_ISA_NAME;
constexpr const char* kAboutPlanes =
    "lanes are pixels along a row, a source row serves all rows of a tile";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<DepthwisePlanesKernel>      (kPlanes, Slot::kOutput, Algorithm::kDirect, kAboutPlanes, needs_nchw_and_depthwise, better_by_rows_or_lanes),
    make_row<DepthwisePlanesKernel>      (kPlanes, Slot::kInput,  Algorithm::kDirect, kAboutPlanes, needs_nchw_and_depthwise, better_by_rows_or_lanes),
};
// clang-format on
