// What vectors of every instruction set have in common. C is what is computed in (float or double), T what lies in memory. Included
// by each simd_*.h inside its namespace, with kVectorBytes given.

template <class C>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(C));

template <class C>
struct VectorOf {
  typedef C type __attribute__((vector_size(kVectorBytes)));
};
template <class C>
using Vector = typename VectorOf<C>::type;

template <class C>
inline Vector<C> broadcast(C value) {
  return Vector<C>{} + value;
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
