// How Winograd's weight gradient is cut into work, by the shape alone. An item is a patch of the
// weight (rows x lanes x 9 taps) over a chunk of the tiles of each sample, all samples in turn. It
// goes through the points pair by pair of rows of a tile, and through the tiles strip by strip: the
// transformed tiles of a strip, the sums of its points and the totals stay in the second-level
// cache together. There is more than one chunk only where patches are too few for threads to share.

template <class C, int kOutputs>
struct WinogradWeightPlan {
  static constexpr int kTile = kOutputs + 2;
  static constexpr int kPoints = 2 * kTile;  // of a pair of rows
  static constexpr std::int64_t kPadding = 64 / static_cast<std::int64_t>(sizeof(C));

  TileGrid grid;
  std::int64_t groups, batch;
  bool lanes_are_inputs;                     // or output channels
  std::int64_t lane_channels, row_channels;  // per group
  LaneBlocks<C> blocks;                      // a patch has the lanes of one
  std::int64_t row_parts, patch_rows;        // row channels of a patch, at most
  std::int64_t chunks;
  std::int64_t samples;  // of a strip: more than one where images are small
  std::int64_t strip;    // tiles, at most
  std::int64_t terms;    // tiles whose products are summed before they are added to M, at most
  std::int64_t pass;     // samples whose images lie in the workspace at a time

  explicit WinogradWeightPlan(const Problem& problem)
      : grid{axis_of(problem.geometry.height), axis_of(problem.geometry.width)},
        groups(problem.geometry.groups),
        batch(problem.geometry.batch),
        // Lanes in the order of w are stored without a transposition.
        lanes_are_inputs(problem.w_strides.in_channel == 1),
        lane_channels(lanes_are_inputs ? problem.geometry.in_channels_per_group()
                                       : problem.geometry.out_channels_per_group()),
        row_channels(lanes_are_inputs ? problem.geometry.out_channels_per_group()
                                      : problem.geometry.in_channels_per_group()),
        blocks{lane_channels} {
    const std::int64_t vectors = ceil_divide(lane_channels, kLanes<C>);
    blocks.full = ceil_divide(vectors, ceil_divide(vectors, kBlockVectors)) * kLanes<C>;
    row_parts = ceil_divide(row_channels, kMostRows);
    while (patches() < kEnoughItems && row_channels >= 2 * row_parts * kFewestRows) row_parts *= 2;
    patch_rows = ceil_divide(row_channels, row_parts);
    row_parts = ceil_divide(row_channels, patch_rows);

    chunks = 1;
    while (patches() * chunks < kEnoughItems && grid.per_sample() >= 2 * chunks * kFewestTiles) {
      chunks *= 2;
    }
    const std::int64_t most =
        kStripBytes / (kPoints * (v_step() + blocks.full) * static_cast<std::int64_t>(sizeof(C)));
    samples = chunks > 1 ? 1 : larger(1, smaller(batch, most / grid.per_sample()));
    const std::int64_t tiles = samples * ceil_divide(grid.per_sample(), chunks);
    strip = ceil_divide(tiles, ceil_divide(tiles, most));

    // Rounding grows with the number of terms, F.conv2d's with that of pixels.
    terms = larger(17, smaller(grid.per_sample() / 6, 112));

    const Geometry& g = problem.geometry;
    pass = smaller(samples_within_budget<C>(batch, g.in_channels * g.input_area()),
                   samples_within_budget<C>(batch, g.out_channels * g.output_area()));
  }

  std::int64_t patches() const { return groups * blocks.count() * row_parts; }
  std::int64_t items() const { return patches() * chunks; }
  WeightPatch patch(std::int64_t index) const {
    const std::int64_t block = index % blocks.count(), part = index / blocks.count() % row_parts;
    const std::int64_t row = part * patch_rows;
    return {index / blocks.count() / row_parts, blocks.first(block), blocks.size(block), row,
            smaller(patch_rows, row_channels - row)};
  }

  // Steps and sizes, in elements. V has the tiles of the rows' image and D those of the lanes'.
  // Points are a cache line further apart than their matrices are large, so that what is written to
  // all of them at once does not fall into one set of the cache.
  std::int64_t v_step() const { return round_up(patch_rows, kLanes<C>); }
  std::int64_t v_point() const { return strip * v_step() + kPadding; }
  std::int64_t d_point() const { return strip * blocks.full + kPadding; }
  std::int64_t m_point() const { return patch_rows * blocks.full + kPadding; }
  std::int64_t total_rows() const { return patch_rows * 9; }
  std::int64_t total_elements() const { return total_rows() * blocks.full; }

 private:
  static TileAxis axis_of(const Axis& axis) { return {axis.output, kOutputs, axis.dilation}; }

  static constexpr std::int64_t kBlockVectors = 256 / kVectorBytes;
  static constexpr std::int64_t kMostRows = 64, kFewestRows = 32,
                                kFewestTiles = 384 / (kOutputs * kOutputs);
  static constexpr std::int64_t kStripBytes = 400 << 10;
  static constexpr std::int64_t kEnoughItems = 4;
};
