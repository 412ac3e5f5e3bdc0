// Filling pixels tile by tile: what direct.channels and direct.depthwise share. A tile is R pixels of a class by V vectors of
// channels. For each tap there are R pointers to source pixels; a pixel in the padding is a pointer to zeros, so that nothing in the
// inner loop knows about edges.

// Pixels [first, first + count) of the grid rows.count x columns.count of a class pair.
struct PixelRun {
  const AxisClass* rows;
  const AxisClass* columns;
  std::int64_t first, count;
};

// The runs of all classes of a gather, each of at most kPixelsPerRun pixels: the grain in which work is shared out.
constexpr std::int64_t kPixelsPerRun = 168;  // a multiple of every kTileRows

inline std::int64_t runs_of(const AxisClass& rows, const AxisClass& columns) {
  return (rows.count * columns.count + kPixelsPerRun - 1) / kPixelsPerRun;
}

inline std::int64_t count_runs(const Gather& gather) {
  std::int64_t runs = 0;
  for (const AxisClass& rows : gather.rows.classes()) {
    for (const AxisClass& columns : gather.columns.classes()) runs += runs_of(rows, columns);
  }
  return runs;
}

inline PixelRun find_run(const Gather& gather, std::int64_t index) {
  for (const AxisClass& rows : gather.rows.classes()) {
    for (const AxisClass& columns : gather.columns.classes()) {
      const std::int64_t runs = runs_of(rows, columns);
      if (index < runs) {
        const std::int64_t first = index * kPixelsPerRun, rest = rows.count * columns.count - first;
        return {&rows, &columns, first, rest < kPixelsPerRun ? rest : kPixelsPerRun};
      }
      index -= runs;
    }
  }
  return {};
}

// Where pixel `index` of the run's class lies in a filled image, in elements from its first pixel.
inline std::int64_t filled_offset(const PixelRun& run, const ImageStrides& strides, std::int64_t index) {
  const std::int64_t i = index / run.columns->count, j = index % run.columns->count;
  return (run.rows->first + i * run.rows->step) * strides.row +
         (run.columns->first + j * run.columns->step) * strides.column;
}

// The source pixels of one tile.
template <class E, int R>
class TilePixels {
 public:
  // `image` is the first pixel of the sample; pixels past the end of the run read zeros.
  TilePixels(const PixelRun& run, std::int64_t first, const E* image, std::int64_t row_stride,
             std::int64_t column_stride, std::int64_t height, std::int64_t width, const E* zeros)
      : image_(image),
        row_stride_(row_stride),
        column_stride_(column_stride),
        height_(height),
        width_(width),
        zeros_(zeros) {
    std::int64_t i = first / run.columns->count, j = first % run.columns->count;
    for (int r = 0; r < R; ++r) {
      const bool exists = first + r < run.first + run.count;
      h_[r] = exists ? i * run.rows->source_step : kNowhere;
      w_[r] = j * run.columns->source_step;
      positions_[r] = exists ? h_[r] * row_stride + w_[r] * column_stride : 0;
      if (++j == run.columns->count) {
        j = 0;
        ++i;
      }
    }
  }

  // Whether every tap of every pixel lies inside the source.
  bool is_interior(const PixelRun& run) const {
    const Span<Tap>&row_taps = run.rows->taps, &column_taps = run.columns->taps;
    if (row_taps.count == 0 || column_taps.count == 0) return false;
    bool inside = true;
    for (int r = 0; r < R; ++r) {
      for (const std::int64_t t : {std::int64_t{0}, row_taps.count - 1}) {
        inside &= static_cast<std::uint64_t>(h_[r] + row_taps[t].offset) < static_cast<std::uint64_t>(height_);
      }
      for (const std::int64_t t : {std::int64_t{0}, column_taps.count - 1}) {
        inside &= static_cast<std::uint64_t>(w_[r] + column_taps[t].offset) < static_cast<std::uint64_t>(width_);
      }
    }
    return inside;
  }

  // For an interior tile.
  void find_inside(const Tap& row, const Tap& column, const E* (&pixels)[R]) const {
    const std::int64_t offset = row.offset * row_stride_ + column.offset * column_stride_;
    for (int r = 0; r < R; ++r) pixels[r] = image_ + positions_[r] + offset;
  }

  // False if every pixel of the tile sees padding through this row of taps.
  bool enter_row(const Tap& tap) {
    bool any = false;
    for (int r = 0; r < R; ++r) {
      const std::int64_t h = h_[r] + tap.offset;
      inside_[r] = static_cast<std::uint64_t>(h) < static_cast<std::uint64_t>(height_);
      lines_[r] = inside_[r] ? image_ + h * row_stride_ : zeros_;
      any |= inside_[r];
    }
    return any;
  }

  bool enter_column(const Tap& tap, const E* (&pixels)[R]) const {
    bool any = false;
    for (int r = 0; r < R; ++r) {
      const std::int64_t w = w_[r] + tap.offset;
      const bool inside = inside_[r] && static_cast<std::uint64_t>(w) < static_cast<std::uint64_t>(width_);
      pixels[r] = inside ? lines_[r] + w * column_stride_ : zeros_;
      any |= inside;
    }
    return any;
  }

 private:
  static constexpr std::int64_t kNowhere = -(std::int64_t{1} << 62);

  const E* image_;
  std::int64_t row_stride_, column_stride_, height_, width_;
  const E* zeros_;
  std::int64_t h_[R], w_[R], positions_[R];
  const E* lines_[R];
  bool inside_[R];
};

// Stores a tile into a channels_last image, `lanes` channels from `target` on.
template <class T, int R, int V>
inline void store_pixels(const Tile<Compute<T>, R, V>& tile, const PixelRun& run, const ImageStrides& strides,
                         std::int64_t first, std::int64_t lanes, T* target) {
  using C = Compute<T>;
  const auto tail = mask_between<C>(0, lanes - (V - 1) * kLanes<C>);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (first + r >= run.first + run.count) break;
    T* pixel = target + filled_offset(run, strides, first + r);
#pragma GCC unroll 4
    for (int v = 0; v < V - 1; ++v) store(pixel + v * kLanes<C>, tile.sums[r][v]);
    store_masked(pixel + (V - 1) * kLanes<C>, tile.sums[r][V - 1], tail);
  }
}
