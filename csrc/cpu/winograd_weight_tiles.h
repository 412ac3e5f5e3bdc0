// Tiles of x and y on their way into Winograd's space for the weight gradient, two rows of points
// at a time: B^T d B from the 6x6 elements of x that a tile of y meets, A y A^T from its 4x4.
//
// A run of tiles is walked column by column: a column is loaded and transformed once, though tiles
// of x share two, and waits in registers for the tiles that it belongs to. With dilation that holds
// within one of the images that the tiles lie in.

// An image of pixels by channels, and the place of the first element of tile (0, 0) in it.
template <class C>
struct TileImage {
  PixelImage<C> pixels;
  std::int64_t height, width;
  std::int64_t first_row, first_column;
};

// What turns elements into points along one axis.
template <class C, int kOutputs>
struct InputTile {
  static constexpr int kElements = kOutputs + 2;

  HANDCONV_INLINE static void transform(const Vector<C> (&d)[kElements],
                                        Vector<C> (&points)[kOutputs + 2]) {
    Filter<C, kOutputs, 3>::transform_input(d, points);
  }
};
template <class C, int kOutputs>
struct OutputTile {
  static constexpr int kElements = kOutputs;

  HANDCONV_INLINE static void transform(const Vector<C> (&y)[kElements],
                                        Vector<C> (&points)[kOutputs + 2]) {
    Filter<C, kOutputs, 3>::transform_output_gradient(y, points);
  }
};

// target[2 rows of points x (m + 2)][tile][channel] for at most a vector of channels of a run,
// zeros in the lanes after them.
template <template <class, int> class TileOf, int kOutputs, int kPairIndex, class C>
inline void transform_run(const TileImage<C>& image, const TileGrid& grid, const TileRun& run,
                          std::int64_t channel, std::int64_t channels, C* target,
                          std::int64_t point_step, std::int64_t tile_step) {
  using Transform = TileOf<C, kOutputs>;
  constexpr int kElements = Transform::kElements, kShared = kElements - kOutputs;
  constexpr int kPoints = kOutputs + 2;
  constexpr int kFirst = Filter<C, kOutputs, 3>::kPair[kPairIndex][0];
  constexpr int kSecond = Filter<C, kOutputs, 3>::kPair[kPairIndex][1];
  const auto mask = mask_between<C>(0, channels);
  const C zeros[kLanes<C>] = {};
  const std::int64_t row_step = grid.rows.dilation(), column_step = grid.columns.dilation();
  const std::int64_t h = grid.rows.first(run.row) + image.first_row;
  const C* lines[kElements];  // at column 0
  std::int64_t steps[kElements];
#pragma GCC unroll 6
  for (int i = 0; i < kElements; ++i) {
    const std::int64_t row = h + i * row_step;
    const bool inside = static_cast<std::uint64_t>(row) < static_cast<std::uint64_t>(image.height);
    lines[i] = inside ? image.pixels.data + run.sample * image.pixels.sample +
                            row * image.pixels.row + channel
                      : zeros;
    steps[i] = inside ? image.pixels.column : 0;
  }
  Vector<C> first[kElements], second[kElements];
  std::int64_t w_of_neighbour = -1;  // where a tile begins whose first columns are at hand
  for (std::int64_t t = 0; t < run.count; ++t, target += tile_step) {
    const std::int64_t w = grid.columns.first(run.column + t);
    const bool shares = w == w_of_neighbour;
    w_of_neighbour = w + kOutputs * column_step;
#pragma GCC unroll 6
    for (int j = 0; j < kElements; ++j) {
      if (j < kShared && shares) {
        first[j] = first[j + kOutputs];
        second[j] = second[j + kOutputs];
        continue;
      }
      const std::int64_t column = w + image.first_column + j * column_step;
      if (static_cast<std::uint64_t>(column) >= static_cast<std::uint64_t>(image.width)) {
        first[j] = second[j] = Vector<C>{};
        continue;
      }
      Vector<C> elements[kElements], points[kPoints];
#pragma GCC unroll 6
      for (int i = 0; i < kElements; ++i) {
        elements[i] = load_masked(lines[i] + column * steps[i], mask);
      }
      Transform::transform(elements, points);
      first[j] = points[kFirst];
      second[j] = points[kSecond];
    }
    Vector<C> points[kPoints];
    Transform::transform(first, points);
#pragma GCC unroll 6
    for (int j = 0; j < kPoints; ++j) store(target + j * point_step, points[j]);
    Transform::transform(second, points);
#pragma GCC unroll 6
    for (int j = 0; j < kPoints; ++j) store(target + (kPoints + j) * point_step, points[j]);
  }
}

// The same for all runs of a strip of tiles, and all of `channels`.
template <template <class, int> class TileOf, int kOutputs, int kPairIndex, class C>
[[gnu::noinline]] void transform_strip(const TileImage<C>& image, const TileGrid& grid,
                                       const Range& tiles, std::int64_t channel,
                                       std::int64_t channels, C* target, std::int64_t point_step,
                                       std::int64_t tile_step) {
  for_tile_runs(grid, tiles.first, tiles.last - tiles.first, [&](const TileRun& run) {
    for (std::int64_t c = 0; c < channels; c += kLanes<C>) {
      transform_run<TileOf, kOutputs, kPairIndex>(image, grid, run, channel + c, channels - c,
                                                  target + run.index * tile_step + c, point_step,
                                                  tile_step);
    }
  });
}
