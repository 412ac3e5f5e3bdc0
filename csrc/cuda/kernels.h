// The rows that each family of CUDA kernels contributes to the table, best first.
#pragma once

#include "table.h"

namespace handconv {

KernelList cuda_depthwise();
KernelList cuda_grouped();
KernelList cuda_gemm();
KernelList cuda_im2col();
KernelList cuda_reference();

}  // namespace handconv
