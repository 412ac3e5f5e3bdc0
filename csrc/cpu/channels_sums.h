// The sums of direct.channels: totals[row][filled column][lane] for some rows of one class and a
// panel of filled channels. Chunks of source channels are added tap by tap, by the tile of
// gemm_tile.h: 14 pixels by 2 vectors of channels. Blocks of terms keep rounding from growing with
// their number. Rows, and columns, that see nothing but padding through a tap are left
// out.
//
// A Source tells where the pixels of a chunk lie: rows_inside(tap) are the rows that meet the image
// through a tap, line(tap, row, channels) is where column 0 of what a row sees lies.

template <class T>
class ChannelsSums {
 public:
  using C = Compute<T>;
  using Plan = ChannelsPlan<C>;

  ChannelsSums(const Gather& gather, const Plan& plan)
      : gather_(gather),
        plan_(plan),
        pixel_step_(gather.columns.classes()[0].step * kLanesOfPanel) {
    for (int r = 0; r < kGemmRows; ++r) {
      tile_offsets_[r] = r * pixel_step_;
      image_offsets_[r] = r * gather.columns.classes()[0].step * gather.filled_strides.column;
    }
  }

  // Biases of all panels, with zeros past the last channel of a group.
  static std::int64_t biases(const Gather& gather, const Plan& plan) {
    return gather.groups * plan.panels * kLanesOfPanel;
  }
  void pack_bias(C* packed) const {
    const auto* bias = static_cast<const T*>(gather_.bias);
    const std::int64_t padded = plan_.panels * kLanesOfPanel, channels = gather_.filled_channels;
    for (std::int64_t i = 0; i < gather_.groups * padded; ++i) {
      const std::int64_t group = i / padded, f = i % padded;
      packed[i] = bias && f < channels ? to_compute(bias[group * channels + f]) : C(0);
    }
  }

  // Filled channels of a panel.
  std::int64_t lanes(std::int64_t panel) const {
    return smaller(kLanesOfPanel, gather_.filled_channels - panel * kLanesOfPanel);
  }

  void start(const C* bias, std::int64_t rows, C* totals) const {
    Vector<C> lanes[kPanelVectors];
    for (int v = 0; v < kPanelVectors; ++v) lanes[v] = load(bias + v * kLanes<C>);
    C* const end = totals + rows * plan_.filled_columns * kLanesOfPanel;
    for (; totals < end; totals += kLanesOfPanel) {
      for (int v = 0; v < kPanelVectors; ++v) store(totals + v * kLanes<C>, lanes[v]);
    }
  }

  // What is added to which totals: a chunk of source channels through all taps of a pair of
  // classes, with their weights [tap][source channel][lane].
  struct Chunk {
    const AxisClass &rows, &columns;
    std::int64_t row, row_count;  // of the class
    std::int64_t channels, lanes;
    const C *strip, *weights;
    C* totals;
    // Where whole rows are seen, the first block of the sum starts from the bias instead, and the
    // last one ends up in the image, if it holds what is computed in.
    bool is_first, is_last;
    const C* bias;
    std::int64_t sample, channel;
  };

