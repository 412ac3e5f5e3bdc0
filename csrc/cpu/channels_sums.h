// The sums of direct.channels: totals[row][filled column][lane] for some rows of one class and a
// panel of filled channels. Chunks of source channels are added tap by tap, by the tile of
// gemm_tile.h: 14 pixels by 2 vectors of channels. Blocks of at most 256 terms keep rounding from
// growing with their number. Rows, and columns, that see nothing but padding through a tap are left
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
    for (int r = 0; r < kGemmRows; ++r) tile_offsets_[r] = r * pixel_step_;
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

  // Adds `channels` source channels through all taps of a pair of classes, with their weights
  // [tap][source channel][lane].
  template <class Source>
  void add_chunk(const Span<Tap>& row_taps, const AxisClass& columns, const Source& source,
                 const C* strip, std::int64_t channels, const C* weights, std::int64_t lanes,
                 C* totals) const {
    constexpr std::int64_t kTerms = 1024 / sizeof(C);
    const std::int64_t taps = columns.taps.count;
    if (taps == 0) return;
    totals += columns.first * kLanesOfPanel;
    const bool adjoin = Plan::taps_adjoin(columns);
    const std::int64_t terms = adjoin ? taps * channels : channels;  // of a run
    const std::int64_t blocks = ceil_divide(terms, kTerms);
    for (std::int64_t row_tap = 0; row_tap < row_taps.count; ++row_tap) {
      const Range rows = source.rows_inside(row_tap);
      for (std::int64_t run = 0; run < (adjoin ? 1 : taps); ++run) {
        const std::int64_t offset = tap_in_order(columns.taps, run).offset;
        const Range wanted =
            adjoin ? Range{0, columns.count} : positions_inside(gather_.columns, columns, offset);
        for (std::int64_t block = 0; block < blocks && wanted.first < wanted.last; ++block) {
          const Range k = part_of({0, terms}, blocks, block);
          const Block product{weights + k.first * kLanesOfPanel, k.last - k.first,
                              columns.source_step * channels, lanes};
          for (std::int64_t row = rows.first; row < rows.last; ++row) {
            add_row(product, wanted,
                    strip + source.line(row_tap, row, channels) + offset * channels + k.first,
                    totals + row * plan_.filled_columns * kLanesOfPanel);
          }
        }
        weights += terms * kLanesOfPanel;
      }
    }
  }

  // The rows from `row` on of the class `axis`, to a sample's channels from `channel` on.
  void store_rows(std::int64_t sample, std::int64_t channel, std::int64_t lanes,
                  const AxisClass& axis, std::int64_t row, std::int64_t rows,
                  const C* totals) const {
    const ImageStrides& strides = gather_.filled_strides;
    const std::int64_t columns = plan_.filled_columns;
    T* target = static_cast<T*>(gather_.filled) + sample * strides.sample +
                channel * strides.channel + (axis.first + row * axis.step) * strides.row;
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

  // Tried: fetching the weights of the block after it meanwhile; slower.
  struct Block {
    const C* weights;
    std::int64_t depth, row_pitch, lanes;
  };

  // Adds a block of terms to the columns [first, last) of a row, in tiles of even sizes.
  HANDCONV_INLINE void add_row(const Block& block, const Range& wanted, const C* line,
                               C* totals) const {
    const std::int64_t count = wanted.last - wanted.first;
    const std::int64_t tiles = ceil_divide(count, kGemmRows), size = count / tiles;
    std::int64_t larger_ones = count % tiles;
    for (std::int64_t first = wanted.first; first < wanted.last;) {
      const std::int64_t rows = larger_ones-- > 0 ? size + 1 : size;
      C* const tile = totals + first * pixel_step_;
      TileJob<C> job{line + first * block.row_pitch,
                     block.row_pitch,
                     block.weights,
                     block.depth,
                     tile,
                     pixel_step_,
                     tile,
                     tile_offsets_,
                     {}};
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
  std::int64_t tile_offsets_[kGemmRows];
};
