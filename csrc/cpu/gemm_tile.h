// The register tile of direct.gemm: up to 14 rows by 2 vectors of lanes, kept in registers while a
// block of the sum runs.
//
//     target[r][lane] = start[r][lane] + sum over k < depth of rows[r * row_pitch + k] *
//                                                             panel[k * kPanelLanes + lane]
//
// and on over more runs of as many terms, if there are any.
//
// 14 x 2 vectors use 28 of the 32 AVX-512 registers for sums, 2 for the panel and one for the
// row's element: 28 multiply-adds for 16 loads, and a panel that streams from L2 brings 128 bytes
// in 14 cycles, where a tile of 6 x 4 asks for 256 in 12. With 16 registers 6 x 2 fit; where two
// threads share a core, every instruction besides the multiply-adds counts. Rows lie at one pitch,
// so that a few pointers reach all of them.

constexpr int kGemmRows = kVectorBytes == 64 ? 14 : 6;
constexpr int kPanelVectors = 2;
constexpr int kTermsAhead = 8;  // of a panel, asked for while others wait for L2
constexpr int kRowsOfPointer = kVectorBytes == 64 ? 5 : 3;  // by the scales of an index
constexpr int kTermsAtOnce = kVectorBytes == 64 ? 2 : 4;
template <class C>
constexpr std::int64_t kPanelLanes = kPanelVectors * kLanes<C>;

template <class C>
struct TileJob {
  const C* rows;
  std::int64_t row_pitch;
  const C* panel;
  std::int64_t depth;
  const C* start;  // null for zeros
  std::int64_t start_pitch;
  C* target;
  const std::int64_t* offsets;  // of each row, from the target
  Mask<C> tail;                 // lanes of the last vector that are stored
  // Terms of the panel follow each other from run to run, those of the rows lie apart.
  std::int64_t runs = 1, run_step = 0;
};

template <class C, int R, int V>
[[gnu::noinline]] void multiply_tile(const TileJob<C>& job) {
  Vector<C> sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sums[r][v] = Vector<C>{};
  }
  std::int64_t pitch = job.row_pitch;
  const C *first = job.rows, *second = first + kRowsOfPointer * pitch,
          *third = second + kRowsOfPointer * pitch;
  const C* panel = job.panel;
  const auto add_term = [&](std::int64_t k) __attribute__((always_inline)) {
    // As an index; known to stay the same, it would give every element one of its own, in memory.
    if constexpr (kVectorBytes < 64) asm("" : "+r"(pitch));
    Vector<C> lanes[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const C* vector = panel + k * kPanelLanes<C> + v * kLanes<C>;
      lanes[v] = load(vector);
      if (v % (64 / kVectorBytes) == 0) __builtin_prefetch(vector + kTermsAhead * kPanelLanes<C>);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const C* const row = r < kRowsOfPointer ? first : r < 2 * kRowsOfPointer ? second : third;
      const Vector<C> element = broadcast((row + r % kRowsOfPointer * pitch)[k]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) add_product(sums[r][v], element, lanes[v]);
    }
  };
  // Stores that wait for L3 would hold up the next tile: their lines are asked for here, a row at a
  // time, so that those of the panel need not queue behind them.
  const std::int64_t* offset = job.offsets;
  const std::int64_t* const last_offset = offset + R;
  const std::int64_t depth = job.depth, gap = job.run_step - depth;
  std::int64_t runs = job.runs;
  do {
    std::int64_t left = depth;
    for (; left >= kTermsAtOnce; left -= kTermsAtOnce) {
      if (offset != last_offset) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) __builtin_prefetch(job.target + *offset + v * kLanes<C>, 1);
        ++offset;
      }
      add_term(0);
      add_term(1);
      if constexpr (kTermsAtOnce == 4) {
        add_term(2);
        add_term(3);
      }
      first += kTermsAtOnce, second += kTermsAtOnce, third += kTermsAtOnce;
      panel += kTermsAtOnce * kPanelLanes<C>;
    }
    // One at most, where two are added at once.
    for (; left > 0; left = kTermsAtOnce == 2 ? 0 : left - 1) {
      add_term(0);
      first += 1, second += 1, third += 1, panel += kPanelLanes<C>;
    }
    first += gap, second += gap, third += gap;
  } while (--runs > 0);
  TileEnd<TileJob<C>> ending = job;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      if (ending.start) sums[r][v] += load(ending.start + r * ending.start_pitch + v * kLanes<C>);
      C* target = ending.target + ending.offsets[r] + v * kLanes<C>;
      if (v == V - 1) {
        store_masked(target, sums[r][v], ending.tail);
      } else {
        store(target, sums[r][v]);
      }
    }
  }
}

template <class C, int V, int... R>
HANDCONV_INLINE void multiply_rows(int rows, const TileJob<C>& job,
                                   std::integer_sequence<int, R...>) {
  using Multiply = void (*)(const TileJob<C>&);
  static constexpr Multiply kByRows[] = {multiply_tile<C, R + 1, V>...};
  kByRows[rows - 1](job);
}

// The tile of that many rows, at most kGemmRows, and that many lanes, at most kPanelLanes.
template <class C>
inline void multiply(int rows, std::int64_t lanes, TileJob<C>& job) {
  constexpr std::make_integer_sequence<int, kGemmRows> counts;
  if (lanes > kLanes<C>) {
    job.tail = mask_between<C>(0, lanes - kLanes<C>);
    multiply_rows<C, 2>(rows, job, counts);
  } else {
    job.tail = mask_between<C>(0, lanes);
    multiply_rows<C, 1>(rows, job, counts);
  }
}

// Rows 2 KiB apart would push each other out of the cache.
template <class C>
inline bool rows_collide(std::int64_t pitch) {
  return pitch * static_cast<std::int64_t>(sizeof(C)) % 2048 == 0;
}
// The few rows that a tile of 16 registers reads along their terms stay in it all the same.
template <class C>
inline bool rows_of_tile_collide(std::int64_t pitch) {
  return kVectorBytes == 64 && rows_collide<C>(pitch);
}
