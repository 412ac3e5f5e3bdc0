// A family of kernels compiled with what every processor of the architecture has. A unit defines
// HANDCONV_FAMILY and includes this, once.

#include "cpu/unit.h"

#define HANDCONV_ISA_NAME "baseline"

namespace handconv {
namespace baseline {
// clang-format off
#include "cpu/simd_baseline.h"
#include HANDCONV_FAMILY_HEADER
// clang-format on
}  // namespace baseline

KernelList HANDCONV_KERNELS_OF(baseline)() {
  return {std::begin(baseline::kRows), std::end(baseline::kRows)};
}

}  // namespace handconv
