#include "cpu/kernels.h"
namespace handconv { KernelList avx2_kernels() { return {nullptr, nullptr}; } }
