// Vectors of 256 bits, with FMA and F16C. Included inside a namespace, after every other header;
// see cpu/units/avx2.h.

constexpr int kVectorBytes = 32;
constexpr bool kVectorsFitRegisters = true;

#include "cpu/simd.h"

// All bits of a lane set, or none.
template <class C>
struct Mask {
  __m256i lanes;
};

inline __m256i lane_numbers(float) { return _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0); }
inline __m256i lane_numbers(double) { return _mm256_set_epi64x(3, 2, 1, 0); }

// Lanes [first, last); both may lie outside the vector.
template <class C>
inline Mask<C> mask_between(std::int64_t first, std::int64_t last) {
  const auto clamp = [](std::int64_t lane) {
    return static_cast<int>(lane < 0 ? 0 : lane > kLanes<C> ? kLanes<C> : lane);
  };
  const __m256i lane = lane_numbers(C());
  if constexpr (sizeof(C) == 4) {
    const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(clamp(first)), lane);
    return {_mm256_andnot_si256(before, _mm256_cmpgt_epi32(_mm256_set1_epi32(clamp(last)), lane))};
  } else {
    const __m256i before = _mm256_cmpgt_epi64(_mm256_set1_epi64x(clamp(first)), lane);
    return {_mm256_andnot_si256(before, _mm256_cmpgt_epi64(_mm256_set1_epi64x(clamp(last)), lane))};
  }
}

// Any lanes, by their bits.
template <class C>
using LaneSet = Mask<C>;
template <class C>
inline LaneSet<C> lane_set(unsigned bits) {
  LaneSet<C> set;
  LaneIndex<C> lanes[kLanes<C>];
  for (int lane = 0; lane < kLanes<C>; ++lane) lanes[lane] = bits >> lane & 1 ? -1 : 0;
  std::memcpy(&set, lanes, sizeof set);
  return set;
}

// Bit i tells whether lane i is in the mask.
inline int bits_of(Mask<float> mask) { return _mm256_movemask_ps(_mm256_castsi256_ps(mask.lanes)); }
inline int bits_of(Mask<double> mask) {
  return _mm256_movemask_pd(_mm256_castsi256_pd(mask.lanes));
}
template <class C>
inline bool is_full(Mask<C> mask) {
  return __builtin_expect(bits_of(mask) == (1 << kLanes<C>)-1, 1);
}

inline Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm256_fmadd_pd(a, b, c);
}

// sum += a * b in the register of the sum: of tiles that fill all 16 registers the compiler, free
// to put a result where an operand was, would spill some.
inline void add_product(Vector<float>& sum, Vector<float> a, Vector<float> b) {
  asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}
