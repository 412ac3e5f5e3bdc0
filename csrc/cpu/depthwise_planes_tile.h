// The register tile of depthwise planes: R filled rows by V vectors of columns. A source row is
// loaded once for each column of taps and serves every row of the tile that it reaches: K * R
// multiply-adds a vector for K + R - 1 loads, 21 for 9 with 3 taps and 35 for 11 with 5. The K
// weights of a column of taps stay in registers: 7 x 2 sums, 5 weights and 2 vectors of pixels use
// 21 of 32. Tried: plain loads with masked multiply-adds, which saves the instruction that a
// masked load takes of their ports: 0 to 6 % for twice the code; prefetching the next planes:
// nothing.

// Rows of a tile of V vectors. 7 divides 14, 28, 56 and 112.
template <int V>
constexpr int kPlaneRows = kVectorBytes == 64 || V == 1 ? 7 : 4;
constexpr int kPlaneVectors = 2;
// Rows of taps that are added at a time, at most: of long sums, and of short ones by the stride of
// the columns. Every number of them is code of its own, so there is none for 4, nor for 6.
constexpr int kPlaneTaps = 3;
constexpr int kPlaneTapsOfStride1 = kVectorBytes == 64 ? 7 : kVectorBytes == 32 ? 5 : 3;
constexpr int kPlaneTapsOfStride2 = kVectorBytes == 16 ? 3 : 5;

// The lines of source that a tile reads, and the weights that go with them.
template <class T>
struct PlaneLines {
  const T* first;       // line q = 0
  std::int64_t pitch;   // to the next
  unsigned inside;      // bit q: the line exists
  const T* weights;     // of the first line
  std::int64_t w_step;  // to the weight of the next line
  std::int64_t w_column;
};

// Adds one column of K taps to vectors [V0, V0 + Count) of the tile. `load_pixels` holds what it
// needs by value: it is called behind branches, out of which nothing is hoisted.
// kAll: every line exists.
template <int K, bool kAll, int V0, int Count, class T, int R, int V, class Load>
HANDCONV_INLINE void add_taps(Tile<Compute<T>, R, V>& tile, const PlaneLines<T>& lines,
                              std::int64_t column, const T* weights, const Load& load_pixels) {
  using C = Compute<T>;
  Vector<C> weight[K];
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) weight[k] = broadcast<C>(to_compute(weights[k * lines.w_step]));
  const T* line = lines.first + column;
#pragma GCC unroll 32
  for (int q = 0; q < R + K - 1; ++q) {
    if (kAll || lines.inside & 1u << q) {
#pragma GCC unroll 4
      for (int v = 0; v < Count; ++v) {
        const Vector<C> pixels = load_pixels(line, v);
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) {
          const int r = q - k;
          if (r >= 0 && r < R) {
            tile.sums[r][V0 + v] = fma(pixels, weight[k], tile.sums[r][V0 + v]);
          }
        }
      }
    }
    line += lines.pitch;
  }
}

template <class C>
struct VectorPair {
  Vector<C> even, odd;
};

template <class C>
struct PairMask {
  Mask<C> low, high;
};

// Elements p[0], p[2], ... and p[1], p[3], ...
template <class T>
HANDCONV_INLINE VectorPair<Compute<T>> load_pairs(const T* p, const PairMask<Compute<T>>& mask) {
  using C = Compute<T>;
  if constexpr (requires(VectorPair<C>& pair) {
                  load_pairs_of_words(p, mask.low, mask.high, pair.even, pair.odd);
                }) {
    VectorPair<C> pair;
    load_pairs_of_words(p, mask.low, mask.high, pair.even, pair.odd);
    return pair;
  } else {
    const Vector<C> low = load_masked(p, mask.low);
    const Vector<C> high = load_masked(p + kLanes<C>, mask.high);
    return {every_second<C>(low, high, false), every_second<C>(low, high, true)};
  }
}

template <class T>
HANDCONV_INLINE VectorPair<Compute<T>> load_pairs(const T* p) {
  using C = Compute<T>;
  const Vector<C> low = load(p), high = load(p + kLanes<C>);
  return {every_second<C>(low, high, false), every_second<C>(low, high, true)};
}

// The same for stride 2: adds two neighbouring columns of K taps. Source lines come in pairs of
// columns, whose even ones belong to the first column of taps and whose odd ones to the second,
// which may be missing. kAll: every line exists.
template <int K, bool kBoth, bool kAll, class T, int R, class Load>
HANDCONV_INLINE void add_tap_pairs(Tile<Compute<T>, R, 1>& tile, const PlaneLines<T>& lines,
                                   std::int64_t column, const T* weights, const Load& load_pixels) {
  using C = Compute<T>;
  Vector<C> even_weight[K], odd_weight[K];
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) {
    const T* weight = weights + k * lines.w_step;
    even_weight[k] = broadcast<C>(to_compute(*weight));
    odd_weight[k] = kBoth ? broadcast<C>(to_compute(weight[lines.w_column])) : Vector<C>{};
  }
  const T* line = lines.first + column;
#pragma GCC unroll 32
  for (int q = 0; q < 2 * (R - 1) + K; ++q) {
    if (kAll || lines.inside & 1u << q) {
      const VectorPair<C> pixels = load_pixels(line);
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
        const int r = (q - k) / 2;
        if (q - k >= 0 && (q - k) % 2 == 0 && r < R) {
          tile.sums[r][0] = fma(pixels.even, even_weight[k], tile.sums[r][0]);
          if (kBoth) tile.sums[r][0] = fma(pixels.odd, odd_weight[k], tile.sums[r][0]);
        }
      }
    }
    line += lines.pitch;
  }
}
