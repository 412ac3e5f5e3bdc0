// One product of matrices in Winograd's space: tiles by source channels times a panel of V vectors
// of filled channels.
//
//     m[tile][lane] += sum over s of v[tile][s] * u[s][lane]

template <class C>
struct TileProduct {
  const C *v, *u;
  C* m;
  std::int64_t v_step, m_step;  // from tile to tile
  std::int64_t sources;
  bool is_first;  // m is written instead of added to

  template <int V>
  void run(std::int64_t tiles) const {
    std::int64_t t = 0;
    for (; t + 6 <= tiles; t += 6) run_tiles<6, V>(t);
    switch (tiles - t) {
      case 5:
        return run_tiles<5, V>(t);
      case 4:
        return run_tiles<4, V>(t);
      case 3:
        return run_tiles<3, V>(t);
      case 2:
        return run_tiles<2, V>(t);
      case 1:
        return run_tiles<1, V>(t);
    }
  }

 private:
  template <int R, int V>
  void run_tiles(std::int64_t first) const {
    const C* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = v + (first + r) * v_step;
    Tile<C, R, V> tile;
    tile.start_at_zero();
    accumulate(tile, rows, 1, u, V * kLanes<C>, sources, FullPanel<C>{});
    if (!is_first) add(tile, m + first * m_step);
    put(tile, m + first * m_step);
  }

  template <int R, int V>
  HANDCONV_INLINE void add(Tile<C, R, V>& tile, const C* sums) const {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) tile.sums[r][i] += load(sums + r * m_step + i * kLanes<C>);
    }
  }
  template <int R, int V>
  HANDCONV_INLINE void put(const Tile<C, R, V>& tile, C* sums) const {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) store(sums + r * m_step + i * kLanes<C>, tile.sums[r][i]);
    }
  }
};
