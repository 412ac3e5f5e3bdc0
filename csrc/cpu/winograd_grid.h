// How an image is cut into tiles, and what Winograd's algorithm makes of a tile along each axis.

// Windows of kKernel taps along one axis by F(kOutputs, kTaps). Where they have more than kTaps,
// they are cut into segments of so many, which are summed like channels; the last one may end in
// zeros.
template <int kOutputsOfTile, int kTapsOfSegment, int kKernelTaps = kTapsOfSegment>
struct Tiling {
  static constexpr int kOutputs = kOutputsOfTile, kTaps = kTapsOfSegment, kKernel = kKernelTaps;
  static constexpr int kPoints = kOutputs + kTaps - 1;
  static constexpr int kSegments = (kKernel + kTaps - 1) / kTaps;
};
using NoTiling = Tiling<1, 1>;

// Both axes of an image.
template <class RowTiling, class ColumnTiling>
struct Tilings {
  using Rows = RowTiling;
  using Columns = ColumnTiling;
  static constexpr int kPoints = Rows::kPoints * Columns::kPoints;
  static constexpr int kTaps = Rows::kKernel * Columns::kKernel;
  static constexpr int kSegments = Rows::kSegments * Columns::kSegments;
  // The first tap of a segment along each axis.
  static constexpr int first_row(int segment) { return segment / Columns::kSegments * Rows::kTaps; }
  static constexpr int first_column(int segment) {
    return segment % Columns::kSegments * Columns::kTaps;
  }
  // Source channels that are summed at a time, before the sums are added. One transform rounds so
  // little that its sums may be longer.
  static constexpr int kMostChunk = Rows::kPoints == 1 || Columns::kPoints == 1 ? 64 : 32;
};

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
    if (axis.taps.count < 2) return 1;
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
