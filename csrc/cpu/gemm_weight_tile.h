// The register tile of direct.gemm for weights: both operands are packed, term after term of the
// sum, so that one pointer reaches each.
//
//     target[r][lane] = start[r][lane] + sum over k < depth of rows[k * kPackedRows + r] *
//                                                             panel[k * lanes + lane]
//
// 8 x 3 vectors use 24 of the 32 AVX-512 registers for sums and 3 for the panel: 24 multiply-adds
// for 11 loads, asked for while others wait for L2. With 16 registers 4 x 3 fit.
// Tried: elements as operands in memory, as in gemm_tile.h; slower beside the prefetches.

constexpr int kPackedRows = kVectorBytes == 64 ? 8 : 4;
constexpr int kPackedVectors = 3;
constexpr int kTermsAhead = 8;

template <class C>
struct PackedTile {
  const C* rows;
  const C* panel;
  std::int64_t depth;
  const C* start;  // null for zeros
  std::int64_t start_step;
  C* target;
  std::int64_t target_step;
  Mask<C> tail;  // lanes of the last vector that are stored
};

template <class C, int R, int V>
[[gnu::noinline]] void multiply_packed(const PackedTile<C>& tile) {
  Vector<C> sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sums[r][v] = Vector<C>{};
  }
  // From L2, while the sums run.
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v)
      __builtin_prefetch(tile.target + r * tile.target_step + v * kLanes<C>, 1);
  }
  const C *rows = tile.rows, *panel = tile.panel;
  const auto add_term = [&](std::int64_t k) __attribute__((always_inline)) {
    Vector<C> lanes[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      const C* vector = panel + (k * V + v) * kLanes<C>;
      lanes[v] = load(vector);
      __builtin_prefetch(vector + kTermsAhead * V * kLanes<C>);
    }
    __builtin_prefetch(rows + (k + kTermsAhead) * kPackedRows);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vector<C> element = broadcast(rows[k * kPackedRows + r]);
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sums[r][v] = fma(element, lanes[v], sums[r][v]);
    }
  };
  std::int64_t left = tile.depth;
  for (; left >= 2; left -= 2) {
    add_term(0);
    add_term(1);
    rows += 2 * kPackedRows, panel += 2 * V * kLanes<C>;
  }
  if (left > 0) add_term(0);
  const C* start = tile.start;
  C* target = tile.target;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r, target += tile.target_step) {
    if (start) {
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sums[r][v] += load(start + v * kLanes<C>);
      start += tile.start_step;
    }
#pragma GCC unroll 3
    for (int v = 0; v < V - 1; ++v) store(target + v * kLanes<C>, sums[r][v]);
    store_masked(target + (V - 1) * kLanes<C>, sums[r][V - 1], tile.tail);
  }
}

template <class C, int V, int... R>
inline void multiply_packed_rows(std::int64_t rows, const PackedTile<C>& tile,
                                 std::integer_sequence<int, R...>) {
  using Multiply = void (*)(const PackedTile<C>&);
  static constexpr Multiply kByRows[] = {multiply_packed<C, R + 1, V>...};
  kByRows[rows - 1](tile);
}

// The tile of that many rows, at most kPackedRows, and vectors, at most kPackedVectors.
template <class C>
inline void multiply_packed(std::int64_t rows, std::int64_t vectors, const PackedTile<C>& tile) {
  constexpr std::make_integer_sequence<int, kPackedRows> counts;
  if (vectors == 3) return multiply_packed_rows<C, 3>(rows, tile, counts);
  if (vectors == 2) return multiply_packed_rows<C, 2>(rows, tile, counts);
  multiply_packed_rows<C, 1>(rows, tile, counts);
}
