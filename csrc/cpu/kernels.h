// The rows that each unit of the CPU house contributes to the table. They are plain constants:
// nothing compiled for an instruction set runs before the processor was asked whether it has it.
#pragma once

#include "table.h"

namespace handconv {

struct KernelList {
  const Kernel* begin;
  const Kernel* end;
};

KernelList avx512_kernels();
KernelList avx2_kernels();
KernelList baseline_kernels();
KernelList reference_kernels();

}  // namespace handconv
