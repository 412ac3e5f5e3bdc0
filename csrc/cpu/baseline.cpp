#include "cpu/kernels.h"
namespace handconv { KernelList baseline_kernels() { return {nullptr, nullptr}; } }
