// The pixels of the dense weight gradient: a strip of y with the window of x that it looks at,
// packed (weight_packing.h) as the lanes and the rows of weight_tile.h, and the pairs of pixels
// that each tap along the width multiplies.

// Where things lie in the workspace of a thread, in elements of C.
template <class C>
struct WeightScratch {
  std::int64_t panel_sample, panel_block, row_sample, row_tile, rows, pairs, totals, elements;

  explicit WeightScratch(const WeightPlan<C>& plan) {
    const bool swapped = plan.lanes_are_inputs;
    panel_sample = (swapped ? plan.x_pixels : plan.y_pixels) * plan.blocks.full;
    panel_block = plan.samples * panel_sample;
    const std::int64_t row_pixels = swapped ? plan.y_pixels : plan.x_pixels;
    row_sample = row_pixels * (plan.merges_columns ? plan.row_channels : kRowTile);
    // An odd number of cache lines, so that tiles do not meet in the same sets of a cache; the
    // slack is for vectors that reach past their tile.
    constexpr std::int64_t kLine = 64 / sizeof(C);
    row_tile = ((plan.samples * row_sample + kLanes<C> + kLine - 1) / kLine | 1) * kLine;
    const std::int64_t tiles = plan.merges_columns ? 1 : ceil_divide(plan.patch_rows, kRowTile);
    rows = aligned(plan.patch_blocks * panel_block);
    pairs = rows + tiles * row_tile;
    const std::int64_t pair_bytes =
        plan.column_taps() * (plan.y_pixels * static_cast<std::int64_t>(sizeof(PixelPair)) +
                              static_cast<std::int64_t>(sizeof(Range)));
    totals = aligned(pairs + (pair_bytes + sizeof(C) - 1) / sizeof(C));
    elements = totals + (plan.chunks > 1 ? 0 : plan.total_elements());
  }
  static std::int64_t aligned(std::int64_t elements) { return (elements + 15) / 16 * 16; }
};

// Pixels of y, and the window of x that they look at.
struct WeightStrip {
  std::int64_t first_sample, samples;
  Range rows, columns;
  AxisWindow x_rows, x_columns;

  std::int64_t column_count() const { return columns.last - columns.first; }
  std::int64_t pixels() const { return (rows.last - rows.first) * column_count(); }
};

// For each tap along the width, the columns of y that meet one of x there, and a list of their
// pixels.
struct PairLists {
  Range* columns;
  PixelPair* pairs;
  std::int64_t length;  // of a list, at most

  PixelPair* of_tap(std::int64_t kw) const { return pairs + kw * length; }
};

// The lanes and the rows of a strip: block b of the lanes of sample s begins at panel + b * block +
// s * panel_sample.
template <class C>
struct WeightOperands {
  const C* panel;
  std::int64_t block, panel_sample;
  const C* rows;
  std::int64_t row_sample;
};

template <class T>
class WeightStrips {
 public:
  using C = Compute<T>;

  WeightStrips(const Problem& problem, const Buffers& buffers, const WeightPlan<C>& plan)
      : problem_(problem), g_(problem.geometry), buffers_(buffers), plan_(plan), scratch_(plan) {}

  // Elements from a pixel to its neighbour on the right, and from a line to the next one.
  struct Steps {
    std::int64_t pixel, line;
  };
  Steps x_steps(const AxisWindow& columns) const {
    const ImageStrides strides = problem_.x_strides();
    const bool in_place = plan_.lanes_are_inputs ? plan_.lanes_in_place : plan_.rows_in_place;
    if (in_place) return {columns.step * strides.column, g_.height.stride * strides.row};
    const std::int64_t step = plan_.lanes_are_inputs ? plan_.blocks.full : row_step();
    return {step, columns.count * step};
  }
  Steps y_steps(const Range& columns) const {
    const ImageStrides strides = problem_.y_strides();
    const bool in_place = plan_.lanes_are_inputs ? plan_.rows_in_place : plan_.lanes_in_place;
    if (in_place) return {strides.column, strides.row};
    const std::int64_t step = plan_.lanes_are_inputs ? row_step() : plan_.blocks.full;
    return {step, (columns.last - columns.first) * step};
  }

  // From the first row of a patch to that of a tile.
  std::int64_t tile_offset(const RowTiles& tiles, std::int64_t tile) const {
    return plan_.rows_in_place ? tiles.first(tile) : tile * scratch_.row_tile;
  }
  std::int64_t tile_step() const { return plan_.rows_in_place ? kRowTile : scratch_.row_tile; }

