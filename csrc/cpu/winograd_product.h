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
  // The operands of the next product, which are fetched into the second-level cache meanwhile: left
  // to itself the processor would fetch the panel when all its lines are needed at once.
  const C *next_v, *next_u;

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
  static constexpr std::int64_t kLine = 64;  // bytes of the cache

  template <int R, int V>
  void run_tiles(std::int64_t first) const {
    const C* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = v + (first + r) * v_step;
    Tile<C, R, V> tile;
    tile.start_at_zero();
    const char* v_ahead = reinterpret_cast<const char*>(next_v + first * v_step);
    const char* u_ahead = reinterpret_cast<const char*>(next_u) + first / 6 * sources * kLine;
    const C* panel = u;
    for (std::int64_t s = 0; s < sources; ++s, panel += V * kLanes<C>) {
      __builtin_prefetch(v_ahead + s * R * static_cast<std::int64_t>(sizeof(C)), 0, 2);
      __builtin_prefetch(u_ahead + s * kLine, 0, 2);
      Vector<C> lanes[V];
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) lanes[i] = load(panel + i * kLanes<C>);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const Vector<C> element = broadcast(rows[r][s]);
#pragma GCC unroll 4
        for (int i = 0; i < V; ++i) tile.sums[r][i] = fma(element, lanes[i], tile.sums[r][i]);
      }
    }
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
