// Images on their way into Winograd's space and out of it. A tile is the m x m filled elements that
// come from (m + 2)^2 source elements; lanes are channels.

// How the filled image is cut into tiles, which are numbered sample by sample and row by row.
struct TileGrid {
  std::int64_t rows, columns;

  std::int64_t per_sample() const { return rows * columns; }
};

// Neighbouring tiles of one row of tiles.
struct TileRun {
  std::int64_t sample, row, column;
  std::int64_t count;
  std::int64_t index;  // of the first one in its strip
};

// visit(TileRun) for the rows that tiles [first, first + count) lie in.
template <class Visit>
HANDCONV_INLINE void for_tile_runs(const TileGrid& grid, std::int64_t first, std::int64_t count,
                                   const Visit& visit) {
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t tile = first + done, column = tile % grid.columns;
    const std::int64_t rest = grid.columns - column;
    const TileRun run{tile / grid.per_sample(), tile / grid.columns % grid.rows, column,
                      rest < count - done ? rest : count - done, done};
    visit(run);
    done += run.count;
  }
}

// Source tiles: v[point][tile][channel].
template <class T, int kOutputs>
class WinogradSource {
 public:
  using C = Compute<T>;

  // The source of the filled element (0, 0) through the first tap lies at (first_row,
  // first_column). `scratch` holds scratch_elements(tiles of a run, at most).
  WinogradSource(const Gather& gather, std::int64_t first_row, std::int64_t first_column,
                 C* scratch)
      : gather_(gather), first_row_(first_row), first_column_(first_column), scratch_(scratch) {}

  static std::int64_t scratch_elements(std::int64_t tiles) {
    return 2 * kTile * columns_of(tiles) * kLanes<C>;
  }

  // Transforms `lanes` channels from `channel` on; those missing to a vector become zero.
  void transform(const TileRun& run, std::int64_t channel, std::int64_t lanes, C* v,
                 std::int64_t point_step, std::int64_t tile_step) const {
    const std::int64_t columns = columns_of(run.count);
    transform_columns(run, channel, lanes, columns);
    for (std::int64_t t = 0; t < run.count; ++t) {
      const C* from = scratch_ + t * kOutputs * kLanes<C>;
#pragma GCC unroll 6
      for (int i = 0; i < kTile; ++i) {
        Vector<C> d[kTile], row[kTile];
#pragma GCC unroll 6
        for (int j = 0; j < kTile; ++j) d[j] = load(from + (i * columns + j) * kLanes<C>);
        Filter<C, kOutputs>::transform_input(d, row);
#pragma GCC unroll 6
        for (int j = 0; j < kTile; ++j) {
          store(v + (i * kTile + j) * point_step + t * tile_step, row[j]);
        }
      }
    }
  }

 private:
  static constexpr int kTile = kOutputs + 2;

  static std::int64_t columns_of(std::int64_t tiles) { return tiles * kOutputs + 2; }

  // A row of source pixels as vectors of channels; in the padding a zero that is read again and
  // again.
  template <class E>
  struct Line {
    const E* pixel;
    std::int64_t step;
  };

  // scratch[row of the tile][column][lane]: the columns of all tiles of the run, each transformed
  // once though neighbouring tiles share two.
  void transform_columns(const TileRun& run, std::int64_t channel, std::int64_t lanes,
                         std::int64_t columns) const {
    const std::int64_t h = run.row * kOutputs + first_row_;
    const std::int64_t w = run.column * kOutputs + first_column_;
    const std::int64_t width = gather_.columns.source_size;
    const std::int64_t begin = w < 0 ? (-w < columns ? -w : columns) : 0;
    const std::int64_t end =
        width - w < columns ? (width - w > begin ? width - w : begin) : columns;
    const T* source = static_cast<const T*>(gather_.source) +
                      run.sample * gather_.source_strides.sample +
                      channel * gather_.source_strides.channel + w * gather_.source_strides.column;
    if (gather_.source_strides.channel == 1) {
      Line<T> lines[kTile];
      const T zeros[kLanes<C>] = {};
      for (int i = 0; i < kTile; ++i) {
        lines[i] = has_row(h + i) ? Line<T>{source + (h + i) * gather_.source_strides.row,
                                            gather_.source_strides.column}
                                  : Line<T>{zeros, 0};
      }
      transform_lines(lines, begin, end, columns, lanes);
    } else {
      Line<C> lines[kTile];
      const C zeros[kLanes<C>] = {};
      C* pixels = scratch_ + kTile * columns * kLanes<C>;
      for (int i = 0; i < kTile; ++i, pixels += columns * kLanes<C>) {
        lines[i] = has_row(h + i) ? Line<C>{pixels, kLanes<C>} : Line<C>{zeros, 0};
        if (!has_row(h + i)) continue;
        transpose_matrix(source + (h + i) * gather_.source_strides.row + begin,
                         gather_.source_strides.channel, lanes, end - begin,
                         pixels + begin * kLanes<C>, kLanes<C>);
      }
      transform_lines(lines, begin, end, columns, lanes);
    }
  }

  bool has_row(std::int64_t h) const {
    return static_cast<std::uint64_t>(h) < static_cast<std::uint64_t>(gather_.rows.source_size);
  }

