// The element types of tensors, and what kernels compute in: float32 for float32 and the 16-bit
// types, which are rounded once, at the store; float64 for float64.
#pragma once

#include <cstdint>
#include <cstring>

#include "geometry.h"

namespace handconv {

using Float16 = _Float16;

struct BFloat16 {
  std::uint16_t bits;
};

template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeType<T>::type;

template <class T>
Compute<T> to_compute(T value) {
  return static_cast<Compute<T>>(value);
}
template <>
inline float to_compute(BFloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

template <class T>
T from_compute(Compute<T> value) {
  return static_cast<T>(value);
}
// To the nearest, ties to even; a NaN stays one.
template <>
inline BFloat16 from_compute(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return {static_cast<std::uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// Calls visit(T{}) with the element type of that name.
template <class Visit>
void visit_dtype(DType dtype, const Visit& visit) {
  switch (dtype) {
    case DType::kFloat32:
      return visit(float{});
    case DType::kFloat64:
      return visit(double{});
    case DType::kBFloat16:
      return visit(BFloat16{});
    case DType::kFloat16:
      return visit(Float16{});
  }
}

}  // namespace handconv