inline void add_product(Vector<double>& sum, Vector<double> a, Vector<double> b) {
  asm("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}

// sums[v] += *element * lanes[v] of a tile that fills all 16 registers: one for the element, which
// the compiler must not load ahead of its turn.
inline void add_products(Vector<float> (&sums)[3], const float* element,
                         const Vector<float> (&lanes)[3]) {
  Vector<float> value;
  asm("vbroadcastss %4, %3\n\t"
      "vfmadd231ps %5, %3, %0\n\t"
      "vfmadd231ps %6, %3, %1\n\t"
      "vfmadd231ps %7, %3, %2"
      : "+v"(sums[0]), "+v"(sums[1]), "+v"(sums[2]), "=&v"(value)
      : "m"(*element), "v"(lanes[0]), "v"(lanes[1]), "v"(lanes[2]));
}
inline void add_products(Vector<double> (&sums)[3], const double* element,
                         const Vector<double> (&lanes)[3]) {
  Vector<double> value;
  asm("vbroadcastsd %4, %3\n\t"
      "vfmadd231pd %5, %3, %0\n\t"
      "vfmadd231pd %6, %3, %1\n\t"
      "vfmadd231pd %7, %3, %2"
      : "+v"(sums[0]), "+v"(sums[1]), "+v"(sums[2]), "=&v"(value)
      : "m"(*element), "v"(lanes[0]), "v"(lanes[1]), "v"(lanes[2]));
}

inline Vector<float> load(const float* p) { return _mm256_loadu_ps(p); }
inline Vector<double> load(const double* p) { return _mm256_loadu_pd(p); }
inline Vector<float> load(const BFloat16* p) {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}
inline Vector<float> load(const Float16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// Squares by shuffles within halves of vectors, which are cheaper than those across.
template <>
HANDCONV_INLINE void transpose<float>(Vector<float> (&rows)[8]) {
  Vector<float> quads[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const __m256 low01 = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    const __m256 high01 = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    const __m256 low23 = _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]);
    const __m256 high23 = _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]);
    quads[i] = _mm256_shuffle_ps(low01, low23, 0x44);
    quads[i + 1] = _mm256_shuffle_ps(low01, low23, 0xee);
    quads[i + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
    quads[i + 3] = _mm256_shuffle_ps(high01, high23, 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
  }
}
template <>
HANDCONV_INLINE void transpose<double>(Vector<double> (&rows)[4]) {
  const __m256d low01 = _mm256_unpacklo_pd(rows[0], rows[1]);
  const __m256d high01 = _mm256_unpackhi_pd(rows[0], rows[1]);
  const __m256d low23 = _mm256_unpacklo_pd(rows[2], rows[3]);
  const __m256d high23 = _mm256_unpackhi_pd(rows[2], rows[3]);
  rows[0] = _mm256_permute2f128_pd(low01, low23, 0x20);
  rows[1] = _mm256_permute2f128_pd(high01, high23, 0x20);
  rows[2] = _mm256_permute2f128_pd(low01, low23, 0x31);
  rows[3] = _mm256_permute2f128_pd(high01, high23, 0x31);
}

inline void store(float* p, Vector<float> value) { _mm256_storeu_ps(p, value); }
inline void store(double* p, Vector<double> value) { _mm256_storeu_pd(p, value); }
inline void store(Float16* p, Vector<float> value) {
  const __m128i bits = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bits);
}
inline void store(BFloat16* p, Vector<float> value) {  // as from_compute rounds
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet_nan = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 is_nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
  const __m256i high =
      _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet_nan, _mm256_castps_si256(is_nan)), 16);
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words);
}

inline Vector<float> load_masked(const float* p, Mask<float> mask) {
  return _mm256_maskload_ps(p, mask.lanes);
}
inline Vector<double> load_masked(const double* p, Mask<double> mask) {
  return _mm256_maskload_pd(p, mask.lanes);
}

// AMD's processors take a masked store apart into tens of operations. Most masks are full, and the
// others mostly of the first lanes, which powers of two of them store three times as fast.
inline void store_masked(float* p, Vector<float> value, Mask<float> mask) {
  if (is_full(mask)) return store(p, value);
  int bits = bits_of(mask);
  if (bits & (bits + 1)) return _mm256_maskstore_ps(p, mask.lanes, value);
  __m128 rest = _mm256_castps256_ps128(value);
  if (bits & 8) {
    _mm_storeu_ps(p, rest);
    rest = _mm256_extractf128_ps(value, 1);
    p += 4;
    bits >>= 4;
  }
  if (bits & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), rest);
    rest = _mm_movehl_ps(rest, rest);
    p += 2;
    bits >>= 2;
  }
  if (bits & 1) _mm_store_ss(p, rest);
}
inline void store_masked(double* p, Vector<double> value, Mask<double> mask) {
  if (is_full(mask)) return store(p, value);
  int bits = bits_of(mask);
  if (bits & (bits + 1)) return _mm256_maskstore_pd(p, mask.lanes, value);
  __m128d rest = _mm256_castpd256_pd128(value);
  if (bits & 2) {
    _mm_storeu_pd(p, rest);
    rest = _mm256_extractf128_pd(value, 1);
    p += 2;
    bits >>= 2;
  }
  if (bits & 1) _mm_store_sd(p, rest);
}

// 16-bit elements have no masked instructions.
template <class T>
inline Vector<float> load_masked(const T* p, Mask<float> mask) {
  if (is_full(mask)) return load(p);
  const int bits = bits_of(mask);
  return load_each(p, 1, [=](int lane) { return bits >> lane & 1; });
}
template <class T>
inline void store_masked(T* p, Vector<float> value, Mask<float> mask) {
  if (is_full(mask)) return store(p, value);
  const int bits = bits_of(mask);
  store_each(p, value, [=](int lane) { return bits >> lane & 1; });
}

