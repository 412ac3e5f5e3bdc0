// The switches that the choice of a kernel depends on: torch's own, and handconv's.
#pragma once

#include <ATen/Context.h>

#include <atomic>

#include "geometry.h"
#include "table.h"

namespace handconv {

// Whether convolutions of float32 may round their products to TF32: torch.backends.cudnn.allow_tf32
// and torch.backends.cudnn.conv.fp32_precision.
inline bool allows_tf32(Device device) {
  return device == Device::kCuda && at::globalContext().allowTF32CuDNN(at::Float32Op::CONV);
}

// handconv.allow_winograd: whether `auto` may take Winograd's kernels. One switch for the process,
// as torch's own are.
inline std::atomic<bool> winograd_switch{true};

// The switch is about the choice: who asks for Winograd by name gets it.
inline bool allows_winograd(Algorithm algorithm) {
  return algorithm == Algorithm::kWinograd || winograd_switch.load(std::memory_order_relaxed);
}

}  // namespace handconv
