// The register tile that every product of matrices here ends in: R rows by V vectors of lanes, kept
// in registers while a sum runs.
//
//     sums[r][lane] += sum over k of rows[r][k * row_step] * panel[k * panel_step + lane]
//
// In the terms of GEMM, rows are A (M of them), the panel is B (N lanes), k runs over K. What they
// mean:
//
// clang-format off
//     kernel                   row r                     lane              k
//     direct.channels          source pixel              filled channel    source channel, by taps
//     direct.channels, weight  input channel             output channel    pixels along a row of y
//     direct.gemv, gradients   sample or filter          element of w      filter or sample
//     im2col                   row of the weight matrix  pixel             row of the column matrix
// clang-format on
//
// 6 x 4 vectors use 24 of the 32 AVX-512 registers for sums, 4 for the panel and one for the row's
// element: 24 multiply-adds for 10 loads. With 16 registers 6 x 2 fit.

constexpr int kTileVectors = kVectorBytes == 64 ? 4 : 2;

// Fewer vectors leave registers for more rows, which keeps enough independent sums in flight.
template <int V>
constexpr int kTileRows = V == 4              ? 6
                          : V == 3            ? 8
                          : kVectorBytes < 64 ? 12 / V
                          : V == 2            ? 12
                                              : 14;

// What a tile of S ends with: a copy, with few registers, which need not be read again after every
// store.
template <class S>
using TileEnd = std::conditional_t<kVectorBytes == 64, const S&, const S>;

// A row of a tile: sums[v] += *element * lanes[v].
template <class C, std::size_t V>
HANDCONV_INLINE void add_products(Vector<C> (&sums)[V], const C* element,
                                  const Vector<C> (&lanes)[V]) {
  const Vector<C> value = in_register(broadcast(*element));
#pragma GCC unroll 4
  for (std::size_t v = 0; v < V; ++v) add_product(sums[v], value, lanes[v]);
}

// Every loop over a tile is unrolled: a run-time index would move its registers to memory.
template <class C, int R, int V>
struct Tile {
  Vector<C> sums[R][V];

  // Every row starts from the same lanes.
  HANDCONV_INLINE void start(const C* lanes) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = load(lanes + v * kLanes<C>);
    }
  }
  HANDCONV_INLINE void start_at_zero() {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = Vector<C>{};
    }
  }
};

// A tile whose long sums are made of blocks, which keeps rounding from growing with the number of
// terms: once kTerms have been added the block is added to the totals and starts anew. The totals
// lie in memory, and short sums never touch them.
template <class C, int R, int V, std::int64_t kMostTerms = 256>
struct BlockedTile {
  static constexpr std::int64_t kTerms = kMostTerms;

  Tile<C, R, V> block, totals;
  std::int64_t terms = 0;
  bool has_totals = false;

  HANDCONV_INLINE void start(const C* lanes) { block.start(lanes); }

  HANDCONV_INLINE void note_terms(std::int64_t count) {
    terms += count;
    if (terms >= kTerms) flush();
  }

  // Instead, before they are added: for runs so long that the last one had better not end a block.
  HANDCONV_INLINE void expect_terms(std::int64_t count) {
    if (terms > 0 && terms + count > kTerms) flush();
    terms += count;
  }

  // Leaves the whole sums in `block`.
  HANDCONV_INLINE void finish() {
    if (!has_totals) return;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) block.sums[r][v] += totals.sums[r][v];
    }
  }

 private:
  HANDCONV_INLINE void flush() {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        totals.sums[r][v] = has_totals ? totals.sums[r][v] + block.sums[r][v] : block.sums[r][v];
      }
    }
    block.start_at_zero();
    has_totals = true;
    terms = 0;
  }
};

// How the vectors of a block of lanes are loaded: the last one may reach past the channels that
// exist.
template <class T>
struct FullPanel {
  Vector<Compute<T>> operator()(const T* p, bool) const { return load(p); }
};
template <class T>
struct TailPanel {
  Mask<Compute<T>> mask;
  Vector<Compute<T>> operator()(const T* p, bool is_last) const {
    return is_last ? load_masked(p, mask) : load(p);
  }
};

template <class C, int R, int V, class LoadPanel>
HANDCONV_INLINE void accumulate(Tile<C, R, V>& tile, const C* const (&rows)[R],
                                std::int64_t row_step, const C* panel, std::int64_t panel_step,
                                std::int64_t count, LoadPanel load_panel) {
  std::int64_t at = 0;
  for (std::int64_t k = 0; k < count; ++k, at += row_step, panel += panel_step) {
    Vector<C> lanes[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) lanes[v] = load_panel(panel + v * kLanes<C>, v == V - 1);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vector<C> element = broadcast(rows[r][at]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) tile.sums[r][v] = fma(element, lanes[v], tile.sums[r][v]);
    }
  }
}

// How channels are cut into blocks of lanes: full blocks, then one of the vectors that the rest
// needs.
template <class C>
struct LaneBlocks {
  static constexpr std::int64_t kLargest = kTileVectors * kLanes<C>;

  std::int64_t channels;
  std::int64_t full = kLargest;  // channels of a full block

  std::int64_t count() const { return ceil_divide(channels, full); }
  std::int64_t first(std::int64_t block) const { return block * full; }
  std::int64_t size(std::int64_t block) const {
    const std::int64_t rest = channels - first(block);
    return rest < full ? rest : full;
  }
  int vectors(std::int64_t block) const { return static_cast<int>(vectors_for(size(block))); }
  std::int64_t padded_size(std::int64_t block) const { return vectors(block) * kLanes<C>; }
  // Lanes of all blocks before `block`, padding included.
  std::int64_t padded_first(std::int64_t block) const {
    return block * vectors_for(full) * kLanes<C>;
  }
  std::int64_t padded_channels() const {
    return padded_first(count() - 1) + padded_size(count() - 1);
  }

 private:
  static std::int64_t vectors_for(std::int64_t lanes) {
    return (lanes + kLanes<C> - 1) / kLanes<C>;
  }
};

template <int V>
struct VectorCount {
  static constexpr int value = V;
};

// visit(VectorCount<V>{}) with the constant V that equals `vectors`.
template <class Visit>
inline void visit_vectors(int vectors, const Visit& visit) {
  if constexpr (kTileVectors == 4) {
    if (vectors == 4) return visit(VectorCount<4>{});
    if (vectors == 3) return visit(VectorCount<3>{});
  }
  if (vectors == 2) return visit(VectorCount<2>{});
  visit(VectorCount<1>{});
}
