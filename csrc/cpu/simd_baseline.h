// Vectors of 128 bits written for any compiler and processor: what x86-64 has at least, and other
// architectures too. Included inside a namespace, after every other header; see
// cpu/units/baseline.h.

// Compiled with 64, the algorithms are those of AVX-512, which any processor can then test.
#if !defined(HANDCONV_BASELINE_BYTES)
#define HANDCONV_BASELINE_BYTES 16
#endif
constexpr int kVectorBytes = HANDCONV_BASELINE_BYTES;
constexpr bool kVectorsFitRegisters = kVectorBytes == 16;

#include "cpu/simd.h"

// Lanes [first, last); both may lie outside the vector.
template <class C>
struct Mask {
  std::int64_t first, last;

  bool operator()(int lane) const { return first <= lane && lane < last; }
  bool is_full() const { return first <= 0 && last >= kLanes<C>; }
};

template <class C>
inline Mask<C> mask_between(std::int64_t first, std::int64_t last) {
  return {first, last};
}

// Any lanes, by their bits.
template <class C>
struct LaneSet {
  unsigned bits;

  bool operator()(int lane) const { return bits >> lane & 1; }
};
template <class C>
inline LaneSet<C> lane_set(unsigned bits) {
  return {bits};
}

template <class V>
inline V fma(V a, V b, V c) {
  return a * b + c;
}
template <class V>
HANDCONV_INLINE void add_product(V& sum, V a, V b) {
  sum = fma(a, b, sum);
}

template <class T>
inline Vector<Compute<T>> load(const T* p) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    Vector<T> result;
    std::memcpy(&result, p, sizeof result);
    return result;
  } else {
    return load_each(p, 1, [](int) { return true; });
  }
}
template <class T>
inline void store(T* p, Vector<Compute<T>> value) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    std::memcpy(p, &value, sizeof value);
  } else {
    store_each(p, value, [](int) { return true; });
  }
}

template <class T>
inline Vector<Compute<T>> load_masked(const T* p, Mask<Compute<T>> mask) {
  return mask.is_full() ? load(p) : load_each(p, 1, mask);
}
template <class T>
inline Vector<Compute<T>> load_masked(const T* p, LaneSet<Compute<T>> lanes) {
  return lanes.bits == (1u << kLanes<Compute<T>>)-1 ? load(p) : load_each(p, 1, lanes);
}
template <class T>
inline void store_masked(T* p, Vector<Compute<T>> value, Mask<Compute<T>> mask) {
  if (mask.is_full()) return store(p, value);
  store_each(p, value, mask);
}

// Elements p[0], p[step], p[2 step], ...; those of masked lanes are not touched.
template <class T>
inline Vector<Compute<T>> load_strided(const T* p, std::int64_t step, Mask<Compute<T>> mask) {
  return step == 1 ? load_masked(p, mask) : load_each(p, step, mask);
}

// The Q elements at p, over and over.
template <int Q, class C>
inline Vector<C> repeat(const C* p) {
  Vector<C> result;
  for (int lane = 0; lane < kLanes<C>; ++lane) result[lane] = p[lane % Q];
  return result;
}

// result[lane] = vector[index[lane]]
template <class V, class Index>
inline V permute(V vector, const Index* index) {
  V result;
  for (std::size_t lane = 0; lane < sizeof(V) / sizeof(vector[0]); ++lane)
    result[lane] = vector[index[lane]];
  return result;
}
