#include "cpu/kernels.h"
namespace handconv { KernelList avx512_kernels() { return {nullptr, nullptr}; } }
