// How direct.grouped cuts its work, by the shape of a sample alone, and what it needs of memory.
//
// An item is some rows of some columns by some vectors of channels. Pixels lie whole in memory, so
// that vectors are taken together: the lines of a pixel that adjoin are read one after the other,
// which the processor foresees, as it does not lines that lie a pixel apart.
template <class C>
struct GroupedPlan {
  static constexpr std::int64_t L = kLanes<C>;

  explicit GroupedPlan(const Gather& gather)
      : gather(gather), rows_reach(gather.rows), columns_reach(gather.columns) {
    constexpr std::int64_t kBytes = 192 << 10, kEnoughItems = 16;
    constexpr std::int64_t kMostBlocks = 1024 / kVectorBytes, kFewBlocks = 256 / kVectorBytes;
    channels = gather.groups * gather.filled_channels;
    blocks = ceil_divide(channels, L);
    tile_rows = rows_reach.count > 1 ? kGroupedRows : 1;
    tile_columns = tile_rows > 1 || kGroupedRows == 1 ? kGroupedPixels : kGroupedLongRow;
    const std::int64_t halo = rows_reach.last - rows_reach.first + 1;
    const std::int64_t total_rows = larger(1, rows_reach.count);
    const std::int64_t fewest = larger(tile_rows, 2 * (halo - 1) / rows_reach.step);
    for (std::int64_t most = kMostBlocks;; most /= 2) {
      item_blocks = ceil_divide(blocks, ceil_divide(blocks, most));
      set_columns(kBytes / (rows_reach.elements(tile_rows) * item_blocks * L * kBytesOfC));
      const std::int64_t fit = kBytes / (row_elements() * kBytesOfC);
      rows = smaller(total_rows, larger(fewest, (fit - halo) / rows_reach.step + 1));
      const std::int64_t others = block_strips() * column_strips;
      rows = smaller(rows, larger(fewest, total_rows * others / kEnoughItems));
      tiles = ceil_divide(total_rows, tile_rows);
      row_strips = rows_reach.count ? ceil_divide(total_rows, rows) : 0;
      rows = row_strips ? ceil_divide(tiles, row_strips) * tile_rows : tile_rows;
      if (others * row_strips >= kEnoughItems || most <= kFewBlocks) break;
    }
  }

  // Rows of every class, of the strip.
  Range strip_rows(std::int64_t strip) const {
    const Range part = part_of({0, tiles}, row_strips, strip);
    return {part.first * tile_rows, smaller(part.last * tile_rows, rows_reach.count)};
  }
  std::int64_t block_strips() const { return ceil_divide(blocks, item_blocks); }
  std::int64_t items() const { return gather.batch * row_strips * column_strips * block_strips(); }
  // Of the scratch: the line of one vector of channels, and of all of an item.
  std::int64_t row_elements() const { return item_blocks * line; }

  std::int64_t block_weights() const { return gather.kernel_area() * gather.source_channels * L; }
  std::size_t shared_bytes() const {
    return static_cast<std::size_t>(blocks * (block_weights() + L) + 2 * L) * sizeof(C) +
           static_cast<std::size_t>(gather.kernel_area()) * sizeof(TapPlace);
  }
  std::int64_t source_elements() const { return rows_reach.elements(rows) * row_elements(); }
  std::int64_t thread_elements() const { return source_elements() + kGroupedSums * L; }

  const Gather& gather;
  const AxisReach rows_reach, columns_reach;
  std::int64_t channels, blocks;         // of the image, and vectors of them
  std::int64_t tile_rows, tile_columns;  // of the largest register tile
  std::int64_t item_blocks;              // vectors of channels of an item, at most
  std::int64_t columns, column_strips;   // of every class, of an item, at most
  std::int64_t line_columns, line;       // source columns of an item; elements of a line of them
  std::int64_t tiles, rows, row_strips;  // rows of tiles; rows of every class of an item, at most

 private:
  static constexpr std::int64_t kBytesOfC = static_cast<std::int64_t>(sizeof(C));

  // The columns of an item read about so many of the source, and at least some tiles do.
  void set_columns(std::int64_t source_columns) {
    const std::int64_t total = larger(1, columns_reach.count);
    const std::int64_t halo = columns_reach.last - columns_reach.first + 1;
    const std::int64_t fewest = larger(4 * tile_columns, 2 * (halo - 1) / columns_reach.step);
    const std::int64_t most = larger(fewest, (source_columns - halo) / columns_reach.step + 1);
    column_strips = columns_reach.count ? ceil_divide(total, most) : 0;
    columns = column_strips == 1
                  ? total
                  : round_up(ceil_divide(total, larger(1, column_strips)), tile_columns);
    column_strips = columns_reach.count ? ceil_divide(total, columns) : 0;
    const std::int64_t whole = columns / tile_columns * tile_columns, rest = columns - whole;
    const bool few = rest <= kGroupedFewPixels && tile_columns == kGroupedPixels;
    line_columns = columns_reach.elements(whole + (rest == 0 ? 0
                                                   : few     ? kGroupedFewPixels
                                                             : tile_columns));
    line = line_columns * L;
    // Lines of several vectors are written side by side: not to the same set of the cache.
    if (line * kBytesOfC % 1024 == 0) line += L;
  }
};

// What an item fills after the rows of its present tiles, asked of memory line by line in the order
// in which it lies there: tiles write the lines of a pixel long after each other.
class LinesAhead {
 public:
  LinesAhead(const char* first, std::int64_t row_step, std::int64_t column_step, std::int64_t rows,
             std::int64_t columns, std::int64_t bytes)
      : row_(first),
        row_step_(row_step),
        column_step_(column_step),
        rows_(rows),
        columns_(columns),
        bytes_(bytes) {}

  // The processor fetches lines in pairs.
  void advance(int pairs) {
    constexpr std::int64_t kPair = 128;
    const char* pixel = row_ + column_ * column_step_;
    std::int64_t at = at_;
    for (; pairs > 0 && rows_ > 0; --pairs) {
      __builtin_prefetch(pixel + at, 1);
      at += kPair;
      if (at < bytes_) continue;
      at = 0;
      pixel += column_step_;
      if (++column_ < columns_) continue;
      column_ = 0;
      pixel = row_ += row_step_;
      --rows_;
    }
    at_ = at;
  }

 private:
  const char* row_;
  std::int64_t row_step_, column_step_, rows_, columns_, bytes_;
  std::int64_t column_ = 0, at_ = 0;
};
