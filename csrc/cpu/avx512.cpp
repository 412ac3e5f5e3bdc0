#include <immintrin.h>

#include "cpu/unit.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2")
#define HANDCONV_ISA_NAME "avx512"

namespace handconv {
namespace avx512 {
#include "cpu/simd_avx512.h"
#include "cpu/all_kernels.h"
}  // namespace avx512

KernelList avx512_kernels() {
  return {std::begin(avx512::kRows), std::end(avx512::kRows)};
}

}  // namespace handconv