// Elements p[0], p[2], p[4], ...; no element between them past the last is touched.
inline Vector<float> load_every_second(const float* p, Mask<float> mask) {
  __m256 pairs;
  if (is_full(mask)) {
    pairs = _mm256_shuffle_ps(load(p), load(p + 7), 0b11'01'10'00);
  } else {
    const __m256i low = _mm256_cvtepu32_epi64(_mm256_castsi256_si128(mask.lanes));
    const __m256i high = _mm256_cvtepu32_epi64(_mm256_extracti128_si256(mask.lanes, 1));
    pairs = _mm256_shuffle_ps(_mm256_maskload_ps(p, low), _mm256_maskload_ps(p + 8, high),
                              0b10'00'10'00);
  }
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(pairs), 0b11'01'10'00));
}

inline Vector<float> gather_strided(const float* p, std::int32_t step, Mask<float> mask) {
  const __m256i index = _mm256_mullo_epi32(lane_numbers(float()), _mm256_set1_epi32(step));
  return _mm256_mask_i32gather_ps(_mm256_setzero_ps(), p, index, _mm256_castsi256_ps(mask.lanes),
                                  sizeof *p);
}
inline Vector<double> gather_strided(const double* p, std::int32_t step, Mask<double> mask) {
  const __m128i index = _mm_mullo_epi32(_mm_set_epi32(3, 2, 1, 0), _mm_set1_epi32(step));
  return _mm256_mask_i32gather_pd(_mm256_setzero_pd(), p, index, _mm256_castsi256_pd(mask.lanes),
                                  sizeof *p);
}

// Elements p[0], p[step], p[2 step], ...; those of masked lanes are not touched. Full vectors are
// put together by inserts, which AMD's processors do faster than a gather.
template <class T>
inline Vector<Compute<T>> load_strided(const T* p, std::int64_t step, Mask<Compute<T>> mask) {
  using C = Compute<T>;
  if (step == 1) return load_masked(p, mask);
  if constexpr (std::is_same_v<T, float>) {
    if (step == 2) return load_every_second(p, mask);
  }
  if (is_full(mask)) {
    const auto element = [=](int lane) { return to_compute(p[lane * step]); };
    if constexpr (kLanes<C> == 4) {
      return Vector<C>{element(0), element(1), element(2), element(3)};
    } else {
      return Vector<C>{element(0), element(1), element(2), element(3),
                       element(4), element(5), element(6), element(7)};
    }
  }
  if constexpr (sizeof(T) >= 4) {
    constexpr std::int64_t kFarthest = std::int64_t{1} << 26;
    if (0 < step && step < kFarthest)
      return gather_strided(p, static_cast<std::int32_t>(step), mask);
  }
  const int bits = bits_of(mask);
  return load_each(p, step, [=](int lane) { return bits >> lane & 1; });
}

// The Q elements at p, over and over.
template <int Q, class C>
inline Vector<C> repeat(const C* p) {
  constexpr int kBytes = Q * static_cast<int>(sizeof(C));
  if constexpr (Q == 1) {
    return broadcast(*p);
  } else if constexpr (kBytes == 8) {
    return reinterpret_cast<Vector<C>>(
        _mm256_broadcast_sd(static_cast<const double*>(static_cast<const void*>(p))));
  } else {
    static_assert(kBytes == 16);
    return reinterpret_cast<Vector<C>>(
        _mm256_broadcast_ps(static_cast<const __m128*>(static_cast<const void*>(p))));
  }
}

// result[lane] = vector[index[lane]]
inline Vector<float> permute(Vector<float> vector, const std::int32_t* index) {
  return _mm256_permutevar8x32_ps(vector,
                                  _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)));
}
inline Vector<double> permute(Vector<double> vector, const std::int64_t* index) {
  return Vector<double>{vector[index[0]], vector[index[1]], vector[index[2]], vector[index[3]]};
}
