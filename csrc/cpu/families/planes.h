// Lanes are pixels of a row, for contiguous images: the kernels of planes.h and their rows.

// clang-format off
#include "cpu/tile.h"
#include "cpu/images.h"
#include "cpu/planes.h"
#include "rows.h"
// clang-format on

constexpr const char* kPlanes = "cpu.direct.planes." HANDCONV_ISA_NAME;
constexpr const char* kAboutPlanes = "lanes are pixels along a row, masked at the edges";

// clang-format off
constexpr Kernel kRows[] = {
    make_row<PlanesKernel>         (kPlanes,    Slot::kOutput, Algorithm::kDirect, kAboutPlanes,    needs_nchw, many_channels_per_group),
    make_row<PlanesKernel>         (kPlanes,    Slot::kInput,  Algorithm::kDirect, kAboutPlanes,    needs_nchw, many_channels_per_group),
    make_row<PlanesWeightKernel>   (kPlanes,    Slot::kWeight, Algorithm::kDirect, kAboutPlanes,    needs_nchw, many_channels_per_group),
};
// clang-format on
