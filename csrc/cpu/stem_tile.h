// The register tile of direct.stem: up to R rows by V vectors of lanes, kept in registers while a
// block of the sum runs.
//
//     target[r][lane] = bias + sum over terms k of row[r][k] * lanes[k][lane]
//
// for the first block of the sum; those after it are added to the target, each a sum of its own,
// which keeps rounding from growing with their number.
//
// channels_last makes pixels the rows and output channels the lanes; NCHW the other way round, so
// that both write vectors as they lie in memory. Few channels make the runs of neighbouring terms
// so short that in the strip, the operand made of pixels, a table of offsets leads from term to
// term; the weight has them side by side.
//
// R V of the 32 AVX-512 registers hold sums, V the lanes and one a row's element.

constexpr int kStemVectors = kVectorBytes == 64 ? 4 : 2;

template <int V>
constexpr int kStemRows = kVectorBytes < 64 ? 12 / V
                          : V == 4          ? 6
                          : V == 3          ? 9
                                            : 14;
inline std::int64_t stem_rows(std::int64_t vectors) {
  std::int64_t rows = 0;
  visit_vectors(static_cast<int>(vectors),
                [&](auto count) { rows = kStemRows<decltype(count)::value>; });
  return rows;
}

template <class C>
struct StemJob {
  const C* rows;
  std::int64_t row_pitch;
  const C* lanes;
  std::int64_t lane_pitch;  // from term to term of the weight, if it is the lanes
  const std::int64_t* offsets;
  std::int64_t terms;
  const C* bias;  // of the first row or lane; null: the sum is added to what the target holds
  C* target;
  std::int64_t target_pitch;
  Mask<C> tail;  // lanes of the last vector that are stored
  // Tiles one after the other along the rows: a call for each would cost as much as several terms.
  std::int64_t tiles;
};

template <class C, bool kPixelsAreRows, int R, int V>
HANDCONV_INLINE void multiply_stem_tile(const StemJob<C>& job, const C* rows, const C* bias,
                                        C* target) {
  Vector<C> sums[R][V];
  // Read before anything is stored, which could change what `job` holds for all the compiler knows.
  const std::int64_t target_pitch = job.target_pitch;
  const Mask<C> tail = job.tail;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      sums[r][v] = !bias            ? Vector<C>{}
                   : kPixelsAreRows ? load(bias + v * kLanes<C>)
                                    : broadcast(bias[r]);
    }
  }
  // A row of y in planes is no stream that the processor foresees: without this the stores would
  // wait for their lines. Tried for channels_last too: no gain. Nor do stores past the caches have
  // any, however large y is.
  if constexpr (!kPixelsAreRows) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) __builtin_prefetch(target + r * target_pitch + v * kLanes<C>, 1);
    }
  }
  const std::int64_t pitch = job.row_pitch;
  const C* panel = job.lanes;
  const std::int64_t *const offsets = job.offsets, terms = job.terms;
  for (std::int64_t k = 0; k < terms; ++k) {
    const std::int64_t offset = offsets[k];
    const C* first = kPixelsAreRows ? rows + offset : rows + k;
    const C *fifth = first + 5 * pitch, *tenth = fifth + 5 * pitch;
    const C* from = kPixelsAreRows ? panel : panel + offset;
    Vector<C> lanes[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) lanes[v] = load(from + v * kLanes<C>);
    if (kPixelsAreRows) panel += job.lane_pitch;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vector<C> element = broadcast((r < 5 ? first : r < 10 ? fifth : tenth)[r % 5 * pitch]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] = fma(element, lanes[v], sums[r][v]);
    }
  }
  if (!bias) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] += load(target + r * target_pitch + v * kLanes<C>);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    C* to = target + r * target_pitch;
#pragma GCC unroll 4
    for (int v = 0; v < V - 1; ++v) store(to + v * kLanes<C>, sums[r][v]);
    store_masked(to + (V - 1) * kLanes<C>, sums[r][V - 1], tail);
  }
}

template <class C, bool kPixelsAreRows, int R, int V>
[[gnu::noinline]] void multiply_stem_tiles(const StemJob<C>& job) {
  const C *rows = job.rows, *bias = job.bias;
  C* target = job.target;
  const std::int64_t row_step = R * job.row_pitch, target_step = R * job.target_pitch;
  for (std::int64_t left = job.tiles; left > 0; --left) {
    multiply_stem_tile<C, kPixelsAreRows, R, V>(job, rows, bias, target);
    rows += row_step;
    target += target_step;
    if (!kPixelsAreRows && bias) bias += R;
  }
}

template <class C, bool kPixelsAreRows, int V, int... R>
HANDCONV_INLINE void multiply_stem_rows(std::int64_t rows, const StemJob<C>& job,
                                        std::integer_sequence<int, R...>) {
  using Multiply = void (*)(const StemJob<C>&);
  static constexpr Multiply kByRows[] = {multiply_stem_tiles<C, kPixelsAreRows, R + 1, V>...};
  kByRows[rows - 1](job);
}

// The tiles of that many rows, at most stem_rows, and that many lanes, at most kStemVectors
// vectors.
template <class C, bool kPixelsAreRows>
inline void multiply_stem(std::int64_t rows, std::int64_t lanes, StemJob<C>& job) {
  const std::int64_t vectors = ceil_divide(lanes, kLanes<C>);
  job.tail = mask_between<C>(0, lanes - (vectors - 1) * kLanes<C>);
  visit_vectors(static_cast<int>(vectors), [&](auto count) {
    constexpr int V = decltype(count)::value;
    multiply_stem_rows<C, kPixelsAreRows, V>(rows, job,
                                             std::make_integer_sequence<int, kStemRows<V>>());
  });
}
