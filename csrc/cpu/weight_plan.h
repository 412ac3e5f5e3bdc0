// How the dense weight gradient is cut into work, by the shape alone: which image gives lanes and
// which rows, which outputs an item fills, and over which pixels of y it sums at a time.
//
// An item is a patch of outputs (lanes x rows x taps, totals that stay in L2) over a chunk of the
// rows of y, in all samples in turn. Within its chunk it packs a strip of pixels (L2) and
// multiplies it block by block of pixels (a panel of lanes in L1). There is more than one chunk
// only where patches are too few for threads to share; then every chunk has totals of its own,
// which are added in order at the end.

// The input positions that are packed for some outputs: first, first + step, ...
struct AxisWindow {
  std::int64_t first, step, count;
};
inline AxisWindow window_of(const Axis& axis, const Range& outputs, bool with_padding) {
  if (axis.kernel == 1 && !with_padding) {
    const Range inside = intersection(outputs_inside(axis, 0), outputs);
    return {axis.input_position(inside.first, 0), axis.stride, inside.last - inside.first};
  }
  std::int64_t first = axis.input_position(outputs.first, 0);
  std::int64_t last = axis.input_position(outputs.last - 1, axis.kernel - 1) + 1;
  if (!with_padding) {
    first = larger(first, 0);
    last = smaller(last, axis.input);
  }
  return {first, 1, larger(last - first, 0)};
}
// The most positions that any `outputs` outputs look at.
inline std::int64_t largest_window(const Axis& axis, std::int64_t outputs, bool with_padding) {
  if (axis.kernel == 1 && !with_padding) return outputs;
  const std::int64_t reach = (outputs - 1) * axis.stride + axis.receptive_field();
  return with_padding ? reach : smaller(reach, axis.input);
}

template <class C>
struct WeightPlan {
  explicit WeightPlan(const Problem& problem) : g(problem.geometry) {
    // A weight tensor that is filled is contiguous or channels_last.
    channels_innermost = problem.w_strides.in_channel == 1;
    choose_sides();
    // The offsets of a pixel pair have 32 bits.
    const std::int64_t largest =
        larger(g.in_channels * g.input_area(), g.out_channels * g.output_area());
    rows_in_place = taps() == 1 && problem.layout == Layout::kNhwc &&
                    largest <= std::int64_t{INT32_MAX} &&
                    (problem.dtype == DType::kFloat32 || problem.dtype == DType::kFloat64);
    // Pixels that lie far apart would meet in the same sets of the first-level cache.
    constexpr std::int64_t kFarBytes = 2048;
    lanes_in_place = rows_in_place && lane_channels % kLanes<C> == 0 &&
                     g.groups * lane_channels * static_cast<std::int64_t>(sizeof(C)) <= kFarBytes;
    choose_patches();
    choose_chunks();
    choose_strips();
  }

  std::int64_t patches() const { return g.groups * lane_parts * row_parts; }
  std::int64_t items() const { return patches() * chunks; }
  std::int64_t taps() const { return g.kernel_area(); }
  // Taps that are not rows of the tile.
  std::int64_t column_taps() const { return merges_columns ? 1 : g.width.kernel; }

  WeightPatch patch(std::int64_t index) const {
    const std::int64_t lane = blocks.first(index % lane_parts * patch_blocks);
    const std::int64_t row = index / lane_parts % row_parts * patch_rows;
    return {index / lane_parts / row_parts, lane,
            smaller(patch_blocks * blocks.full, lane_channels - lane), row,
            smaller(patch_rows, row_channels - row)};
  }
  // Lane blocks of a patch, and their sizes.
  std::int64_t block_count(const WeightPatch& patch) const {
    return ceil_divide(patch.lanes, blocks.full);
  }
  std::int64_t block_lanes(const WeightPatch& patch, std::int64_t block) const {
    return smaller(blocks.full, patch.lanes - block * blocks.full);
  }
  int block_vectors(const WeightPatch& patch, std::int64_t block) const {
    return static_cast<int>(ceil_divide(block_lanes(patch, block), kLanes<C>));
  }

  // Rows of the totals of a patch, for each of its lane blocks.
  std::int64_t total_rows() const { return patch_rows * taps(); }
  std::int64_t total_elements() const { return patch_blocks * total_rows() * blocks.full; }

  const Geometry& g;
  bool channels_innermost;  // of w
  bool lanes_are_inputs;    // lanes are input channels and rows output channels, or the reverse
  // Few input channels: a row of the tile is a pair of a tap along the width and an input channel,
  // neighbours in a line of x that is packed with its padding, channels innermost.
  bool merges_columns;
  // A kernel of one tap reads each pixel so seldom that it is read where it lies, if its channels
  // are adjacent and need no conversion.
  bool rows_in_place, lanes_in_place;
  std::int64_t lane_channels, row_channels;  // per group
  LaneBlocks<C> blocks{0};
  std::int64_t lane_parts, patch_blocks;  // lane blocks of a patch, at most
  std::int64_t row_parts, patch_rows;     // row channels of a patch, at most
  std::int64_t chunks;
  std::int64_t strip_rows, strip_columns;  // of y, at most
  std::int64_t samples;                    // of a strip: more than one where images are small
  std::int64_t y_pixels, x_pixels;         // of a strip and one sample, at most

