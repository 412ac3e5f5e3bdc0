// The innermost product of the dense weight gradient: a tile of rows (channels of one image) by
// lanes (channels of the other), summed over a list of pixel pairs,
//
//     total[r][lane] (+)= sum over samples s and pairs k of
//                         rows[s * row_sample + pairs[k].row + r] *
//                         panel[s * panel_sample + pairs[k].lane + lane].
//
// Register tile 6 x 4 vectors (6 x 2 with 16 registers): 24 multiply-adds for 4 vector loads, 6
// broadcasts and the 2 offsets of a pair. The pairs are what stride, padding and dilation come down
// to: no pixel of the padding is multiplied, and no loop ends at the end of a row.
// Tried: elements as memory operands of the multiply-adds, as in gemm_tile.h; slower.

constexpr int kRowTile = 6;  // rows whose elements are adjacent in memory

// Offsets of a pixel of y and of the pixel of x that it meets, in elements of what they are packed
// in.
struct PixelPair {
  std::int32_t lane, row;
};

template <class C>
struct TileProduct {
  const C* panel;
  const C* rows;
  std::int64_t second_tile;  // from a row tile to the next one, for tiles of two
  std::int64_t samples, panel_sample, row_sample;
  const PixelPair* pairs;
  std::int64_t count;
  C* totals;
  std::int64_t total_step;  // between rows of the totals
  bool starts;              // the totals are written, not added to
};

template <class C, int R, int V>
[[gnu::noinline]] void multiply_pairs(const TileProduct<C>& product) {
  Tile<C, R, V> tile;
  tile.start_at_zero();
  const std::int64_t second = product.second_tile;
  // From L2, while the sums run.
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      __builtin_prefetch(product.totals + r * product.total_step + v * kLanes<C>, 1);
    }
  }
  const PixelPair* const end = product.pairs + product.count;
  for (std::int64_t s = 0; s < product.samples; ++s) {
    const C* panel = product.panel + s * product.panel_sample;
    const C* rows = product.rows + s * product.row_sample;
    for (const PixelPair* pair = product.pairs; pair != end; ++pair) {
      const C* lane = panel + pair->lane;
      const C* row = rows + pair->row;
      Vector<C> lanes[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) lanes[v] = load(lane + v * kLanes<C>);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const Vector<C> element = broadcast(r < kRowTile ? row[r] : row[second + r - kRowTile]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) tile.sums[r][v] = fma(element, lanes[v], tile.sums[r][v]);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    C* total = product.totals + r * product.total_step;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      C* at = total + v * kLanes<C>;
      store(at, product.starts ? tile.sums[r][v] : load(at) + tile.sums[r][v]);
    }
  }
}

// Two row tiles at once, where few vectors leave registers for them.
template <int V>
constexpr bool kTakesTwoRowTiles = 2 * V <= kTileVectors;

template <int V, class C>
inline void multiply_pairs_of(int rows, const TileProduct<C>& product) {
  if constexpr (kTakesTwoRowTiles<V>) {
    if (rows == 2 * kRowTile) return multiply_pairs<C, 2 * kRowTile, V>(product);
  }
  switch (rows) {
    case 6:
      return multiply_pairs<C, 6, V>(product);
    case 5:
      return multiply_pairs<C, 5, V>(product);
    case 4:
      return multiply_pairs<C, 4, V>(product);
    case 3:
      return multiply_pairs<C, 3, V>(product);
    case 2:
      return multiply_pairs<C, 2, V>(product);
    default:
      return multiply_pairs<C, 1, V>(product);
  }
}
