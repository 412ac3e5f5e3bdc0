#include "cpu/unit.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC target("avx2,fma,f16c,bmi2")
#define HANDCONV_ISA_NAME "avx2"

namespace handconv {
namespace avx2 {
// clang-format off
#include "cpu/simd_avx2.h"
#include "cpu/all_kernels.h"
// clang-format on
}  // namespace avx2

KernelList avx2_kernels() { return {std::begin(avx2::kRows), std::end(avx2::kRows)}; }

}  // namespace handconv
#else
handconv::KernelList handconv::avx2_kernels() { return {nullptr, nullptr}; }
#endif
