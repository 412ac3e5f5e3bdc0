// The rows that each unit of the CPU house contributes to the table. They are plain constants:
// nothing compiled for an instruction set runs before the processor was asked whether it has it.
#pragma once

#include "table.h"

namespace handconv {

KernelList avx512_depthwise_packed();
KernelList avx512_depthwise_planes();
KernelList avx512_depthwise_planes_weight();
KernelList avx512_depthwise_channels();
KernelList avx512_winograd();
KernelList avx512_planes();
KernelList avx512_grouped();
KernelList avx512_channels();
KernelList avx512_channels_weight();
KernelList avx512_im2col();
KernelList avx2_depthwise_packed();
KernelList avx2_depthwise_planes();
KernelList avx2_depthwise_planes_weight();
KernelList avx2_depthwise_channels();
KernelList avx2_winograd();
KernelList avx2_planes();
KernelList avx2_grouped();
KernelList avx2_channels();
KernelList avx2_channels_weight();
KernelList avx2_im2col();
KernelList baseline_depthwise_packed();
KernelList baseline_depthwise_planes();
KernelList baseline_depthwise_planes_weight();
KernelList baseline_depthwise_channels();
KernelList baseline_winograd();
KernelList baseline_planes();
KernelList baseline_grouped();
KernelList baseline_channels();
KernelList baseline_channels_weight();
KernelList baseline_im2col();
KernelList reference_kernels();

}  // namespace handconv