  PairLists lists_in(C* scratch) const {
    auto* columns = reinterpret_cast<Range*>(scratch + scratch_.pairs);
    return {columns, reinterpret_cast<PixelPair*>(columns + plan_.column_taps()), plan_.y_pixels};
  }

  // Fills the lists for `rows` rows of y. The row of x is that of the first tap along the height.
  void list_pairs(std::int64_t rows, const Range& columns, const AxisWindow& x_columns,
                  const PairLists& lists) const {
    const Steps x_step = x_steps(x_columns), y_step = y_steps(columns);
    // Of one tap only those lines and columns of x are packed that it meets.
    const std::int64_t x_line = x_step.line * (g_.height.kernel == 1 ? 1 : g_.height.stride);
    const std::int64_t x_pixel = x_step.pixel * (g_.width.stride / x_columns.step);
    for (std::int64_t kw = 0; kw < plan_.column_taps(); ++kw) {
      const Range inside =
          plan_.merges_columns ? columns : intersection(outputs_inside(g_.width, kw), columns);
      lists.columns[kw] = {inside.first - columns.first, inside.last - columns.first};
      const std::int64_t first_column =
          (g_.width.input_position(inside.first, kw) - x_columns.first) / x_columns.step;
      PixelPair* pair = lists.of_tap(kw);
      for (std::int64_t row = 0; row < rows; ++row) {
        std::int64_t x = row * x_line + first_column * x_step.pixel;
        std::int64_t y = row * y_step.line + (inside.first - columns.first) * y_step.pixel;
        for (std::int64_t ow = inside.first; ow < inside.last; ++ow) {
          *pair++ = {static_cast<std::int32_t>(plan_.lanes_are_inputs ? x : y),
                     static_cast<std::int32_t>(plan_.lanes_are_inputs ? y : x)};
          x += x_pixel;
          y += y_step.pixel;
        }
      }
    }
  }

  // How rows are packed: in even tiles, which keep enough sums in flight in each, unless tiles are
  // taken in twos.
  RowTiles packed_tiles(const WeightPatch& patch) const {
    return RowTiles(patch.rows, kRowTile, 2 * plan_.blocks.full > LaneBlocks<C>::kLargest);
  }
  WeightOperands<C> pack(const WeightPatch& patch, const WeightStrip& strip, C* scratch) const {
    WeightOperands<C> operands;
    set_rows(patch, strip, scratch + scratch_.rows, operands);
    set_panel(patch, strip, scratch, operands);
    return operands;
  }

 private:
  // Elements between packed pixels of rows.
  std::int64_t row_step() const { return plan_.merges_columns ? plan_.row_channels : kRowTile; }

  void set_rows(const WeightPatch& patch, const WeightStrip& strip, C* scratch,
                WeightOperands<C>& operands) const {
    if constexpr (std::is_same_v<T, C>) {
      if (plan_.rows_in_place) {
        operands.rows = row_window(patch, strip, 0).first;
        operands.row_sample = row_strides().sample;
        return;
      }
    }
    operands.rows = scratch;
    operands.row_sample = scratch_.row_sample;
    for (std::int64_t s = 0; s < strip.samples; ++s, scratch += scratch_.row_sample) {
      if (plan_.merges_columns) {
        pack_lines(patch.group, strip.first_sample + s, strip, scratch);
      } else {
        const PixelWindow<T> window = row_window(patch, strip, s);
        if (!window.is_empty()) {
          pack_row_tiles(window, packed_tiles(patch), scratch_.row_tile, scratch);
        }
      }
    }
  }

  void set_panel(const WeightPatch& patch, const WeightStrip& strip, C* scratch,
                 WeightOperands<C>& operands) const {
    if constexpr (std::is_same_v<T, C>) {
      const PixelWindow<T> lanes = lane_window(patch, strip, 0, 0);
      // Pixels that have these lanes alone are a panel already.
      const bool is_panel = lanes.channel_step == 1 && plan_.lane_channels == plan_.blocks.full &&
                            lanes.column_step == plan_.blocks.full &&
                            lanes.row_step == lanes.columns * lanes.column_step;
      if (is_panel || plan_.lanes_in_place) {
        operands.panel = lanes.first;
        operands.block = plan_.blocks.full;
        operands.panel_sample = lane_strides().sample;
        return;
      }
    }
    operands.panel = scratch;
    operands.block = scratch_.panel_block;
    operands.panel_sample = scratch_.panel_sample;
    for (std::int64_t s = 0; s < strip.samples; ++s) {
      for (std::int64_t b = 0; b < plan_.block_count(patch); ++b) {
        const PixelWindow<T> lanes = lane_window(patch, strip, s, b);
        if (lanes.is_empty()) continue;
        pack_panel(lanes, plan_.block_lanes(patch, b), plan_.blocks.full,
                   scratch + b * scratch_.panel_block + s * scratch_.panel_sample);
      }
    }
  }

