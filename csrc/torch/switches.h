// torch's own switches, as far as kernels ask for them.
#pragma once

#include <ATen/Context.h>

#include "geometry.h"

namespace handconv {

// Whether convolutions of float32 may round their products to TF32: torch.backends.cudnn.allow_tf32
// and torch.backends.cudnn.conv.fp32_precision.
inline bool allows_tf32(Device device) {
  return device == Device::kCuda && at::globalContext().allowTF32CuDNN(at::Float32Op::CONV);
}

}  // namespace handconv
