#include <immintrin.h>

#include "cpu/unit.h"

#pragma GCC target("avx2,fma,f16c,bmi2")
#define HANDCONV_ISA_NAME "avx2"

namespace handconv {
namespace avx2 {
#include "cpu/simd_avx2.h"
#include "cpu/all_kernels.h"
}  // namespace avx2

KernelList avx2_kernels() {
  return {std::begin(avx2::kRows), std::end(avx2::kRows)};
}

}  // namespace handconv
