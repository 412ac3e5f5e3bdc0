// How depthwise_packed.h cuts its work, and the memory that it takes.

// Pixels of a tile, the widths that there are.
constexpr int kLargestPackedTile = kVectorBytes == 64 ? 7 : 6;
constexpr std::int64_t kPackedTiles[] = {kLargestPackedTile, kLargestPackedTile - 1,
                                         kLargestPackedTile - 2};

// The width of tiles that takes the fewest instructions, of which R P are multiply-adds.
inline std::int64_t packed_tile_width(std::int64_t width) {
  const auto cost = [width](std::int64_t tile) {
    return ceil_divide(width, tile) * (kPackedRows * tile + 6);
  };
  std::int64_t best = kPackedTiles[0];
  for (const std::int64_t tile : kPackedTiles) {
    if (cost(tile) < cost(best)) best = tile;
  }
  return best;
}

// The source positions that an axis reaches: `distance` apart, from filled position + `first` on.
struct PackedReach {
  explicit PackedReach(const AxisClass& axis) : taps(axis.taps.count) {
    const Tap& last = axis.taps[taps - 1];
    descends = last.offset < axis.taps[0].offset;
    first = descends ? last.offset : axis.taps[0].offset;
    span = descends ? axis.taps[0].offset - first : last.offset - first;
    distance = taps > 1 ? span / (taps - 1) : 1;
  }
  std::int64_t taps, first, span, distance;
  bool descends;
};

// Before the scratch of a thread: whose weights it holds.
constexpr std::size_t kPackedHeaderBytes = 64;

// How the work is cut: vectors of channels, samples, strips of rows, segments of columns.
template <class C>
struct PackedPlan {
  static constexpr std::int64_t L = kLanes<C>;

  PackedPlan(Layout layout, const Gather& gather)
      : is_planar(layout == Layout::kNchw),
        rows(gather.rows.classes()[0]),
        columns(gather.columns.classes()[0]),
        height(gather.rows.filled_size),
        width(gather.columns.filled_size),
        area(gather.kernel_area()),
        blocks(ceil_divide(gather.groups, L)) {
    constexpr std::int64_t kSegment = 112, kItems = 16, kStripBytes = 256 << 10;
    segments = ceil_divide(width, kSegment);
    segment = ceil_divide(width, segments);
    tile = packed_tile_width(segment);
    packed_width = round_up(segment, tile) + columns.span;
    const std::int64_t fitting =
        kStripBytes / (packed_width * L * static_cast<std::int64_t>(sizeof(C))) - rows.span;
    strip = larger(smaller(fitting, ceil_divide(height, ceil_divide(kItems, blocks * segments))),
                   kPackedRows * 4 * rows.distance);
    strips = ceil_divide(height, strip);
    strip = ceil_divide(height, strips);
    if (rows.distance == 1) strip = round_up(strip, kPackedRows);
    strips = ceil_divide(height, strip);
    // Where pixels hold all channels, vectors of channels are innermost, unless that would move
    // the weights in and out of the cache.
    constexpr std::int64_t kWeightBytes = 128 << 10;
    pixel_order =
        !is_planar && all_weights() * static_cast<std::int64_t>(sizeof(C)) <= kWeightBytes;
  }
  WorkspaceSize size() const {
    const std::int64_t weights = pixel_order ? 0 : area * L;
    const std::int64_t filled = is_planar ? strip * segment * L : 0;
    return {pixel_order ? bytes_of<C>(all_weights()) : 0,
            kPackedHeaderBytes + bytes_of<C>(kPackedRows * kPackedTiles[0] * L + weights +
                                             packed_pixels() * L + filled)};
  }
  std::int64_t all_weights() const { return blocks * area * L; }
  std::int64_t packed_pixels() const { return (strip + rows.span) * packed_width; }

  bool is_planar;
  PackedReach rows, columns;
  std::int64_t height, width, area, blocks;
  std::int64_t segments, segment, strips, strip;
  std::int64_t tile, packed_width;
  bool pixel_order;  // of the items, and all weights are packed first
};
