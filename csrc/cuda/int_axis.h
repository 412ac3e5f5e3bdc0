// An axis in int, for kernels that count positions in int: see too_long_for_int.
#pragma once

#include "geometry.h"

namespace handconv {
namespace cuda {

inline AxisOf<int> int_axis(const Axis& axis) {
  const auto number = [](std::int64_t value) { return static_cast<int>(value); };
  return {number(axis.input),   number(axis.kernel),   number(axis.stride),
          number(axis.padding), number(axis.dilation), number(axis.output)};
}

}  // namespace cuda
}  // namespace handconv
