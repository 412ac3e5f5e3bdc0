// What vectors of every instruction set have in common. C is what is computed in (float or double),
// T what lies in memory. Included by each simd_*.h inside its namespace, with kVectorBytes and
// kVectorsFitRegisters given.

constexpr Device kDevice = Device::kCpu;

template <class C>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(C));

template <class C>
struct VectorOf {
  typedef C type __attribute__((vector_size(kVectorBytes)));
};
template <class C>
using Vector = typename VectorOf<C>::type;

// The integer as wide as a lane: what lanes are numbered with.
template <class C>
using LaneIndex = std::conditional_t<sizeof(C) == 4, std::int32_t, std::int64_t>;

// Subtracting zero changes no bit and so costs nothing; adding it would turn -0 into 0, and is not
// left out by the compiler.
template <class C>
inline Vector<C> broadcast(C value) {
  return value - Vector<C>{};
}

// A value that several multiply-adds use: otherwise the compiler may load it anew for each.
template <class V>
HANDCONV_INLINE V in_register(V value) {
#if defined(__x86_64__)
  if constexpr (kVectorsFitRegisters) asm("" : "+v"(value));
#endif
  return value;
}

template <class V, int... I>
inline V interleave(V a, V b, int half, std::integer_sequence<int, I...>) {
  constexpr int kCount = sizeof...(I);
  return half == 0 ? __builtin_shufflevector(a, b, (I % 2 * kCount + I / 2)...)
                   : __builtin_shufflevector(a, b, (I % 2 * kCount + I / 2 + kCount / 2)...);
}

template <class V, int... I>
HANDCONV_INLINE V pick_every_second(V a, V b, bool odd, std::integer_sequence<int, I...>) {
  if constexpr (kVectorBytes == 32) {
    // No instruction takes lanes across halves of two vectors: the first halves of both and the
    // last halves make vectors whose halves are shuffled side by side.
    constexpr int L = sizeof...(I), H = L / 2;
    const V first = __builtin_shufflevector(a, b, (I < H ? I : I + H)...);
    const V last = __builtin_shufflevector(a, b, (I < H ? I + H : I + L)...);
    constexpr int kSide = H / 2;  // lanes that a half of the result has from each
    return odd ? __builtin_shufflevector(first, last,
                                         (I / H * H + I % kSide * 2 + 1 + I % H / kSide * L)...)
               : __builtin_shufflevector(first, last,
                                         (I / H * H + I % kSide * 2 + I % H / kSide * L)...);
  }
  return odd ? __builtin_shufflevector(a, b, (2 * I + 1)...)
             : __builtin_shufflevector(a, b, (2 * I)...);
}

// Of the lanes of a followed by those of b, lanes 0, 2, 4, ... or, if odd, 1, 3, 5, ...
template <class C>
HANDCONV_INLINE Vector<C> every_second(Vector<C> a, Vector<C> b, bool odd) {
  return pick_every_second(a, b, odd, std::make_integer_sequence<int, kLanes<C>>());
}

// Transposes a square of as many vectors as a vector has lanes, by log2 of that many perfect
// shuffles.
template <class C>
HANDCONV_INLINE void transpose(Vector<C> (&rows)[kLanes<C>]) {
  constexpr int L = kLanes<C>;
  constexpr std::make_integer_sequence<int, L> lanes;
#pragma GCC unroll 4
  for (int done = 1; done < L; done *= 2) {
    Vector<C> shuffled[L];
#pragma GCC unroll 8
    for (int i = 0; i < L / 2; ++i) {
      shuffled[2 * i] = interleave(rows[i], rows[i + L / 2], 0, lanes);
      shuffled[2 * i + 1] = interleave(rows[i], rows[i + L / 2], 1, lanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) rows[i] = shuffled[i];
  }
}

// The lanes' sum, always in the same order.
template <class C>
inline C horizontal_sum(Vector<C> vector) {
  for (int half = kLanes<C> / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) vector[lane] += vector[lane + half];
  }
  return vector[0];
}

// Lane by lane, for what an instruction set has no instruction for.
template <class T, class Wanted>
[[gnu::noinline]] Vector<Compute<T>> load_each(const T* p, std::int64_t step, Wanted wanted) {
  Vector<Compute<T>> result{};
  for (int lane = 0; lane < kLanes<Compute<T>>; ++lane) {
    if (wanted(lane)) result[lane] = to_compute(p[lane * step]);
  }
  return result;
}
template <class T, class Wanted>
[[gnu::noinline]] void store_each(T* p, Vector<Compute<T>> value, Wanted wanted) {
  for (int lane = 0; lane < kLanes<Compute<T>>; ++lane) {
    if (wanted(lane)) p[lane] = from_compute<T>(value[lane]);
  }
}
