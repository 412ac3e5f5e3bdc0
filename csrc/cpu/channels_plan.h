// How direct.channels cuts a gather into work, by the shape alone.
//
//     item    some rows of one class of rows, in all columns, by some panels of filled channels
//     chunk   source channels that are packed, and summed over, at a time
//
// The strip of a chunk (source rows with their padding), the totals of an item and a panel's
// weights of a block of terms stay in the second-level cache.

// Taps in the order of their offsets: those of the transpose are listed backwards.
inline const Tap& tap_in_order(const Span<Tap>& taps, std::int64_t i) {
  const bool ascending = taps[0].offset <= taps[taps.count - 1].offset;
  return taps[ascending ? i : taps.count - 1 - i];
}

// Positions of a class that see the source through a tap.
inline Range positions_inside(const AxisTaps& axis, const AxisClass& part, std::int64_t offset) {
  const std::int64_t step = part.source_step, begin = larger(0, ceil_divide(-offset, step));
  const std::int64_t end =
      smaller(part.count, floor_divide(axis.source_size - 1 - offset, step) + 1);
  return {begin, larger(begin, end)};
}

// Long rows are cut into parts, each a gather of its own: one would be too much for the caches, and
// the only row of a one-dimensional image is all there is to share out. Every part has positions
// of every class, so that all see the packed weight alike: a shorter rest joins the last one.
class ColumnParts {
 public:
  explicit ColumnParts(const Gather& gather) : columns_(gather.columns.filled_size) {
    constexpr std::int64_t kLong = 512;
    const std::int64_t step = gather.columns.classes()[0].step;
    size_ = round_up(ceil_divide(columns_, ceil_divide(columns_, kLong)), step);
    const std::int64_t whole = columns_ / size_, rest = columns_ % size_;
    count_ = larger(1, rest < step ? whole : whole + 1);
  }
  std::int64_t count() const { return count_; }
  Range columns(std::int64_t i) const {
    return {i * size_, i == count_ - 1 ? columns_ : (i + 1) * size_};
  }

 private:
  std::int64_t columns_, size_, count_;
};

template <class C>
struct ChannelsPlan {
  // `deep`: as is_deep says of the whole image, of which the gather may be a part.
  ChannelsPlan(const Gather& gather, bool deep)
      : sources(gather.source_channels),
        panels(ceil_divide(gather.filled_channels, kPanelLanes<C>)),
        filled_columns(gather.columns.filled_size) {
    constexpr std::int64_t kMostSources = 512 / sizeof(C);
    chunks = ceil_divide(sources, kMostSources);
    chunk = ceil_divide(sources, chunks);
    chunks = ceil_divide(sources, chunk);
    choose_columns(gather);
    whole_rows = sees_whole_rows(gather);
    if (deep) {
      cut_deep(gather);
    } else {
      cut_wide(gather);
    }
  }

  // Few pixels read a large weight: then an item is all of them, and packs what it reads of the
  // weight by itself.
  static bool is_deep(const Gather& gather) {
    const std::int64_t pixels = smaller(gather.source_area(), gather.filled_area());
    const std::int64_t bytes =
        gather.filled_channels * gather.cost_per_element() * static_cast<std::int64_t>(sizeof(C));
    const std::int64_t fewest = pixels <= 256 ? 64 << 10 : 512 << 10;
    return pixels <= 1200 && bytes >= fewest && ColumnParts(gather).count() == 1;
  }

  // The panels of a part.
  Range part(std::int64_t index) const { return part_of({0, panels}, lane_parts, index); }
  std::int64_t chunk_size(std::int64_t index) const {
    return smaller(chunk, sources - index * chunk);
  }
  // Elements of the strip of a chunk, and of the totals of an item.
  std::int64_t strip() const { return slots * width * chunk; }
  std::int64_t totals() const { return item_panels * totals_of_panel(); }
  std::int64_t totals_of_panel() const { return rows * filled_columns * kPanelLanes<C>; }

  // Rows of the source that `rows` neighbouring rows of a class meet lie side by side in the strip,
  // those in between included, unless these outnumber them.
  static bool lists_all_rows(const AxisClass& axis, std::int64_t rows) {
    return span(axis, rows) <= axis.taps.count * rows;
  }

  std::int64_t sources, chunks, chunk;
  std::int64_t panels, lane_parts, item_panels;
  std::int64_t filled_columns;
  std::int64_t rows = 0, row_parts;  // of a class, at most
  std::int64_t slots = 0;            // source rows of a strip, at most
  bool whole_rows;  // all columns of a class see the source through each run of taps
  // Columns of the strip: zeros, then [0, columns) of the source, then zeros.
  std::int64_t left, columns, width;

