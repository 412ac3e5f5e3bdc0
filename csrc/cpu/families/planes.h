// Lanes are neighbouring pixels, for groups of few channels: the kernels of planes*.h and their
// rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/padded_planes.h"
#include "cpu/plane_tiles.h"
#include "cpu/plane_weights.h"
#include "cpu/planes.h"
#include "cpu/planes_weight.h"
#include "rows.h"
// clang-format on

constexpr const char* kPlanes = "cpu.direct.planes." HANDCONV_ISA_NAME;
constexpr const char* kAboutPlanes = "lanes are pixels of zero-padded planes in scratch";

// The output channels of a group fill most of a vector.
inline Refusal fills_vectors_of_channels(const Problem& problem) {
  const std::int64_t lanes = problem.dtype == DType::kFloat64 ? kLanes<double> : kLanes<float>;
  return problem.geometry.out_channels_per_group() >= lanes / 2
             ? "groups have enough output channels to be the lanes of direct.grouped"
             : many_channels_for_weights(problem);
}

// clang-format off
constexpr Kernel kRows[] = {
    make_row<PlanesKernel>         (kPlanes,    Slot::kOutput, Algorithm::kDirect, kAboutPlanes,    never_refuse, many_channels_per_group),
    make_row<PlanesKernel>         (kPlanes,    Slot::kInput,  Algorithm::kDirect, kAboutPlanes,    never_refuse, many_channels_per_group),
    make_row<PlanesWeightKernel>   (kPlanes,    Slot::kWeight, Algorithm::kDirect, kAboutPlanes,    never_refuse, fills_vectors_of_channels),
};
// clang-format on
