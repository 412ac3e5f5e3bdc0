// Images on their way into Winograd's space and out of it. A tile is the filled elements that come
// from as many source elements as it has points, 4x4 from 6x6 for windows of 3x3; lanes are
// channels.

// Source tiles: v[point][tile][channel].
template <class T, class Tiles>
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
    return 2 * Rows::kPoints * columns_of(grid, tiles) * kLanes<C>;
  }

  // Transforms `lanes` channels from `channel` on; those missing to a vector become zero.
  void transform(const TileRun& run, std::int64_t channel, std::int64_t lanes, C* v,
                 std::int64_t point_step, std::int64_t tile_step) const {
    const std::int64_t columns = columns_of(grid_, run.count);
    if constexpr (Columns::kPoints == 1) {
      transform_columns(run, channel, lanes, columns, {v, point_step, tile_step});
      return;
    }
    transform_columns(run, channel, lanes, columns, {scratch_, columns * kLanes<C>, kLanes<C>});
    const std::int64_t origin = grid_.columns.first(run.column);
    const std::int64_t step = grid_.columns.dilation() * kLanes<C>;
    for (std::int64_t t = 0; t < run.count; ++t) {
      const C* from = scratch_ + (grid_.columns.first(run.column + t) - origin) * kLanes<C>;
#pragma GCC unroll 6
      for (int i = 0; i < Rows::kPoints; ++i) {
        Vector<C> d[Columns::kPoints], row[Columns::kPoints];
#pragma GCC unroll 6
        for (int j = 0; j < Columns::kPoints; ++j)
          d[j] = load(from + i * columns * kLanes<C> + j * step);
        ColumnFilter::transform_input(d, row);
#pragma GCC unroll 6
        for (int j = 0; j < Columns::kPoints; ++j) {
          store(v + (i * Columns::kPoints + j) * point_step + t * tile_step, row[j]);
        }
      }
    }
  }

 private:
  using Rows = typename Tiles::Rows;
  using Columns = typename Tiles::Columns;
  using RowFilter = Filter<C, Rows::kOutputs, Rows::kTaps>;
  using ColumnFilter = Filter<C, Columns::kOutputs, Columns::kTaps>;

  static std::int64_t columns_of(const TileGrid& grid, std::int64_t tiles) {
    return grid.columns.span(tiles) + (Columns::kTaps - 1) * grid.columns.dilation();
  }

  // A row of source pixels as vectors of channels; in the padding a zero that is read again and
  // again.
  template <class E>
  struct Line {
    const E* pixel;
    std::int64_t step;
  };

  // Where vectors of transformed columns go.
  struct Target {
    C* first;
    std::int64_t row, column;  // steps
  };

  // The columns of all tiles of the run, each transformed once though neighbouring tiles share
  // some.
  void transform_columns(const TileRun& run, std::int64_t channel, std::int64_t lanes,
                         std::int64_t columns, const Target& target) const {
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
      Line<T> lines[Rows::kPoints];
      const T zeros[kLanes<C>] = {};
      for (int i = 0; i < Rows::kPoints; ++i) {
        const std::int64_t row = h + i * step;
        lines[i] = has_row(row) ? Line<T>{source + row * gather_.source_strides.row,
                                          gather_.source_strides.column}
                                : Line<T>{zeros, 0};
      }
      transform_lines(lines, begin, end, columns, lanes, target);
    } else {
      Line<C> lines[Rows::kPoints];
      const C zeros[kLanes<C>] = {};
      C* pixels = scratch_ + Rows::kPoints * columns * kLanes<C>;
      for (int i = 0; i < Rows::kPoints; ++i, pixels += columns * kLanes<C>) {
        const std::int64_t row = h + i * step;
        lines[i] = has_row(row) ? Line<C>{pixels, kLanes<C>} : Line<C>{zeros, 0};
        if (!has_row(row)) continue;
        transpose_matrix(source + row * gather_.source_strides.row + begin,
                         gather_.source_strides.channel, lanes, end - begin,
                         pixels + begin * kLanes<C>, kLanes<C>);
      }
      transform_lines(lines, begin, end, columns, lanes, target);
    }
  }

  bool has_row(std::int64_t h) const {
    return static_cast<std::uint64_t>(h) < static_cast<std::uint64_t>(gather_.rows.source_size);
  }

  template <class E>
  HANDCONV_INLINE void transform_lines(const Line<E> (&lines)[Rows::kPoints], std::int64_t begin,
                                       std::int64_t end, std::int64_t columns, std::int64_t lanes,
                                       const Target& target) const {
    const auto mask = mask_between<C>(0, lanes);
    for (std::int64_t c = 0; c < columns; ++c) {
      const bool inside = begin <= c && c < end;
      Vector<C> d[Rows::kPoints], column[Rows::kPoints];
#pragma GCC unroll 6
      for (int i = 0; i < Rows::kPoints; ++i) {
        d[i] = inside ? load_masked(lines[i].pixel + c * lines[i].step, mask) : Vector<C>{};
      }
      RowFilter::transform_input(d, column);
#pragma GCC unroll 6
      for (int i = 0; i < Rows::kPoints; ++i) {
        store(target.first + i * target.row + c * target.column, column[i]);
      }
    }
  }

  const Gather& gather_;
  const TileGrid& grid_;
  std::int64_t first_row_, first_column_;
  C* scratch_;
};

