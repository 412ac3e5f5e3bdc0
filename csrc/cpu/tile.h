// The register tile that every product of matrices here ends in: R rows by V vectors of lanes, kept in registers while a sum runs.
//
//     sums[r][lane] += sum over k of rows[r][k * row_step] * panel[k * panel_step + lane]
//
// In the terms of GEMM, rows are A (M of them), the panel is B (N lanes), k runs over K. What they mean:
//
//     kernel                     row r                          lane                k
//     direct.channels            a pixel of the source          filled channel      source channel, for each tap
//     direct.channels, weight    an input channel               output channel      pixels along a row of y
//     im2col                     a row of the weight matrix     pixel               row of the column matrix
//
// 6 x 4 vectors use 24 of the 32 AVX-512 registers for sums, 4 for the panel and one for the row's element: 24 multiply-adds for 10
// loads. With 16 registers 6 x 2 fit.

constexpr int kTileVectors = kVectorBytes == 64 ? 4 : 2;

// Fewer vectors leave registers for more rows, which keeps enough independent sums in flight.
template <int V>
constexpr int kTileRows = kVectorBytes == 64 ? (V == 4 ? 6 : V == 3 ? 8 : V == 2 ? 12 : 14) : (V == 2 ? 6 : 12);

template <class C, int R, int V>
struct Tile {
  Vector<C> sums[R][V];

  // Every row starts from the same lanes.
  void start(const C* lanes) {
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) sums[r][v] = load(lanes + v * kLanes<C>);
    }
  }
  void start_at_zero() {
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) sums[r][v] = Vector<C>{};
    }
  }
};

// The last vector of a panel may reach past the channels that exist.
template <class C>
struct FullPanel {
  Vector<C> operator()(const C* p, bool) const { return load(p); }
};
template <class C>
struct TailPanel {
  Mask<C> mask;
  Vector<C> operator()(const C* p, bool is_last) const { return is_last ? load_masked(p, mask) : load(p); }
};

template <class C, int R, int V, class LoadPanel>
inline __attribute__((always_inline)) void accumulate(Tile<C, R, V>& tile, const C* const (&rows)[R],
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

// How the channels of one group are cut into blocks of lanes: full blocks of kTileVectors vectors, then one of the vectors that the
// rest needs.
template <class C>
struct LaneBlocks {
  std::int64_t channels;

  static constexpr std::int64_t kFull = kTileVectors * kLanes<C>;

  std::int64_t count() const { return (channels + kFull - 1) / kFull; }
  std::int64_t padded_channels() const { return (channels + kLanes<C> - 1) / kLanes<C> * kLanes<C>; }
  std::int64_t first(std::int64_t block) const { return block * kFull; }
  std::int64_t size(std::int64_t block) const {
    const std::int64_t rest = channels - first(block);
    return rest < kFull ? rest : kFull;
  }
  int vectors(std::int64_t block) const { return static_cast<int>((size(block) + kLanes<C> - 1) / kLanes<C>); }
  std::int64_t padded_size(std::int64_t block) const { return vectors(block) * kLanes<C>; }
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