 private:
  void choose_sides() {
    const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
    merges_columns =
        in <= 4 && g.width.kernel > 1 && g.width.dilation == 1 && in * g.width.kernel <= 256;
    // Lanes in the order of w are stored without a transposition.
    lanes_are_inputs = !merges_columns && channels_innermost && (in >= 48 || in >= out);
    lane_channels = lanes_are_inputs ? in : out;
    row_channels = lanes_are_inputs ? out : in;
  }

  void choose_patches() {
    const std::int64_t most_blocks = ceil_divide(lane_channels, LaneBlocks<C>::kLargest);
    const std::int64_t vectors = ceil_divide(lane_channels, most_blocks * kLanes<C>);
    blocks = LaneBlocks<C>{lane_channels, vectors * kLanes<C>};
    // Each lane block of a patch shares the packing of its rows, and each row that of its lanes.
    // That is most of what a kernel of one tap does besides multiplying.
    const bool one_tap = taps() == 1;
    const std::int64_t wanted_blocks = larger(1, (one_tap ? 256 : 64) / blocks.full);
    lane_parts = ceil_divide(blocks.count(), wanted_blocks);
    patch_blocks = ceil_divide(blocks.count(), lane_parts);
    lane_parts = ceil_divide(blocks.count(), patch_blocks);
    if (merges_columns) {
      row_parts = 1;
      patch_rows = row_channels;
      return;
    }
    constexpr std::int64_t kTotalBytes = (kSmallL2 ? 512 : 256) << 10;
    constexpr std::int64_t kMostRows = kSmallL2 ? 128 : 64;
    const std::int64_t most_rows =
        larger(kRowTile, kTotalBytes / static_cast<std::int64_t>(sizeof(C)) /
                             (patch_blocks * blocks.full * taps()));
    row_parts = ceil_divide(row_channels, smaller(most_rows, one_tap ? 256 : kMostRows));
    const std::int64_t fewest_rows = one_tap ? 128 : 32;
    while (patches() < kEnoughItems && row_channels >= 2 * row_parts * fewest_rows) row_parts *= 2;
    // An even number of items shares out evenly.
    if (patches() % 2 == 1 && patches() > 1 && row_channels >= (row_parts + 1) * 16) ++row_parts;
    patch_rows = ceil_divide(row_channels, row_parts);
    row_parts = ceil_divide(row_channels, patch_rows);
  }

  void choose_chunks() {
    constexpr std::int64_t kPixels = 768;
    const std::int64_t most = larger(1, smaller(g.height.output, g.output_area() / kPixels));
    if (!merges_columns) {
      constexpr std::int64_t kFewestRows = 12;
      while (patches() * most < kEnoughItems && row_channels >= 2 * row_parts * kFewestRows) {
        row_parts *= 2;
      }
      patch_rows = ceil_divide(row_channels, row_parts);
      row_parts = ceil_divide(row_channels, patch_rows);
    }
    chunks = smaller(ceil_divide(kEnoughItems, patches()), most);
  }

  void choose_strips() {
    constexpr std::int64_t kBytes = (kSmallL2 ? 256 : 400) << 10, kMostColumns = 1024;
    const std::int64_t pixel_bytes = (patch_blocks * blocks.full + patch_rows) * sizeof(C);
    const std::int64_t pixels = larger(block_pixels(), kBytes / pixel_bytes);
    const std::int64_t chunk_rows = ceil_divide(g.height.output, chunks);
    strip_columns = ceil_divide(g.width.output, ceil_divide(g.width.output, kMostColumns));
    // Rows above and below a strip are packed again for its neighbours.
    const std::int64_t halo = g.height.receptive_field() - 1;
    strip_rows = larger(pixels / strip_columns,
                        smaller(2 * halo / g.height.stride, 4 * kMostColumns / strip_columns));
    strip_rows = larger(1, smaller(strip_rows, chunk_rows));
    strip_rows = ceil_divide(chunk_rows, ceil_divide(chunk_rows, strip_rows));
    y_pixels = strip_rows * strip_columns;
    x_pixels = largest_window(g.height, strip_rows, false) *
               largest_window(g.width, strip_columns, merges_columns);
    const bool whole = strip_rows >= g.height.output && strip_columns >= g.width.output;
    samples = whole ? larger(1, smaller(g.batch, block_pixels() / y_pixels)) : 1;
  }

 public:
  // Terms of a partial sum, and pixels of a panel in L1. Narrow vectors leave room for more: small
  // images are then a single sum. Where F.conv2d multiplies matrices its error is less than half
  // that of such long sums.
  std::int64_t block_pixels() const { return kVectorBytes < 64 && taps() > 1 ? 336 : 112; }

 private:
  static constexpr std::int64_t kEnoughItems = 4;
  // Where strips fill most of L2, totals wait in L3, and the more of them there are the fewer
  // pixels are packed again.
  static constexpr bool kSmallL2 = kVectorBytes < 64;
};
