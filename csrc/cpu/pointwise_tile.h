// The register tile of direct.pointwise: R rows by V vectors of lanes, kept in registers while the
// sum over source channels runs, and repeated for one tile of rows after the other.
//
//     target[r][lane] = bias + sum over k < depth of rows[r * row_step + k * term_step] *
//                                                    panel[k * panel_pitch + lane]
//
// 9 x 3 vectors use 27 of the 32 AVX-512 registers for sums, 3 for the panel and one for the row's
// element: 27 multiply-adds for 12 loads in 13.5 cycles, and a panel that streams from L2 brings
// 192 bytes in them. 4 x 3 fit 16 registers. The loop over tiles lies inside: sums of 16 to 64
// terms are short beside a call. Blocks of 256 terms are added up, which keeps rounding from
// growing with depth.
// Where two threads share a core, every instruction besides the multiply-adds counts: with short
// vectors several terms are added at once, by constant offsets from few pointers.
// Tried: elements as operands of the multiply-adds in memory; 4 to 14 % slower.

constexpr int kPointwiseVectors = 3;

template <int V>
constexpr int kPointwiseRows = kVectorBytes == 64 ? (V == 3 ? 9 : 14)
                               : V == 3           ? 4
                               : V == 2           ? 6
                                                  : 12;

constexpr int kPointwiseTerms = kVectorBytes == 64 ? 1 : 4;

// What lies side by side in memory, as far as a tile knows.
enum class Adjoining { kTerms, kRows, kEither };

// Whether a panel may lie in the image: its last vector is then loaded by a mask, for which 16
// registers are too few.
constexpr bool kPanelsInPlace = kVectorBytes == 64;

// Long sums are cut into blocks: of 16 registers' tiles each is a pass over all rows, for which its
// panel stays in L1, and adds to the target.
constexpr std::int64_t kPointwiseBlock = 256;
constexpr bool kBlocksArePasses = kVectorBytes < 64;

template <class C>
struct PointwiseJob {
  const C* rows;
  std::int64_t row_step, term_step;
  const C* panel;
  std::int64_t panel_pitch;
  std::int64_t depth;
  const C *lane_bias, *row_bias;  // null for none
  C* target;
  std::int64_t target_pitch;
  Mask<C> tail;          // lanes of the last vector that exist
  bool is_first = true;  // the target holds nothing yet
};

template <class C, int R, int V>
HANDCONV_INLINE void add_target(Vector<C> (&sums)[R][V], const C* target, std::int64_t pitch,
                                Mask<C> tail) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r, target += pitch) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      const C* vector = target + v * kLanes<C>;
      sums[r][v] += v == V - 1 ? load_masked(vector, tail) : load(vector);
    }
  }
}

template <class C, int R, int V, Adjoining ADJOINING>
[[gnu::noinline]] void pointwise_tiles(const PointwiseJob<C>& job, std::int64_t first,
                                       std::int64_t tiles) {
  constexpr int kAhead = 8;  // terms of a panel, asked for while others wait for L2
  constexpr int kReach = ADJOINING == Adjoining::kRows ? R : kRowsOfPointer;  // rows of a pointer
  constexpr int kPointers = (R + kReach - 1) / kReach;
  const std::int64_t step = ADJOINING == Adjoining::kRows ? 1 : job.row_step;
  const std::int64_t term_step = ADJOINING == Adjoining::kTerms ? 1 : job.term_step;
  const std::int64_t pitch = job.target_pitch;
  const std::int64_t panel_pitch = kPanelsInPlace ? job.panel_pitch : V * kLanes<C>;
  const std::int64_t blocks = kBlocksArePasses ? 1 : ceil_divide(job.depth, kPointwiseBlock);
  for (std::int64_t row = first; tiles > 0; --tiles, row += R) {
    const C* rows[kPointers];
#pragma GCC unroll 4
    for (int p = 0; p < kPointers; ++p) rows[p] = job.rows + (row + p * kReach) * step;
    const C* panel = job.panel;
    C *target = job.target + row * pitch, *ahead = target;
    int stores_ahead = R;
    C totals[R * V * kLanes<C>];
    for (std::int64_t block = 0; block < blocks; ++block) {
      Vector<C> sums[R][V];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) sums[r][v] = Vector<C>{};
      }
      // Stores that wait for L3 would hold up the next tile.
      const auto ask_for_target = [&]() __attribute__((always_inline)) {
        if (stores_ahead > 0) {
#pragma GCC unroll 3
          for (int v = 0; v < V; ++v) __builtin_prefetch(ahead + v * kLanes<C>, 1);
          ahead += pitch;
          --stores_ahead;
        }
      };
      const auto add_term = [&]() __attribute__((always_inline)) {
        Vector<C> lanes[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
          const C* vector = panel + v * kLanes<C>;
          lanes[v] = kPanelsInPlace && v == V - 1 ? load_masked(vector, job.tail) : load(vector);
          if constexpr (kVectorBytes == 64) __builtin_prefetch(vector + kAhead * V * kLanes<C>);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
          add_products(sums[r], rows[r / kReach] + r % kReach * step, lanes);
        panel += panel_pitch;
#pragma GCC unroll 4
        for (int p = 0; p < kPointers; ++p) rows[p] += term_step;
      };
      std::int64_t left = job.depth * (block + 1) / blocks - job.depth * block / blocks;
      for (; left >= kPointwiseTerms; left -= kPointwiseTerms) {
        ask_for_target();
#pragma GCC unroll 4
        for (int term = 0; term < kPointwiseTerms; ++term) add_term();
      }
      if constexpr (kPointwiseTerms > 1) {
        for (; left > 0; --left) add_term();
      }
      if (block > 0) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
          for (int v = 0; v < V; ++v) sums[r][v] += load(totals + (r * V + v) * kLanes<C>);
        }
      }
      if (block < blocks - 1) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
          for (int v = 0; v < V; ++v) store(totals + (r * V + v) * kLanes<C>, sums[r][v]);
        }
        continue;
      }
      if constexpr (kBlocksArePasses) {
        if (!job.is_first) add_target<C, R, V>(sums, target, pitch, job.tail);
      }
      if (job.lane_bias) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
          const C* vector = job.lane_bias + v * kLanes<C>;
          const Vector<C> bias = v == V - 1 ? load_masked(vector, job.tail) : load(vector);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) sums[r][v] += bias;
        }
      }
      if (job.row_bias) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const Vector<C> bias = broadcast(job.row_bias[row + r]);
