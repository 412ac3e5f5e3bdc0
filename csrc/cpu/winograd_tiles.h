// Images on their way into Winograd's space and out of it. A tile is the m x m filled elements that
// come from (m + 2)^2 source elements; lanes are channels.

// The tiles along one axis. With dilation d every d-th filled element comes from every d-th source
// element: these are d images without dilation, and a tile lies in one of them. The tiles of one
// follow those of the one before.
class TileAxis {
 public:
  TileAxis(const AxisTaps& axis, int outputs)
      : TileAxis(axis.filled_size, outputs, dilation_of(axis.classes()[0])) {}
  TileAxis(std::int64_t size, int outputs, std::int64_t dilation)
      : size_(size), outputs_(outputs), dilation_(dilation) {
    larger_ = size_ % dilation_;
    tiles_of_larger_ = ceil_divide(ceil_divide(size_, dilation_), outputs);
    tiles_of_others_ = ceil_divide(size_ / dilation_, outputs);
  }

  std::int64_t dilation() const { return dilation_; }
  std::int64_t count() const {
    return larger_ * tiles_of_larger_ + (dilation_ - larger_) * tiles_of_others_;
  }
  // The first filled element of a tile, and how many it has, `dilation` apart.
  std::int64_t first(std::int64_t tile) const {
    if (dilation_ == 1) return tile * outputs_;
    const std::int64_t others = tile - larger_ * tiles_of_larger_;
    return others < 0 ? place(0, tile, tiles_of_larger_) : place(larger_, others, tiles_of_others_);
  }
  std::int64_t outputs(std::int64_t first) const {
    return smaller(ceil_divide(size_ - first, dilation_), outputs_);
  }
  // Elements from the first one of a run of tiles to behind its last, those that do not exist
  // included. Dilated tiles lie in each other's gaps, and their runs are whole rows.
  std::int64_t span(std::int64_t tiles) const {
    return dilation_ == 1 ? tiles * outputs_ : tiles_of_larger_ * outputs_ * dilation_;
  }

 private:
  static std::int64_t dilation_of(const AxisClass& axis) {
    const std::int64_t step = axis.taps[1].offset - axis.taps[0].offset;
    return step < 0 ? -step : step;
  }
  std::int64_t place(std::int64_t image, std::int64_t tile, std::int64_t tiles) const {
    return image + tile / tiles + tile % tiles * outputs_ * dilation_;
  }

  std::int64_t size_, outputs_, dilation_;
  std::int64_t larger_;  // so many of the images have an element more than the others
  std::int64_t tiles_of_larger_, tiles_of_others_;
};

// How the filled image is cut into tiles, which are numbered sample by sample and row by row.
struct TileGrid {
  TileAxis rows, columns;