  ImageStrides row_strides() const {
    return plan_.lanes_are_inputs ? problem_.y_strides() : problem_.x_strides();
  }
  ImageStrides lane_strides() const {
    return plan_.lanes_are_inputs ? problem_.x_strides() : problem_.y_strides();
  }
  PixelWindow<T> lane_window(const WeightPatch& patch, const WeightStrip& strip,
                             std::int64_t sample, std::int64_t block) const {
    const std::int64_t n = strip.first_sample + sample;
    PixelWindow<T> window =
        plan_.lanes_are_inputs ? x_window(patch.group, n, strip) : y_window(patch.group, n, strip);
    window.first += (patch.first_lane + block * plan_.blocks.full) * window.channel_step;
    return window;
  }
  PixelWindow<T> row_window(const WeightPatch& patch, const WeightStrip& strip,
                            std::int64_t sample) const {
    const std::int64_t n = strip.first_sample + sample;
    PixelWindow<T> window =
        plan_.lanes_are_inputs ? y_window(patch.group, n, strip) : x_window(patch.group, n, strip);
    window.first += patch.first_row * window.channel_step;
    return window;
  }

  PixelWindow<T> y_window(std::int64_t group, std::int64_t n, const WeightStrip& strip) const {
    const ImageStrides strides = problem_.y_strides();
    const T* y = static_cast<const T*>(buffers_.y) + n * strides.sample +
                 group * g_.out_channels_per_group() * strides.channel +
                 strip.rows.first * strides.row + strip.columns.first * strides.column;
    return {y,
            strip.rows.last - strip.rows.first,
            strip.column_count(),
            strides.row,
            strides.column,
            strides.channel};
  }
  PixelWindow<T> x_window(std::int64_t group, std::int64_t n, const WeightStrip& strip) const {
    const ImageStrides strides = problem_.x_strides();
    const T* x = static_cast<const T*>(buffers_.x) + n * strides.sample +
                 group * g_.in_channels_per_group() * strides.channel +
                 strip.x_rows.first * strides.row + strip.x_columns.first * strides.column;
    return {x,
            strip.x_rows.count,
            strip.x_columns.count,
            strip.x_rows.step * strides.row,
            strip.x_columns.step * strides.column,
            strides.channel};
  }

  // x with its padding to the left and right, channels innermost.
  void pack_lines(std::int64_t group, std::int64_t n, const WeightStrip& strip, C* target) const {
    const ImageStrides strides = problem_.x_strides();
    const std::int64_t channels = plan_.row_channels, width = strip.x_columns.count;
    const std::int64_t first = larger(strip.x_columns.first, 0);
    const std::int64_t last = smaller(strip.x_columns.first + width, g_.width.input);
    const std::int64_t inside = larger(last - first, 0);
    const std::int64_t before = smaller(first - strip.x_columns.first, width - inside);
    const std::int64_t after = width - before - inside;
    const T* x = static_cast<const T*>(buffers_.x) + n * strides.sample +
                 group * channels * strides.channel + first * strides.column;
    const bool one_run = strides.channel == 1 && strides.column == channels;
    for (std::int64_t row = 0; row < strip.x_rows.count; ++row, target += width * channels) {
      const T* line = x + (strip.x_rows.first + row * strip.x_rows.step) * strides.row;
      C* const to = target + before * channels;
      for (C* zero = target; zero < to; ++zero) *zero = C(0);
      if (one_run) {
        convert(line, inside * channels, to);
      } else if (strides.column == 1) {
        interleave_planes(line, strides.channel, channels, inside, to);
      } else {
        for (std::int64_t p = 0; p < inside; ++p) {
          for (std::int64_t c = 0; c < channels; ++c) {
            to[p * channels + c] = to_compute(line[p * strides.column + c * strides.channel]);
          }
        }
      }
      C* const end = target + width * channels;
      for (C* zero = end - after * channels; zero < end; ++zero) *zero = C(0);
    }
  }

  const Problem& problem_;
  const Geometry& g_;
  const Buffers& buffers_;
  const WeightPlan<C>& plan_;
  const WeightScratch<C> scratch_;
};