  template <class Source>
  void add_chunk(const Source& source, const Chunk& chunk) const {
    const AxisClass& columns = chunk.columns;
    const std::int64_t taps = columns.taps.count, row_taps = chunk.rows.taps.count;
    if (taps == 0) return;
    const bool adjoin = Plan::taps_adjoin(columns);
    const std::int64_t terms = adjoin ? taps * chunk.channels : chunk.channels;  // of a run
    const std::int64_t runs = adjoin ? 1 : taps;                                 // of a row of taps
    const std::int64_t blocks = ceil_divide(terms, gather_.block_terms);
    const bool by_columns = Plan::kSumsColumns && !adjoin;
    const std::int64_t together =
        runs > 1 && !by_columns ? 1 : smaller(kMostRuns, larger(1, gather_.block_terms / terms));
    const C* weights = chunk.weights;
    Place place = in_totals(chunk);
    for (std::int64_t tap = 0; tap < row_taps; tap += together) {
      const RowRuns<Source> rows(source, {tap, smaller(tap + together, row_taps)});
      for (std::int64_t run = 0; run < runs; ++run) {
        if (by_columns) weights = chunk.weights + (run * row_taps + tap) * terms * kLanesOfPanel;
        const std::int64_t offset = tap_in_order(columns.taps, run).offset;
        const Range wanted =
            adjoin ? Range{0, columns.count} : positions_inside(gather_.columns, columns, offset);
        for (std::int64_t block = 0; block < blocks && wanted.first < wanted.last; ++block) {
          const Range k = part_of({0, terms}, blocks, block);
          const bool first = plan_.whole_rows && chunk.is_first && tap == 0 && block == 0;
          const bool last =
              is_direct() && chunk.is_last && tap + together >= row_taps && block == blocks - 1;
          place.start = first ? chunk.bias : chunk.totals + columns.first * kLanesOfPanel;
          place.start_row = first ? 0 : plan_.filled_columns * kLanesOfPanel;
          place.start_pitch = first ? 0 : pixel_step_;
          if (last) end_in_image(chunk, place);
          const bool all = first || last;
          const std::int64_t end = all ? chunk.row_count : rows.last;
          for (std::int64_t row = all ? 0 : rows.first; row < end; ++row) {
            const Range inside = rows.taps_inside(row);
            const std::int64_t count = inside.last - inside.first;
            if (count == 0 && !all) continue;
            Block product{weights, 0, columns.source_step * chunk.channels, chunk.lanes, 1, 0};
            const C* line = chunk.strip;
            if (count > 0) {
              const std::int64_t begin = source.line(inside.first, row, chunk.channels);
              line += begin + offset * chunk.channels + k.first;
              product.weights += ((inside.first - tap) * terms + k.first) * kLanesOfPanel;
              product.depth = k.last - k.first;
              product.runs = count;
              if (count > 1)
                product.run_step = source.line(inside.first + 1, row, chunk.channels) - begin;
            }
            add_row(product, wanted, line, place, row);
          }
        }
        weights += smaller(together, row_taps - tap) * terms * kLanesOfPanel;
      }
    }
  }

  // Whether the last block of a sum ends up in the image by itself.
  bool is_direct() const {
    return std::is_same_v<T, C> && plan_.whole_rows && gather_.filled_strides.channel == 1;
  }

  // The rows from `row` on of the class `axis`, to a sample's channels from `channel` on.
  void store_rows(std::int64_t sample, std::int64_t channel, std::int64_t lanes,
                  const AxisClass& axis, std::int64_t row, std::int64_t rows,
                  const C* totals) const {
    const ImageStrides& strides = gather_.filled_strides;
    const std::int64_t columns = plan_.filled_columns;
    T* target = first_filled(sample, channel, axis, row);
    const bool one_run = axis.step == 1 && strides.row == columns * strides.column;
    const std::int64_t pixels = one_run ? rows * columns : columns;
    for (std::int64_t r = 0; r < (one_run ? 1 : rows); ++r) {
      if (strides.channel != 1) {
        transpose_matrix(totals, kLanesOfPanel, pixels, lanes, target, strides.channel);
      } else {
        store_pixels(totals, pixels, lanes, target);
      }
      totals += pixels * kLanesOfPanel;
      target += axis.step * strides.row;
    }
  }

 private:
  static constexpr std::int64_t kLanesOfPanel = kPanelLanes<C>;

  static constexpr std::int64_t kMostRuns = 16;

  // Neighbouring taps of a column of the window, one run of terms each, and the rows that see the
  // source through any of them.
  template <class Source>
  struct RowRuns {
    Range taps, of_tap[kMostRuns];
    std::int64_t first, last;