  template <class E>
  HANDCONV_INLINE void transform_lines(const Line<E> (&lines)[kTile], std::int64_t begin,
                                       std::int64_t end, std::int64_t columns,
                                       std::int64_t lanes) const {
    const auto mask = mask_between<C>(0, lanes);
    for (std::int64_t c = 0; c < columns; ++c) {
      const bool inside = begin <= c && c < end;
      Vector<C> d[kTile], column[kTile];
#pragma GCC unroll 6
      for (int i = 0; i < kTile; ++i) {
        d[i] = inside ? load_masked(lines[i].pixel + c * lines[i].step, mask) : Vector<C>{};
      }
      Filter<C, kOutputs>::transform_input(d, column);
#pragma GCC unroll 6
      for (int i = 0; i < kTile; ++i) store(scratch_ + (i * columns + c) * kLanes<C>, column[i]);
    }
  }

  const Gather& gather_;
  std::int64_t first_row_, first_column_;
  C* scratch_;
};

// Filled tiles, from m[point][tile][channel].
template <class T, int kOutputs>
class WinogradFilled {
 public:
  using C = Compute<T>;

  WinogradFilled(const Gather& gather, C* scratch) : gather_(gather), scratch_(scratch) {}

  static std::int64_t scratch_elements(std::int64_t tiles) {
    return kOutputs * kOutputs * tiles * kLanes<C>;
  }

  // Writes `lanes` channels from `channel` on, at most a vector.
  void transform(const TileRun& run, std::int64_t channel, std::int64_t lanes, const C* m,
                 std::int64_t point_step, std::int64_t tile_step) const {
    const ImageStrides& strides = gather_.filled_strides;
    const auto mask = mask_between<C>(0, lanes);
    const std::int64_t h = run.row * kOutputs, w = run.column * kOutputs;
    const std::int64_t height = rest(gather_.rows.filled_size, h, kOutputs);
    const std::int64_t width = rest(gather_.columns.filled_size, w, run.count * kOutputs);
    const Vector<C> bias = gather_.bias
                               ? load_masked(static_cast<const T*>(gather_.bias) + channel, mask)
                               : Vector<C>{};
    T* target = static_cast<T*>(gather_.filled) + run.sample * strides.sample +
                channel * strides.channel + h * strides.row + w * strides.column;
    if (strides.channel == 1) {
      for (std::int64_t t = 0; t < run.count; ++t) {
        Vector<C> y[kOutputs][kOutputs];
        transform_tile(m + t * tile_step, point_step, bias, y);
        const std::int64_t columns = rest(width, t * kOutputs, kOutputs);
        T* pixels = target + t * kOutputs * strides.column;
#pragma GCC unroll 4
        for (int i = 0; i < kOutputs; ++i) {
          if (i >= height) break;
#pragma GCC unroll 4
          for (int j = 0; j < kOutputs; ++j) {
            if (j >= columns) break;
            store_masked(pixels + i * strides.row + j * strides.column, y[i][j], mask);
          }
        }
      }
    } else {
      const std::int64_t row = run.count * kOutputs * kLanes<C>;
      for (std::int64_t t = 0; t < run.count; ++t) {
        Vector<C> y[kOutputs][kOutputs];
        transform_tile(m + t * tile_step, point_step, bias, y);
        C* pixels = scratch_ + t * kOutputs * kLanes<C>;
#pragma GCC unroll 4
        for (int i = 0; i < kOutputs; ++i) {
#pragma GCC unroll 4
          for (int j = 0; j < kOutputs; ++j) store(pixels + i * row + j * kLanes<C>, y[i][j]);
        }
      }
      for (std::int64_t i = 0; i < height; ++i) {
        transpose_matrix(scratch_ + i * row, kLanes<C>, width, lanes, target + i * strides.row,
                         strides.channel);
      }
    }
  }

 private:
  static constexpr int kTile = kOutputs + 2;

  static std::int64_t rest(std::int64_t size, std::int64_t first, std::int64_t most) {
    return size - first < most ? size - first : most;
  }

  // A^T m A, and the bias.
  HANDCONV_INLINE static void transform_tile(const C* m, std::int64_t point_step, Vector<C> bias,
                                             Vector<C> (&y)[kOutputs][kOutputs]) {
    Vector<C> rows[kTile][kOutputs];
#pragma GCC unroll 6
    for (int i = 0; i < kTile; ++i) {
      Vector<C> points[kTile];
#pragma GCC unroll 6
      for (int j = 0; j < kTile; ++j) points[j] = load(m + (i * kTile + j) * point_step);
      Filter<C, kOutputs>::transform_output(points, rows[i]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kOutputs; ++j) {
      Vector<C> column[kTile], filled[kOutputs];
#pragma GCC unroll 6
      for (int i = 0; i < kTile; ++i) column[i] = rows[i][j];
      Filter<C, kOutputs>::transform_output(column, filled);
#pragma GCC unroll 4
      for (int i = 0; i < kOutputs; ++i) y[i][j] = filled[i] + bias;
    }
  }

  const Gather& gather_;
  C* scratch_;
};
