// A family of kernels compiled with AVX-512. A unit defines HANDCONV_FAMILY and includes this,
// once.

#include "cpu/unit.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2")
#define HANDCONV_ISA_NAME "avx512"

namespace handconv {
// A namespace for each family: two may give different things the same name.
namespace avx512::HANDCONV_FAMILY {
// clang-format off
#include "cpu/simd_avx512.h"
#include HANDCONV_FAMILY_HEADER
// clang-format on
}  // namespace avx512::HANDCONV_FAMILY

KernelList HANDCONV_KERNELS_OF(avx512)() {
  return {std::begin(avx512::HANDCONV_FAMILY::kRows), std::end(avx512::HANDCONV_FAMILY::kRows)};
}

}  // namespace handconv
#else
handconv::KernelList handconv::HANDCONV_KERNELS_OF(avx512)() { return {nullptr, nullptr}; }
#endif
