// Lanes are neighbouring pixels, for groups of few channels: the kernels of planes*.h and their
// rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/ranges.h"
#include "cpu/padded_planes.h"
#include "cpu/plane_tiles.h"
#include "cpu/plane_weights.h"
#include "cpu/planes.h"
#include "cpu/flat_planes.h"
#include "cpu/planes_weight.h"
#include "rows.h"
// clang-format on

constexpr const char* kPlanes = "cpu.direct.planes." HANDCONV_ISA_NAME;
constexpr const char* kFlat = "cpu.direct.flat." HANDCONV_ISA_NAME;
constexpr const char* kAboutFlat = "lanes are pixels of whole planes, read where they lie";
constexpr const char* kAboutPlanes = "lanes are pixels of zero-padded planes in scratch";

// The output channels of a group fill most of a vector.
inline Refusal fills_vectors_of_channels(const Problem& problem) {
  const std::int64_t lanes = problem.dtype == DType::kFloat64 ? kLanes<double> : kLanes<float>;
  const Geometry& g = problem.geometry;
  // Tried: pixels as lanes for 16 to 32 channels a group; .2 to .8 of F.conv2d's speed.
  // Half of a vector of channels against nearly whole vectors of pixels; with vectors of 64 bytes
  // that is measured for float32 and groups of few channels alone.
  const bool is_measured = kVectorBytes < 64 || (problem.dtype == DType::kFloat32 &&
                                                 g.in_channels_per_group() <= lanes / 2);
  const bool long_rows = g.groups > 1 && is_measured && g.width.stride == 1 && g.width.output >= 28;
  return g.out_channels_per_group() >= (long_rows ? lanes / 2 + 1 : lanes / 2)
             ? "groups have enough output channels to be the lanes of direct.grouped"
             : many_channels_for_weights(problem);
}

// Groups fill vectors of channels as they lie in memory.
inline Refusal fills_vectors_of_groups(const Problem& problem) {
  const int lanes = problem.dtype == DType::kFloat64 ? kLanes<double> : kLanes<float>;
  const Geometry& g = problem.geometry;
  return g.groups > 1 && g.in_channels_per_group() > 1 &&
                 !needs_nhwc_and_groups_that_fill(problem, lanes)
             ? "neighbouring groups are the lanes of direct.grouped"
             : many_channels_per_group(problem);
}

// clang-format off
constexpr Kernel kRows[] = {
    make_row<FlatPlanesKernel>     (kFlat,      Slot::kOutput, Algorithm::kDirect, kAboutFlat,      needs_rows_alike, strips_or<kVectorBytes, better_in_scratch>),
    make_row<FlatPlanesKernel>     (kFlat,      Slot::kInput,  Algorithm::kDirect, kAboutFlat,      needs_rows_alike, strips_or<kVectorBytes, better_in_scratch>),
    make_row<PlanesKernel>         (kPlanes,    Slot::kOutput, Algorithm::kDirect, kAboutPlanes,    never_refuse, strips_or<kVectorBytes, fills_vectors_of_groups>),
    make_row<PlanesKernel>         (kPlanes,    Slot::kInput,  Algorithm::kDirect, kAboutPlanes,    never_refuse, strips_or<kVectorBytes, fills_vectors_of_groups>),
    make_row<PlanesWeightKernel>   (kPlanes,    Slot::kWeight, Algorithm::kDirect, kAboutPlanes,    never_refuse, fills_vectors_of_channels),
};
// clang-format on