#pragma GCC unroll 3
          for (int v = 0; v < V; ++v) sums[r][v] += bias;
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r, target += pitch) {
#pragma GCC unroll 3
        for (int v = 0; v < V - 1; ++v) store(target + v * kLanes<C>, sums[r][v]);
        store_masked(target + (V - 1) * kLanes<C>, sums[r][V - 1], job.tail);
      }
    }
  }
}

template <class C, int V, int... R>
inline void pointwise_rows(const PointwiseJob<C>& job, std::int64_t rows,
                           std::integer_sequence<int, R...>) {
  using Multiply = void (*)(const PointwiseJob<C>&, std::int64_t, std::int64_t);
  constexpr bool kKnows = kPointwiseTerms > 1;
  constexpr Adjoining kIfTerms = kKnows ? Adjoining::kTerms : Adjoining::kEither;
  constexpr Adjoining kIfRows = kKnows ? Adjoining::kRows : Adjoining::kEither;
  static constexpr Multiply kTerms[] = {pointwise_tiles<C, R + 1, V, kIfTerms>...};
  static constexpr Multiply kRows[] = {pointwise_tiles<C, R + 1, V, kIfRows>...};
  const Multiply* const kByRows = job.term_step == 1 ? kTerms : kRows;
  const RowTiles tiles(rows, sizeof...(R), true);
  if (tiles.extra > 0) kByRows[tiles.size](job, 0, tiles.extra);
  kByRows[tiles.size - 1](job, tiles.first(tiles.extra), tiles.count - tiles.extra);
}

template <class C>
inline void multiply_block(std::int64_t rows, std::int64_t vectors, const PointwiseJob<C>& job) {
  const auto multiply = [&](auto count) {
    constexpr int V = decltype(count)::value;
    pointwise_rows<C, V>(job, rows, std::make_integer_sequence<int, kPointwiseRows<V>>{});
  };
  if (vectors == 3) return multiply(VectorCount<3>{});
  if (vectors == 2) return multiply(VectorCount<2>{});
  multiply(VectorCount<1>{});
}

// All rows, by as many lanes as exist: at most kPointwiseVectors vectors.
template <class C>
inline void multiply_panel(std::int64_t rows, std::int64_t lanes, PointwiseJob<C>& job) {
  const std::int64_t vectors = ceil_divide(lanes, std::int64_t{kLanes<C>});
  job.tail = mask_between<C>(0, lanes - (vectors - 1) * kLanes<C>);
  const EvenSplit blocks{job.depth, ceil_divide(job.depth, kPointwiseBlock)};
  if (!kBlocksArePasses || blocks.parts <= 1) return multiply_block(rows, vectors, job);
  for (std::int64_t i = 0; i < blocks.parts; ++i) {
    PointwiseJob<C> block = job;
    block.rows += blocks.first(i) * job.term_step;
    block.panel += blocks.first(i) * job.panel_pitch;
    block.depth = blocks.size(i);
    block.is_first = i == 0;
    if (i < blocks.parts - 1) block.lane_bias = block.row_bias = nullptr;
    multiply_block(rows, vectors, block);
  }
}
