// Vectors of 512 bits. Included inside a namespace, after every other header; see
// cpu/units/avx512.h.

constexpr int kVectorBytes = 64;
constexpr bool kVectorsFitRegisters = true;

#include "cpu/simd.h"

template <class C>
struct MaskOf {
  using type = __mmask16;
};
template <>
struct MaskOf<double> {
  using type = __mmask8;
};
template <class C>
using Mask = typename MaskOf<C>::type;

// Lanes [first, last); both may lie outside the vector.
template <class C>
inline Mask<C> mask_between(std::int64_t first, std::int64_t last) {
  const auto below = [](std::int64_t lane) {
    const std::int64_t clamped = lane < 0 ? 0 : lane > kLanes<C> ? kLanes<C> : lane;
    return (1u << clamped) - 1;
  };
  return static_cast<Mask<C>>(below(last) & ~below(first));
}

// Any lanes, by their bits.
template <class C>
using LaneSet = Mask<C>;
template <class C>
inline LaneSet<C> lane_set(unsigned bits) {
  return static_cast<LaneSet<C>>(bits);
}

inline Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm512_fmadd_pd(a, b, c);
}

template <class V>
HANDCONV_INLINE void add_product(V& sum, V a, V b) {
  sum = fma(a, b, sum);
}

// element * b + c in one instruction, which the compiler splits wherever an element is used twice.
// A register tile that does so for every other row keeps both the decoder and the load ports busy.
inline Vector<float> fma_element(const float* element, Vector<float> b, Vector<float> c) {
  asm("vfmadd231ps %1%{1to16%}, %2, %0" : "+v"(c) : "m"(*element), "v"(b));
  return c;
}
inline Vector<double> fma_element(const double* element, Vector<double> b, Vector<double> c) {
  asm("vfmadd231pd %1%{1to8%}, %2, %0" : "+v"(c) : "m"(*element), "v"(b));
  return c;
}

inline Vector<float> load_masked(const float* p, Mask<float> mask) {
  return _mm512_maskz_loadu_ps(mask, p);
}
inline Vector<double> load_masked(const double* p, Mask<double> mask) {
  return _mm512_maskz_loadu_pd(mask, p);
}
inline Vector<float> load_masked(const BFloat16* p, Mask<float> mask) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}
inline Vector<float> load_masked(const Float16* p, Mask<float> mask) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
}

inline void store_masked(float* p, Vector<float> value, Mask<float> mask) {
  _mm512_mask_storeu_ps(p, mask, value);
}
inline void store_masked(double* p, Vector<double> value, Mask<double> mask) {
  _mm512_mask_storeu_pd(p, mask, value);
}
inline void store_masked(BFloat16* p, Vector<float> value, Mask<float> mask) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet_nan = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  const __m512i result = _mm512_mask_mov_epi32(rounded, is_nan, quiet_nan);
  _mm256_mask_storeu_epi16(p, mask, _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16)));
}
inline void store_masked(Float16* p, Vector<float> value, Mask<float> mask) {
  _mm256_mask_storeu_epi16(p, mask,
                           _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

template <class T>
inline Vector<Compute<T>> load(const T* p) {
  return load_masked(p, static_cast<Mask<Compute<T>>>(~0));
}
template <class T>
inline void store(T* p, Vector<Compute<T>> value) {
  store_masked(p, value, static_cast<Mask<Compute<T>>>(~0));
}

// Every second element from p on; elements of masked lanes, and those in between, are not touched.
inline Vector<float> load_every_second(const float* p, Mask<float> mask) {
  const unsigned spread = _pdep_u32(mask, 0x55555555u);
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(spread), p);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(spread >> 16), p + 16);
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  return _mm512_permutex2var_ps(low, even, high);
}
inline Vector<double> load_every_second(const double* p, Mask<double> mask) {
  const unsigned spread = _pdep_u32(mask, 0x5555u);
  const __m512d low = _mm512_maskz_loadu_pd(static_cast<__mmask8>(spread), p);
  const __m512d high = _mm512_maskz_loadu_pd(static_cast<__mmask8>(spread >> 8), p + 8);
  return _mm512_permutex2var_pd(low, _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), high);
}

inline Vector<float> gather_strided(const float* p, std::int32_t step, Mask<float> mask) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i index = _mm512_mullo_epi32(lane, _mm512_set1_epi32(step));
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, p, sizeof *p);
}
inline Vector<double> gather_strided(const double* p, std::int32_t step, Mask<double> mask) {
  const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  const __m256i index = _mm256_mullo_epi32(lane, _mm256_set1_epi32(step));
  return _mm512_mask_i32gather_pd(_mm512_setzero_pd(), mask, index, p, sizeof *p);
}

// Elements p[0], p[step], p[2 step], ...; those of masked lanes are not touched.
template <class T>
inline Vector<Compute<T>> load_strided(const T* p, std::int64_t step, Mask<Compute<T>> mask) {
  if (step == 1) return load_masked(p, mask);
  if constexpr (sizeof(T) >= 4) {
    if (step == 2) return load_every_second(p, mask);
    constexpr std::int64_t kFarthest = std::int64_t{1} << 26;
    if (0 < step && step < kFarthest) {
      return gather_strided(p, static_cast<std::int32_t>(step), mask);
    }
  }
  return load_each(p, step, [=](int lane) { return mask >> lane & 1; });
}

// The Q elements at p, over and over.
template <int Q, class C>
inline Vector<C> repeat(const C* p) {
  constexpr int kBytes = Q * static_cast<int>(sizeof(C));
  if constexpr (Q == 1) {
    return broadcast(*p);
  } else if constexpr (kBytes == 8) {
    // As a double, so that the load itself repeats it: a shuffle would take a multiply-add's place.
    double both;
    std::memcpy(&both, p, sizeof both);
    return reinterpret_cast<Vector<C>>(_mm512_set1_pd(both));
  } else if constexpr (kBytes == 16) {
    return reinterpret_cast<Vector<C>>(_mm512_broadcast_f32x4(
        _mm_loadu_ps(static_cast<const float*>(static_cast<const void*>(p)))));
  } else {
    static_assert(kBytes == 32);
    return reinterpret_cast<Vector<C>>(_mm512_broadcast_f64x4(
        _mm256_loadu_pd(static_cast<const double*>(static_cast<const void*>(p)))));
  }
}

// result[lane] = vector[index[lane]]
inline Vector<float> permute(Vector<float> vector, const std::int32_t* index) {
  return _mm512_permutexvar_ps(_mm512_loadu_si512(index), vector);
}
inline Vector<double> permute(Vector<double> vector, const std::int64_t* index) {
  return _mm512_permutexvar_pd(_mm512_loadu_si512(index), vector);
}

// Elements p[0], p[2], ... and p[1], p[3], ... of 16 bits: the halves of words. Bit i of the masks
// is for the i-th element, `high` for those from the 16-th on.
inline __m512i load_words(const void* p, unsigned low, unsigned high) {
  return _mm512_maskz_loadu_epi16(low | high << 16, p);
}
inline void load_pairs_of_words(const BFloat16* p, unsigned low, unsigned high, Vector<float>& even,
                                Vector<float>& odd) {
  const __m512i words = load_words(p, low, high);
  even = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  odd = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(-65536)));
}
inline void load_pairs_of_words(const Float16* p, unsigned low, unsigned high, Vector<float>& even,
                                Vector<float>& odd) {
  const __m512i words = load_words(p, low, high);
  even = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
  odd = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
}
