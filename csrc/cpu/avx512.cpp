#include "cpu/unit.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2")
#define HANDCONV_ISA_NAME "avx512"

namespace handconv {
namespace avx512 {
// clang-format off
#include "cpu/simd_avx512.h"
#include "cpu/all_kernels.h"
// clang-format on
}  // namespace avx512

KernelList avx512_kernels() { return {std::begin(avx512::kRows), std::end(avx512::kRows)}; }

}  // namespace handconv
#else
handconv::KernelList handconv::avx512_kernels() { return {nullptr, nullptr}; }
#endif