  std::int64_t per_sample() const { return rows.count() * columns.count(); }
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
    const std::int64_t columns = grid.columns.count();
    const std::int64_t tile = first + done, column = tile % columns, rest = columns - column;
    const TileRun run{tile / grid.per_sample(), tile / columns % grid.rows.count(), column,
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
  WinogradSource(const Gather& gather, const TileGrid& grid, std::int64_t first_row,
                 std::int64_t first_column, C* scratch)
      : gather_(gather),
        grid_(grid),
        first_row_(first_row),
        first_column_(first_column),
        scratch_(scratch) {}

  static std::int64_t scratch_elements(const TileGrid& grid, std::int64_t tiles) {
    return 2 * kTile * columns_of(grid, tiles) * kLanes<C>;
  }

  // Transforms `lanes` channels from `channel` on; those missing to a vector become zero.
  void transform(const TileRun& run, std::int64_t channel, std::int64_t lanes, C* v,
                 std::int64_t point_step, std::int64_t tile_step) const {
    const std::int64_t columns = columns_of(grid_, run.count);
    transform_columns(run, channel, lanes, columns);
    const std::int64_t origin = grid_.columns.first(run.column);
    const std::int64_t step = grid_.columns.dilation() * kLanes<C>;
    for (std::int64_t t = 0; t < run.count; ++t) {
      const C* from = scratch_ + (grid_.columns.first(run.column + t) - origin) * kLanes<C>;
#pragma GCC unroll 6
      for (int i = 0; i < kTile; ++i) {
        Vector<C> d[kTile], row[kTile];
#pragma GCC unroll 6
        for (int j = 0; j < kTile; ++j) d[j] = load(from + i * columns * kLanes<C> + j * step);
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

  static std::int64_t columns_of(const TileGrid& grid, std::int64_t tiles) {
    return grid.columns.span(tiles) + 2 * grid.columns.dilation();
  }

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
    const std::int64_t h = grid_.rows.first(run.row) + first_row_;
    const std::int64_t w = grid_.columns.first(run.column) + first_column_;
    const std::int64_t step = grid_.rows.dilation();
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
        const std::int64_t row = h + i * step;
        lines[i] = has_row(row) ? Line<T>{source + row * gather_.source_strides.row,
                                          gather_.source_strides.column}
                                : Line<T>{zeros, 0};
      }
      transform_lines(lines, begin, end, columns, lanes);
    } else {
      Line<C> lines[kTile];
      const C zeros[kLanes<C>] = {};
      C* pixels = scratch_ + kTile * columns * kLanes<C>;
      for (int i = 0; i < kTile; ++i, pixels += columns * kLanes<C>) {
        const std::int64_t row = h + i * step;
        lines[i] = has_row(row) ? Line<C>{pixels, kLanes<C>} : Line<C>{zeros, 0};
        if (!has_row(row)) continue;
        transpose_matrix(source + row * gather_.source_strides.row + begin,
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
  const TileGrid& grid_;
  std::int64_t first_row_, first_column_;
  C* scratch_;
};

// Filled tiles, from m[point][tile][channel].
template <class T, int kOutputs>
class WinogradFilled {
 public:
  using C = Compute<T>;

  WinogradFilled(const Gather& gather, const TileGrid& grid, C* scratch)
      : gather_(gather), grid_(grid), scratch_(scratch) {}

  static std::int64_t scratch_elements(const TileGrid& grid, std::int64_t tiles) {
    return kOutputs * grid.columns.span(tiles) * kLanes<C>;
  }

  // Writes `lanes` channels from `channel` on, at most a vector.
  void transform(const TileRun& run, std::int64_t channel, std::int64_t lanes, const C* m,
                 std::int64_t point_step, std::int64_t tile_step) const {
    const ImageStrides& strides = gather_.filled_strides;
    const auto mask = mask_between<C>(0, lanes);
    const TileAxis &rows = grid_.rows, &columns = grid_.columns;
    const std::int64_t h = rows.first(run.row), w = columns.first(run.column);
    const std::int64_t height = rows.outputs(h);
    const Vector<C> bias = gather_.bias
                               ? load_masked(static_cast<const T*>(gather_.bias) + channel, mask)
                               : Vector<C>{};
    T* target = static_cast<T*>(gather_.filled) + run.sample * strides.sample +
                channel * strides.channel + h * strides.row + w * strides.column;
    const std::int64_t row_step = rows.dilation() * strides.row;
    if (strides.channel == 1) {
      const std::int64_t column_step = columns.dilation() * strides.column;
      for (std::int64_t t = 0; t < run.count; ++t) {
        Vector<C> y[kOutputs][kOutputs];
        transform_tile(m + t * tile_step, point_step, bias, y);
        const std::int64_t column = columns.first(run.column + t), width = columns.outputs(column);
        T* pixels = target + (column - w) * strides.column;
#pragma GCC unroll 4
        for (int i = 0; i < kOutputs; ++i) {
          if (i >= height) break;
#pragma GCC unroll 4
          for (int j = 0; j < kOutputs; ++j) {
            if (j >= width) break;
            store_masked(pixels + i * row_step + j * column_step, y[i][j], mask);
          }
        }
      }
    } else {
      const std::int64_t row = columns.span(run.count) * kLanes<C>;
      const std::int64_t column_step = columns.dilation() * kLanes<C>;
      const std::int64_t width = smaller(gather_.columns.filled_size - w, columns.span(run.count));
      for (std::int64_t t = 0; t < run.count; ++t) {
        Vector<C> y[kOutputs][kOutputs];
        transform_tile(m + t * tile_step, point_step, bias, y);
        C* pixels = scratch_ + (columns.first(run.column + t) - w) * kLanes<C>;
#pragma GCC unroll 4
        for (int i = 0; i < kOutputs; ++i) {
#pragma GCC unroll 4
          for (int j = 0; j < kOutputs; ++j) store(pixels + i * row + j * column_step, y[i][j]);
        }
      }
      for (std::int64_t i = 0; i < height; ++i) {
        transpose_matrix(scratch_ + i * row, kLanes<C>, width, lanes, target + i * row_step,
                         strides.channel);
      }
    }
  }

 private:
  static constexpr int kTile = kOutputs + 2;

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
  const TileGrid& grid_;
  C* scratch_;
};
