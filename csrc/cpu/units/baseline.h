// A family of kernels compiled with what every processor of the architecture has. A unit defines
// HANDCONV_FAMILY and includes this, once.

#include "cpu/unit.h"

#define HANDCONV_ISA_NAME "baseline"

namespace handconv {
// A namespace for each family: two may give different things the same name.
namespace baseline::HANDCONV_FAMILY {
// clang-format off
#include "cpu/simd_baseline.h"
#include HANDCONV_FAMILY_HEADER
// clang-format on
}  // namespace baseline::HANDCONV_FAMILY

KernelList HANDCONV_KERNELS_OF(baseline)() {
  return {std::begin(baseline::HANDCONV_FAMILY::kRows), std::end(baseline::HANDCONV_FAMILY::kRows)};
}

}  // namespace handconv
