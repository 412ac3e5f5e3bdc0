#include "cpu/unit.h"

#define HANDCONV_ISA_NAME "baseline"

namespace handconv {
namespace baseline {
// clang-format off
#include "cpu/simd_baseline.h"
#include "cpu/all_kernels.h"
// clang-format on
}  // namespace baseline

KernelList baseline_kernels() { return {std::begin(baseline::kRows), std::end(baseline::kRows)}; }

}  // namespace handconv
