// The rows that each unit of the CPU house contributes to the table. They are plain constants:
// nothing compiled for an instruction set runs before the processor was asked whether it has it.
#pragma once

#include "table.h"

// The families in the order of the table. With the macros below both the declarations of the
// functions that return their rows and the calls of these.
#define HANDCONV_CPU_FAMILIES(of)                                                            \
  of(gemv), of(stem), of(patches), of(depthwise_packed), of(depthwise_planes),               \
      of(depthwise_planes_weight), of(depthwise_channels), of(winograd), of(winograd_lines), \
      of(planes), of(grouped), of(channels), of(channels_weight), of(im2col)
#define HANDCONV_AVX512(family) avx512_##family()
#define HANDCONV_AVX2(family) avx2_##family()
#define HANDCONV_BASELINE(family) baseline_##family()

namespace handconv {

KernelList HANDCONV_CPU_FAMILIES(HANDCONV_AVX512);
KernelList HANDCONV_CPU_FAMILIES(HANDCONV_AVX2);
KernelList HANDCONV_CPU_FAMILIES(HANDCONV_BASELINE);
KernelList reference_kernels();

}  // namespace handconv
