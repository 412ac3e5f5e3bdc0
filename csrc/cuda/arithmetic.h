// Small arithmetic that the families share.
#pragma once

#include <cstdint>

#include "geometry.h"

namespace handconv {
namespace cuda {

template <class Int>
HANDCONV_HOST_DEVICE Int ceil_divide(Int a, Int b) {
  return (a + b - 1) / b;
}
template <class Int>
HANDCONV_HOST_DEVICE Int round_up(Int a, Int b) {
  return ceil_divide(a, b) * b;
}

inline bool is_aligned(const void* pointer, std::uintptr_t bytes = 16) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

// Sizes in int, for kernels that count positions in int: see too_long_for_int.
inline AxisOf<int> int_axis(const Axis& axis) {
  const auto number = [](std::int64_t value) { return static_cast<int>(value); };
  return {number(axis.input),   number(axis.kernel),   number(axis.stride),
          number(axis.padding), number(axis.dilation), number(axis.output)};
}
inline GeometryOf<int> int_geometry(const Geometry& g) {
  const auto number = [](std::int64_t value) { return static_cast<int>(value); };
  return {number(g.batch),        number(g.groups),   number(g.in_channels),
          number(g.out_channels), int_axis(g.height), int_axis(g.width)};
}

}  // namespace cuda
}  // namespace handconv