 private:
  // Items of some rows and some panels, an even number of them, which shares out evenly.
  void cut_wide(const Gather& gather) {
    choose_rows(gather);
    constexpr std::int64_t kMostPanels = 8, kItems = 4;
    lane_parts = ceil_divide(panels, kMostPanels);
    const std::int64_t classes = gather.groups * gather.rows.classes().count;
    if (classes * row_parts * lane_parts % 2 == 1 && panels % 2 == 1) split_rows(gather, 2);
    while (classes * row_parts * lane_parts < kItems && 2 * lane_parts <= panels) lane_parts *= 2;
    item_panels = ceil_divide(panels, lane_parts);
  }

  // Chunks of the whole source, and an even number of items.
  void cut_deep(const Gather& gather) {
    constexpr std::int64_t kStripBytes = 448 << 10, kItems = 16, kGrain = 16;
    const std::int64_t pixels = gather.rows.source_size * width;
    const std::int64_t fit = kStripBytes / static_cast<std::int64_t>(sizeof(C)) / larger(1, pixels);
    const std::int64_t most = larger(kGrain, smaller(fit, chunk));
    chunk = smaller(sources, round_up(ceil_divide(sources, ceil_divide(sources, most)), kGrain));
    chunks = ceil_divide(sources, chunk);
    lane_parts = ceil_divide(panels, ceil_divide(panels, kItems));
    item_panels = ceil_divide(panels, lane_parts);
    const std::int64_t items = lane_parts * gather.groups;
    row_parts = items < 8 || items % 2 == 1 ? 2 : 1;
  }

  static std::int64_t span(const AxisClass& axis, std::int64_t rows) {
    if (axis.taps.count == 0) return 0;
    return (rows - 1) * axis.source_step + 1 + tap_in_order(axis.taps, axis.taps.count - 1).offset -
           tap_in_order(axis.taps, 0).offset;
  }
  static std::int64_t slots_for(const Gather& gather, std::int64_t rows) {
    std::int64_t most = 0;
    for (const AxisClass& axis : gather.rows.classes())
      most = larger(most, smaller(span(axis, rows), axis.taps.count * rows));
    return most;
  }

  static bool sees_whole_rows(const Gather& gather) {
    for (const AxisClass& axis : gather.rows.classes()) {
      if (axis.taps.count == 0) return false;
    }
    for (const AxisClass& axis : gather.columns.classes()) {
      if (axis.taps.count == 0) return false;
      if (taps_adjoin(axis)) continue;
      const Range seen = positions_inside(gather.columns, axis, axis.taps[0].offset);
      if (axis.taps.count > 1 || seen.first > 0 || seen.last < axis.count) return false;
    }
    return true;
  }

  void choose_columns(const Gather& gather) {
    std::int64_t first = 0, last = 0;  // positions that are read
    for (const AxisClass& axis : gather.columns.classes()) {
      if (axis.taps.count == 0) continue;
      const std::int64_t begin = tap_in_order(axis.taps, 0).offset;
      const std::int64_t end = (axis.count - 1) * axis.source_step + 1 +
                               tap_in_order(axis.taps, axis.taps.count - 1).offset;
      // Where taps do not adjoin, each is asked for the columns that it sees alone.
      const bool pads = taps_adjoin(axis);
      first = smaller(first, pads ? begin : 0);
      last = larger(last, pads ? end : smaller(end, gather.columns.source_size));
    }
    left = -first;
    columns = smaller(last, gather.columns.source_size);
    width = left + last;
  }

  void choose_rows(const Gather& gather) {
    constexpr std::int64_t kPixels = 256, kStripBytes = 384 << 10;
    std::int64_t most = 0;
    for (const AxisClass& axis : gather.rows.classes()) most = larger(most, axis.count);
    rows = larger(1, smaller(most, kPixels / filled_columns));
    while (rows > 1 &&
           slots_for(gather, rows) * width * chunk * static_cast<std::int64_t>(sizeof(C)) >
               kStripBytes) {
      --rows;
    }
    const std::int64_t parts = ceil_divide(most, rows);
    split_rows(gather, parts > 1 ? parts + parts % 2 : 1);
  }
  void split_rows(const Gather& gather, std::int64_t parts) {
    std::int64_t most = 0;
    for (const AxisClass& axis : gather.rows.classes()) most = larger(most, axis.count);
    rows = ceil_divide(most, parts);
    row_parts = ceil_divide(most, rows);
    slots = slots_for(gather, rows);
  }

 public:
  // Whether the taps along the width see neighbouring pixels: then they are one run of terms.
  static bool taps_adjoin(const AxisClass& axis) {
    const Span<Tap>& taps = axis.taps;
    return taps.count > 1 && tap_in_order(taps, 1).offset - tap_in_order(taps, 0).offset == 1;
  }
  // Whether the taps of a column of the window are one run of terms after another, where those of a
  // row do not adjoin.
  static constexpr bool kSumsColumns = kVectorBytes < 64;
};