// Filled tiles, from m[point][tile][channel].
template <class T, class Tiles>
class WinogradFilled {
 public:
  using C = Compute<T>;

  WinogradFilled(const Gather& gather, const TileGrid& grid, C* scratch)
      : gather_(gather), grid_(grid), scratch_(scratch) {}

  static std::int64_t scratch_elements(const TileGrid& grid, std::int64_t tiles) {
    return Rows::kOutputs * grid.columns.span(tiles) * kLanes<C>;
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
        Vector<C> y[Rows::kOutputs][Columns::kOutputs];
        transform_tile(m + t * tile_step, point_step, bias, y);
        const std::int64_t column = columns.first(run.column + t), width = columns.outputs(column);
        T* pixels = target + (column - w) * strides.column;
#pragma GCC unroll 4
        for (int i = 0; i < Rows::kOutputs; ++i) {
          if (i >= height) break;
#pragma GCC unroll 4
          for (int j = 0; j < Columns::kOutputs; ++j) {
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
        Vector<C> y[Rows::kOutputs][Columns::kOutputs];
        transform_tile(m + t * tile_step, point_step, bias, y);
        C* pixels = scratch_ + (columns.first(run.column + t) - w) * kLanes<C>;
#pragma GCC unroll 4
        for (int i = 0; i < Rows::kOutputs; ++i) {
#pragma GCC unroll 4
          for (int j = 0; j < Columns::kOutputs; ++j)
            store(pixels + i * row + j * column_step, y[i][j]);
        }
      }
      for (std::int64_t i = 0; i < height; ++i) {
        transpose_matrix(scratch_ + i * row, kLanes<C>, width, lanes, target + i * row_step,
                         strides.channel);
      }
    }
  }

 private:
  using Rows = typename Tiles::Rows;
  using Columns = typename Tiles::Columns;
  using RowFilter = Filter<C, Rows::kOutputs, Rows::kTaps>;
  using ColumnFilter = Filter<C, Columns::kOutputs, Columns::kTaps>;

  // A^T m A, and the bias.
  HANDCONV_INLINE static void transform_tile(const C* m, std::int64_t point_step, Vector<C> bias,
                                             Vector<C> (&y)[Rows::kOutputs][Columns::kOutputs]) {
    Vector<C> rows[Rows::kPoints][Columns::kOutputs];
#pragma GCC unroll 6
    for (int i = 0; i < Rows::kPoints; ++i) {
      Vector<C> points[Columns::kPoints];
#pragma GCC unroll 6
      for (int j = 0; j < Columns::kPoints; ++j) {
        points[j] = load(m + (i * Columns::kPoints + j) * point_step);
      };
      ColumnFilter::transform_output(points, rows[i]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < Columns::kOutputs; ++j) {
      Vector<C> column[Rows::kPoints], filled[Rows::kOutputs];
#pragma GCC unroll 6
      for (int i = 0; i < Rows::kPoints; ++i) column[i] = rows[i][j];
      RowFilter::transform_output(column, filled);
#pragma GCC unroll 4
      for (int i = 0; i < Rows::kOutputs; ++i) y[i][j] = filled[i] + bias;
    }
  }

  const Gather& gather_;
  const TileGrid& grid_;
  C* scratch_;
};
