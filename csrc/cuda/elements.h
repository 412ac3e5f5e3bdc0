// Element types in kernels: what they are computed in, and how several are loaded at once.
#pragma once

#include "cuda/instructions.h"
#include "geometry.h"

namespace handconv {
namespace cuda {

constexpr Device kDevice = Device::kCuda;

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

HANDCONV_DEVICE float to_compute(float value) { return value; }
HANDCONV_DEVICE double to_compute(double value) { return value; }
HANDCONV_DEVICE float to_compute(Float16 value) { return to_float(value); }
HANDCONV_DEVICE float to_compute(BFloat16 value) { return to_float(value); }

template <class T>
HANDCONV_DEVICE T from_compute(Compute<T> value) {
  return value;
}
template <>
HANDCONV_DEVICE Float16 from_compute<Float16>(float value) {
  return to_float16(value);
}
template <>
HANDCONV_DEVICE BFloat16 from_compute<BFloat16>(float value) {
  return to_bfloat16(value);
}

// N neighbours in memory, which one instruction loads or stores where they are aligned to their
// size (at most 16 bytes).
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];

  HANDCONV_DEVICE T& operator[](int i) { return values[i]; }
  HANDCONV_DEVICE const T& operator[](int i) const { return values[i]; }
};
template <int N, class T>
HANDCONV_DEVICE Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <int N, class T>
HANDCONV_DEVICE void store_pack(T* p, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
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

}  // namespace cuda
}  // namespace handconv