    RowRuns(const Source& source, const Range& among) : taps(among) {
      for (std::int64_t tap = taps.first; tap < taps.last; ++tap) {
        const Range rows = source.rows_inside(tap);
        of_tap[tap - taps.first] = rows;
        first = tap == taps.first ? rows.first : smaller(first, rows.first);
        last = tap == taps.first ? rows.last : larger(last, rows.last);
      }
    }
    // Those through which a row does.
    Range taps_inside(std::int64_t row) const {
      Range inside = taps;
      while (inside.first < inside.last && !sees(inside.first, row)) ++inside.first;
      while (inside.last > inside.first && !sees(inside.last - 1, row)) --inside.last;
      return inside;
    }
    bool sees(std::int64_t tap, std::int64_t row) const {
      const Range& rows = of_tap[tap - taps.first];
      return rows.first <= row && row < rows.last;
    }
  };

  // Tried: fetching the weights of the block after it meanwhile; slower.
  struct Block {
    const C* weights;
    std::int64_t depth, row_pitch, lanes, runs, run_step;
  };

  // Where the sums of rows start from, and where they end up.
  struct Place {
    const C* start;
    std::int64_t start_row, start_pitch;
    C* target;
    std::int64_t target_row;
    const std::int64_t* offsets;
  };
  Place in_totals(const Chunk& chunk) const {
    const std::int64_t row = plan_.filled_columns * kLanesOfPanel;
    C* const totals = chunk.totals + chunk.columns.first * kLanesOfPanel;
    return {totals, row, pixel_step_, totals, row, tile_offsets_};
  }
  void end_in_image(const Chunk& chunk, Place& place) const {
    if constexpr (std::is_same_v<T, C>) {
      const ImageStrides& strides = gather_.filled_strides;
      place.target = first_filled(chunk.sample, chunk.channel, chunk.rows, chunk.row) +
                     chunk.columns.first * strides.column;
      place.target_row = chunk.rows.step * strides.row;
      place.offsets = image_offsets_;
    }
  }
  T* first_filled(std::int64_t sample, std::int64_t channel, const AxisClass& axis,
                  std::int64_t row) const {
    const ImageStrides& strides = gather_.filled_strides;
    return static_cast<T*>(gather_.filled) + sample * strides.sample + channel * strides.channel +
           (axis.first + row * axis.step) * strides.row;
  }

  // Adds a block of terms to the columns [first, last) of a row, in tiles of even sizes.
  HANDCONV_INLINE void add_row(const Block& block, const Range& wanted, const C* line,
                               const Place& place, std::int64_t row) const {
    const std::int64_t count = wanted.last - wanted.first;
    const std::int64_t tiles = ceil_divide(count, kGemmRows), size = count / tiles;
    const C* const start = place.start + row * place.start_row;
    C* const target = place.target + row * place.target_row;
    std::int64_t larger_ones = count % tiles;
    for (std::int64_t first = wanted.first; first < wanted.last;) {
      const std::int64_t rows = larger_ones-- > 0 ? size + 1 : size;
      TileJob<C> job{line + first * block.row_pitch,
                     block.row_pitch,
                     block.weights,
                     block.depth,
                     start + first * place.start_pitch,
                     place.start_pitch,
                     target + first * place.offsets[1],
                     place.offsets,
                     {},
                     block.runs,
                     block.run_step};
      multiply(static_cast<int>(rows), block.lanes, job);
      first += rows;
    }
  }

  void store_pixels(const C* totals, std::int64_t pixels, std::int64_t lanes, T* target) const {
    constexpr std::int64_t L = kLanes<C>;
    const auto first = mask_between<C>(0, lanes), second = mask_between<C>(0, lanes - L);
    for (std::int64_t p = 0; p < pixels; ++p) {
      store_masked(target, load(totals), first);
      if (lanes > L) store_masked(target + L, load(totals + L), second);
      totals += kLanesOfPanel;
      target += gather_.filled_strides.column;
    }
  }

  const Gather& gather_;
  const Plan& plan_;
  const std::int64_t pixel_step_;
  std::int64_t tile_offsets_[kGemmRows], image_offsets_[kGemmRows];
};
