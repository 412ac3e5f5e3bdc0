// Filling pixels tile by tile: what direct.channels and direct.depthwise share. A tile is R pixels
// of a class by V vectors of channels. For each tap there are R pointers to source pixels; a pixel
// in the padding is a pointer to zeros, so that nothing in the inner loop knows about edges.

// Pixels [first, first + count) of the grid rows.count x columns.count of a class pair.
struct PixelRun {
  const AxisClass* rows;
  const AxisClass* columns;
  std::int64_t first, count;
};

// The runs of all classes of a gather, each of at most kPixelsPerRun pixels: the grain in which
// work is shared out.
constexpr std::int64_t kPixelsPerRun = 168;  // a multiple of every kTileRows

inline std::int64_t runs_of(const AxisClass& rows, const AxisClass& columns) {
  return ceil_divide(rows.count * columns.count, kPixelsPerRun);
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

// A walk over the pixels of a run: divisions cost as much as a row of multiply-adds, and this needs
// one.
class PixelCursor {
 public:
  explicit PixelCursor(const PixelRun& run)
      : run_(run),
        left_(run.count),
        i_(run.first / run.columns->count),
        j_(run.first % run.columns->count) {}

  bool exists() const { return left_ > 0; }
  std::int64_t source_row() const { return i_ * run_.rows->source_step; }
  std::int64_t source_column() const { return j_ * run_.columns->source_step; }
  // In elements from the first pixel of a filled image.
  std::int64_t filled_offset(const ImageStrides& strides) const {
    return (run_.rows->first + i_ * run_.rows->step) * strides.row +
           (run_.columns->first + j_ * run_.columns->step) * strides.column;
  }
  HANDCONV_INLINE void advance() {
    --left_;
    if (++j_ == run_.columns->count) {
      j_ = 0;
      ++i_;
    }
  }

 private:
  const PixelRun& run_;
  std::int64_t left_, i_, j_;
};

// The source pixels of one tile.
template <class E, int R>
class TilePixels {
 public:
  // `image` is the first pixel of the sample; pixels past the end of the run read zeros. Leaves the
  // cursor behind the tile.
  HANDCONV_INLINE TilePixels(PixelCursor& cursor, const PixelImage<E>& strides, const E* image,
                             const ImageStrides& filled, std::int64_t height, std::int64_t width,
                             const E* zeros)
      : image_(image),
        row_stride_(strides.row),
        column_stride_(strides.column),
        height_(height),
        width_(width),
        zeros_(zeros) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const bool exists = cursor.exists();
      h_[r] = exists ? cursor.source_row() : kNowhere;
      w_[r] = cursor.source_column();
      positions_[r] = exists ? h_[r] * row_stride_ + w_[r] * column_stride_ : 0;
      targets_[r] = exists ? cursor.filled_offset(filled) : -1;
      cursor.advance();
    }
  }

  // Where pixel r is stored, in elements from the first pixel of the filled image; negative if the
  // run has ended before it.
  std::int64_t target(int r) const { return targets_[r]; }

  // Whether every tap of every pixel lies inside the source.
  HANDCONV_INLINE bool is_interior(const PixelRun& run) const {
    const Span<Tap>&row_taps = run.rows->taps, &column_taps = run.columns->taps;
    if (row_taps.count == 0 || column_taps.count == 0) return false;
    bool inside = true;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      for (const std::int64_t t : {std::int64_t{0}, row_taps.count - 1}) {
        inside &= static_cast<std::uint64_t>(h_[r] + row_taps[t].offset) <
                  static_cast<std::uint64_t>(height_);
      }
      for (const std::int64_t t : {std::int64_t{0}, column_taps.count - 1}) {
        inside &= static_cast<std::uint64_t>(w_[r] + column_taps[t].offset) <
                  static_cast<std::uint64_t>(width_);
      }
    }
    return inside;
  }

  // For an interior tile.
  HANDCONV_INLINE void find_inside(const Tap& row, const Tap& column, const E* (&pixels)[R]) const {
    const std::int64_t offset = row.offset * row_stride_ + column.offset * column_stride_;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) pixels[r] = image_ + positions_[r] + offset;
  }

  // False if every pixel of the tile sees padding through this row of taps.
  HANDCONV_INLINE bool enter_row(const Tap& tap) {
    bool any = false;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const std::int64_t h = h_[r] + tap.offset;
      inside_[r] = static_cast<std::uint64_t>(h) < static_cast<std::uint64_t>(height_);
      lines_[r] = inside_[r] ? image_ + h * row_stride_ : zeros_;
      any |= inside_[r];
    }
    return any;
  }

  HANDCONV_INLINE bool enter_column(const Tap& tap, const E* (&pixels)[R]) const {
    bool any = false;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const std::int64_t w = w_[r] + tap.offset;
      const bool inside =
          inside_[r] && static_cast<std::uint64_t>(w) < static_cast<std::uint64_t>(width_);
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
  std::int64_t h_[R], w_[R], positions_[R], targets_[R];
  const E* lines_[R];
  bool inside_[R];
};

// Stores a tile into a channels_last image, `lanes` channels from `target` on.
template <class T, class E, int R, int V>
HANDCONV_INLINE void store_pixels(const Tile<Compute<T>, R, V>& tile,
                                  const TilePixels<E, R>& pixels, std::int64_t lanes, T* target) {
  using C = Compute<T>;
  const auto tail = mask_between<C>(0, lanes - (V - 1) * kLanes<C>);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (pixels.target(r) < 0) break;
    T* pixel = target + pixels.target(r);
#pragma GCC unroll 4
    for (int v = 0; v < V - 1; ++v) store(pixel + v * kLanes<C>, tile.sums[r][v]);
    store_masked(pixel + (V - 1) * kLanes<C>, tile.sums[r][V - 1], tail);
  }
}
