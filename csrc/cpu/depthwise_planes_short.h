// Tiles of short sums of one source plane: the same of several planes, and those below them, by one
// call. What they have in common takes as long to find as a small tile itself.

template <class T, int R, int V>
HANDCONV_INLINE void start_with_bias(Tile<Compute<T>, R, V>& tile, const Gather& gather,
                                     const DepthwisePlane<T>& plane) {
  using C = Compute<T>;
  const auto* bias = static_cast<const T*>(gather.bias);
  const std::int64_t channel = plane.group * gather.filled_channels + plane.channel_of_group;
  const Vector<C> start = broadcast<C>(bias ? to_compute(bias[channel]) : C(0));
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) tile.sums[r][v] = start;
  }
}

template <class T, class Columns>
struct ShortPlaneTiles {
  using C = Compute<T>;
  using Plane = DepthwisePlane<T>;
  static constexpr int R = Columns::kRows, V = Columns::kVectors;

  const Gather& gather;
  const Columns& columns;
  const RowPattern& pattern;
  const Plane& plane;  // the first
  std::int64_t planes;
  bool are_far;  // planes come from memory

  // Fills the tile from row `row` on, and those that follow it as long as they have all rows and
  // lines, `most` at most. Returns how many.
  HANDCONV_INLINE std::int64_t fill(const RowSet& rows, std::int64_t row, std::int64_t most) const {
    const std::int64_t rest = rows.count - row, pitch = gather.source_strides.row;
    const int existing = static_cast<int>(rest < R ? rest : R);
    const std::int64_t first_row = rows.source_first + row * pattern.stride * pattern.spacing;
    const std::int64_t lines = (existing - 1) * Columns::kRowStride + pattern.taps;
    const std::int64_t tile_rows = R * pattern.stride * pattern.spacing;
    std::int64_t tiles = 1;
    if (kVectorBytes < 64 && first_row >= 0) {
      const std::int64_t last_row = first_row + (lines - 1) * pattern.spacing;
      const std::int64_t whole =
          smaller(rest / R, (gather.rows.source_size - 1 - last_row + tile_rows) / tile_rows);
      tiles = larger(1, smaller(most, whole));
    }
    const First first{
        {plane.source + first_row * pitch, pattern.spacing * pitch,
         rows_inside(first_row, pattern.spacing, gather.rows.source_size, lines),
         plane.weights + pattern.first_kernel() * gather.w_row, pattern.kernel_step * gather.w_row,
         gather.w_column},
        plane.filled + (rows.filled_first + row * rows.filled_step) * gather.filled_strides.row,
        rows.filled_step * gather.filled_strides.row,
        existing,
        tiles,
        tile_rows * pitch,
        ahead()};
    fill_by_taps(first);
    return tiles;
  }

 private:
  // From the first column of a tile's lines to the columns of the tile that memory is asked for
  // meanwhile, in elements: of the same rows, and of the next columns, or, where planes come from
  // memory or there are no more columns, some planes on.
  struct Ahead {
    std::int64_t source, filled;
  };

  Ahead ahead() const {
    const std::int64_t column = are_far ? columns.first() : columns.next();
    const std::int64_t planes_on = are_far || column == 0 ? planes : 0;
    return {column * Columns::kSourceStep + planes_on * gather.source_strides.channel,
            column * Columns::kFilledStep + planes_on * gather.filled_area()};
  }

  // The first tile of the first plane.
  struct First {
    PlaneLines<T> lines;
    T* filled;
    std::int64_t filled_step;
    int existing;
    std::int64_t tiles, source_step;  // from one to the next
    Ahead ahead;
  };

  HANDCONV_INLINE void fill_by_taps(const First& first) const {
    if (pattern.taps == 3) return fill_tiles<3>(first);
    if constexpr (Columns::kTaps >= 5) {
      if (pattern.taps == 5) return fill_tiles<5>(first);
    }
    if constexpr (Columns::kTaps >= 7) {
      if (pattern.taps == 7) return fill_tiles<7>(first);
    }
    if (pattern.taps == 2) return fill_tiles<2>(first);
    fill_tiles<1>(first);
  }

  template <int K>
  [[gnu::noinline]] void fill_tiles(const First& first) const {
    Plane next = plane;
    for (std::int64_t i = 0; i < planes; ++i, next.to_next(gather)) {
      PlaneLines<T> lines = first.lines;
      lines.first += next.source - plane.source;
      lines.weights += next.weights - plane.weights;
      T* filled = first.filled + (next.filled - plane.filled);
      for (std::int64_t t = 0; t < (kVectorBytes == 64 ? 1 : first.tiles); ++t) {
        if constexpr (kVectorBytes < 64) prefetch<K>(first, lines, filled);
        Tile<C, R, V> tile;
        start_with_bias<T>(tile, gather, next);
        columns.template add<K>(tile, lines);
        columns.store(tile, filled, first.filled_step, first.existing);
        lines.first += first.source_step;
        filled += R * first.filled_step;
      }
    }
  }

  // A tile touches a line of memory or two of each of its rows, too few for the processor to
  // foresee the next. Planes ahead are worth up to twice the speed where planes come from memory,
  // and lose a twentieth where they lie in caches, as columns ahead do not. Tried: from the tile's
  // first row on instead of the first that only it reads, half the gain; planes ahead in the order
  // in which they lie, no better and worse at stride 2.
  template <int K>
  HANDCONV_INLINE static void prefetch(const First& first, const PlaneLines<T>& lines,
                                       const T* filled) {
    const T* line = lines.first + (K - 1) * lines.pitch + first.ahead.source;
#pragma GCC unroll 16
    for (int q = 0; q < R * Columns::kRowStride; ++q, line += lines.pitch) __builtin_prefetch(line);
    filled += first.ahead.filled;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r, filled += first.filled_step) __builtin_prefetch(filled, 1);
  }
};
