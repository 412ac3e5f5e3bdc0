// The weight gradient where lanes are channels:
//
//     w[oc, ic, kh, kw] = sum over n, oh, ow of y[n, oc, oh, ow] * x[n, ic, oh s - p + kh d, ow s -
//     p + kw d]
//
// Lanes are the channels of one image and rows those of the other, both packed strip by strip
// (weight_packing.h), cut as weight_plan.h says and multiplied by the tile of weight_tile.h: 2
// FLOPs for each pair of channels, pixel of y and tap inside the image; a panel in L1 is read once
// for every 6 rows, and every row of L2 once for every 64 lanes.

template <class T>
class ChannelsWeightKernel {
 public:
  using C = Compute<T>;
  using Plan = WeightPlan<C>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Plan plan(problem);
    const std::int64_t partials =
        plan.chunks > 1 ? plan.patches() * plan.chunks * plan.total_elements() : 0;
    return {static_cast<std::size_t>(partials) * sizeof(C),
            static_cast<std::size_t>(Scratch(plan).elements) * sizeof(C)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    ChannelsWeightKernel(problem, buffers, workspace).run_all();
  }

 private:
  ChannelsWeightKernel(const Problem& problem, const Buffers& buffers, const Workspace& workspace)
      : problem_(problem),
        g_(problem.geometry),
        buffers_(buffers),
        workspace_(workspace),
        plan_(problem),
        scratch_(plan_) {}

  // Where things lie in the workspace of a thread, in elements of C.
  struct Scratch {
    std::int64_t panel_sample, panel_block, row_sample, row_tile, rows, pairs, totals, elements;

    explicit Scratch(const Plan& plan) {
      const bool swapped = plan.lanes_are_inputs;
      panel_sample = (swapped ? plan.x_pixels : plan.y_pixels) * plan.blocks.full;
      panel_block = plan.samples * panel_sample;
      const std::int64_t row_pixels = swapped ? plan.y_pixels : plan.x_pixels;
      row_sample = row_pixels * (plan.merges_columns ? plan.row_channels : kRowTile);
      // An odd number of cache lines, so that tiles do not meet in the same sets of a cache; the
      // slack is for vectors that reach past their tile.
      constexpr std::int64_t kLine = 64 / sizeof(C);
      row_tile = ((plan.samples * row_sample + kLanes<C> + kLine - 1) / kLine | 1) * kLine;
      const std::int64_t tiles = plan.merges_columns ? 1 : RowTiles(plan.patch_rows, false).count;
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

  // The outputs of a patch, as channels of its group.
  struct Patch {
    std::int64_t group, first_block, block_count, first_row, rows;
  };
  Patch patch_of(std::int64_t index) const {
    const std::int64_t lanes = index % plan_.lane_parts * plan_.patch_blocks;
    const std::int64_t rows = index / plan_.lane_parts % plan_.row_parts * plan_.patch_rows;
    return {index / plan_.lane_parts / plan_.row_parts, lanes,
            smaller(plan_.patch_blocks, plan_.blocks.count() - lanes), rows,
            smaller(plan_.patch_rows, plan_.row_channels - rows)};
  }

  void run_all() {
    const std::int64_t cost = g_.batch * g_.output_area() / plan_.chunks * plan_.patch_blocks *
                              plan_.blocks.full * plan_.total_rows();
    parallel_for(plan_.items(), cost, [&](std::int64_t item, int thread) {
      run_item(item / plan_.chunks, item % plan_.chunks, workspace_.of_thread<C>(thread));
    });
    if (plan_.chunks == 1) return;
    constexpr std::int64_t kRows = 64;
    const std::int64_t pieces = ceil_divide(plan_.total_rows(), kRows);
    parallel_for(plan_.patches() * pieces,
                 kRows * plan_.patch_blocks * plan_.blocks.full * plan_.chunks,
                 [&](std::int64_t item, int) {
                   const Patch patch = patch_of(item / pieces);
                   const std::int64_t first = item % pieces * kRows;
                   store_rows(patch, partial(item / pieces, 0),
                              {first, smaller(first + kRows, patch.rows * plan_.taps())});
                 });
  }

  C* partial(std::int64_t patch, std::int64_t chunk) const {
    return workspace_.shared<C>() + (patch * plan_.chunks + chunk) * plan_.total_elements();
  }

  // The totals of an item: row r of lane block b begins at data + b * block + r * step.
  struct Totals {
    C* data;
    std::int64_t block, step;
  };

  // A single block of pixels is the whole sum: it goes where it belongs.
  bool stores_at_once(const Patch& patch) const {
    const std::int64_t lanes = lanes_of(patch);
    return std::is_same_v<T, C> && plan_.lanes_are_inputs && lanes % kLanes<C> == 0 &&
           g_.batch <= plan_.samples && plan_.strip_rows >= g_.height.output &&
           plan_.strip_columns >= g_.width.output && plan_.y_pixels <= Plan::kBlockPixels;
  }
  std::int64_t lanes_of(const Patch& patch) const {
    const std::int64_t first = plan_.blocks.first(patch.first_block);
    return smaller(patch.block_count * plan_.blocks.full, plan_.lane_channels - first);
  }

  void run_item(std::int64_t patch_index, std::int64_t chunk, C* scratch) const {
    const Patch patch = patch_of(patch_index);
    const bool at_once = stores_at_once(patch);
    const Totals totals =
        at_once ? Totals{reinterpret_cast<C*>(weight_row(patch, 0)), plan_.blocks.full,
                         g_.in_channels_per_group()}
                : Totals{plan_.chunks > 1 ? partial(patch_index, chunk) : scratch + scratch_.totals,
                         plan_.total_rows() * plan_.blocks.full, plan_.blocks.full};
    const Range chunk_rows = part_of({0, g_.height.output}, plan_.chunks, chunk);
    // Chunks differ by a row: a strip is one of the largest, which all fit.
    const std::int64_t row_strips =
        ceil_divide(chunk_rows.last - chunk_rows.first, plan_.strip_rows);
    const std::int64_t column_strips = ceil_divide(g_.width.output, plan_.strip_columns);
    bool starts = true;
    for (std::int64_t column = 0; column < column_strips; ++column) {
      const Range columns = part_of({0, g_.width.output}, column_strips, column);
      const AxisWindow x_columns = window_of(g_.width, columns, plan_.merges_columns);
      list_pairs(smaller(plan_.strip_rows, chunk_rows.last - chunk_rows.first), columns, x_columns,
                 lists_in(scratch));
      for (std::int64_t n = 0; n < g_.batch; n += plan_.samples) {
        for (std::int64_t row = 0; row < row_strips; ++row) {
          const Range rows = part_of(chunk_rows, row_strips, row);
          const Strip strip{n,       smaller(plan_.samples, g_.batch - n), rows,
                            columns, window_of(g_.height, rows, false),    x_columns};
          multiply(patch, strip, scratch, pack(patch, strip, scratch), totals, starts);
          starts = false;
        }
      }
    }
    if (plan_.chunks == 1 && !at_once) {
      store_rows(patch, totals.data, {0, patch.rows * plan_.taps()});
    }
  }

  // Pixels of y, and the window of x that they look at.
  struct Strip {
    std::int64_t first_sample, samples;
    Range rows, columns;
    AxisWindow x_rows, x_columns;

    std::int64_t column_count() const { return columns.last - columns.first; }
    std::int64_t pixels() const { return (rows.last - rows.first) * column_count(); }
  };

  // Elements between packed neighbours.
  std::int64_t row_step() const {
    if (!plan_.merges_columns) return kRowTile;
    return plan_.channels_innermost ? plan_.row_channels : 1;
  }
  std::int64_t x_step() const { return plan_.lanes_are_inputs ? plan_.blocks.full : row_step(); }
  std::int64_t y_step() const { return plan_.lanes_are_inputs ? row_step() : plan_.blocks.full; }

  // For each tap along the width, the columns of y that meet one of x there, and a list of their
  // pixels.
  struct PairLists {
    Range* columns;
    PixelPair* pairs;
    std::int64_t length;  // of a list, at most

    PixelPair* of_tap(std::int64_t kw) const { return pairs + kw * length; }
  };
  PairLists lists_in(C* scratch) const {
    auto* columns = reinterpret_cast<Range*>(scratch + scratch_.pairs);
    return {columns, reinterpret_cast<PixelPair*>(columns + plan_.column_taps()), plan_.y_pixels};
  }

  // Fills the lists for `rows` rows of y. The row of x is that of the first tap along the height.
  void list_pairs(std::int64_t rows, const Range& columns, const AxisWindow& x_columns,
                  const PairLists& lists) const {
    const std::int64_t width = columns.last - columns.first;
    const std::int64_t x_line = x_columns.count * (g_.height.kernel == 1 ? 1 : g_.height.stride);
    const std::int64_t x_pixel = g_.width.stride / x_columns.step;
    for (std::int64_t kw = 0; kw < plan_.column_taps(); ++kw) {
      const Range inside =
          plan_.merges_columns ? columns : intersection(outputs_inside(g_.width, kw), columns);
      lists.columns[kw] = {inside.first - columns.first, inside.last - columns.first};
      const std::int64_t first_column =
          (g_.width.input_position(inside.first, kw) - x_columns.first) / x_columns.step;
      PixelPair* pair = lists.of_tap(kw);
      for (std::int64_t row = 0; row < rows; ++row) {
        std::int64_t x = (row * x_line + first_column) * x_step();
        std::int64_t y = (row * width + inside.first - columns.first) * y_step();
        for (std::int64_t ow = inside.first; ow < inside.last; ++ow) {
          *pair++ = {static_cast<std::int32_t>(plan_.lanes_are_inputs ? x : y),
                     static_cast<std::int32_t>(plan_.lanes_are_inputs ? y : x)};
          x += x_pixel * x_step();
          y += y_step();
        }
      }
    }
  }

  // The lanes of a strip: block b of sample s begins at data + b * block + s * sample.
  struct Panel {
    const C* data;
    std::int64_t block, sample;
  };

  Panel pack(const Patch& patch, const Strip& strip, C* scratch) const {
    for (std::int64_t s = 0; s < strip.samples; ++s) {
      C* rows = scratch + scratch_.rows + s * scratch_.row_sample;
      if (plan_.merges_columns) {
        pack_lines(patch.group, strip.first_sample + s, strip, rows);
      } else {
        const PixelWindow<T> window = row_window(patch, strip, s);
        if (!window.is_empty()) {
          pack_row_tiles(window, packed_tiles(patch), scratch_.row_tile, rows);
        }
      }
    }
    if constexpr (std::is_same_v<T, C>) {
      const PixelWindow<T> lanes = lane_window(patch, strip, 0, 0);
      // Pixels that have these lanes alone are a panel already.
      if (lanes.channel_step == 1 && plan_.lane_channels == plan_.blocks.full &&
          lanes.column_step == plan_.blocks.full &&
          lanes.row_step == lanes.columns * lanes.column_step) {
        return {lanes.first, 0, lane_strides().sample};
      }
    }
    for (std::int64_t s = 0; s < strip.samples; ++s) {
      for (std::int64_t b = 0; b < patch.block_count; ++b) {
        const PixelWindow<T> lanes = lane_window(patch, strip, s, b);
        if (lanes.is_empty()) continue;
        pack_panel(lanes, plan_.blocks.size(patch.first_block + b), plan_.blocks.full,
                   scratch + b * scratch_.panel_block + s * scratch_.panel_sample);
      }
    }
    return {scratch, scratch_.panel_block, scratch_.panel_sample};
  }

  ImageStrides lane_strides() const {
    return plan_.lanes_are_inputs ? problem_.x_strides() : problem_.y_strides();
  }
  PixelWindow<T> lane_window(const Patch& patch, const Strip& strip, std::int64_t sample,
                             std::int64_t block) const {
    const std::int64_t n = strip.first_sample + sample;
    PixelWindow<T> window =
        plan_.lanes_are_inputs ? x_window(patch.group, n, strip) : y_window(patch.group, n, strip);
    window.first += plan_.blocks.first(patch.first_block + block) * window.channel_step;
    return window;
  }
  PixelWindow<T> row_window(const Patch& patch, const Strip& strip, std::int64_t sample) const {
    const std::int64_t n = strip.first_sample + sample;
    PixelWindow<T> window =
        plan_.lanes_are_inputs ? y_window(patch.group, n, strip) : x_window(patch.group, n, strip);
    window.first += patch.first_row * window.channel_step;
    return window;
  }

  PixelWindow<T> y_window(std::int64_t group, std::int64_t n, const Strip& strip) const {
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
  PixelWindow<T> x_window(std::int64_t group, std::int64_t n, const Strip& strip) const {
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

  // x with its padding to the left and right, channels innermost or as planes, as w has them.
  void pack_lines(std::int64_t group, std::int64_t n, const Strip& strip, C* target) const {
    const ImageStrides strides = problem_.x_strides();
    const std::int64_t channels = plan_.row_channels, width = strip.x_columns.count;
    const std::int64_t first = larger(strip.x_columns.first, 0);
    const std::int64_t last = smaller(strip.x_columns.first + width, g_.width.input);
    const std::int64_t inside = larger(last - first, 0);
    const std::int64_t before = smaller(first - strip.x_columns.first, width - inside);
    const std::int64_t after = width - before - inside;
    const T* x = static_cast<const T*>(buffers_.x) + n * strides.sample +
                 group * channels * strides.channel + first * strides.column;
    const bool innermost = plan_.channels_innermost;
    const bool one_run = innermost && strides.channel == 1 && strides.column == channels;
    for (std::int64_t row = 0; row < strip.x_rows.count; ++row) {
      const T* line = x + (strip.x_rows.first + row * strip.x_rows.step) * strides.row;
      if (one_run) {
        pack_padded_line(line, 1, before * channels, inside * channels, after * channels, 1,
                         target + row * width * channels);
        continue;
      }
      for (std::int64_t c = 0; c < channels; ++c) {
        pack_padded_line(line + c * strides.channel, strides.column, before, inside, after,
                         innermost ? channels : 1,
                         innermost ? target + row * width * channels + c
                                   : target + c * plan_.x_pixels + row * width);
      }
    }
  }

  // A pixel of a strip of y.
  struct Position {
    std::int64_t row, column;

    // Those of `columns` before this one, in the order of pixels.
    std::int64_t pixels_before(const Range& columns) const {
      const std::int64_t count = columns.last - columns.first;
      return row * count + smaller(larger(column - columns.first, 0), count);
    }
  };
  static bool is_before(const Position& a, const Position& b) {
    return a.row != b.row ? a.row < b.row : a.column < b.column;
  }

  // Adds the products of a strip to the totals.
  void multiply(const Patch& patch, const Strip& strip, C* scratch, const Panel& panel,
                const Totals& totals, bool starts) const {
    const std::int64_t blocks = ceil_divide(strip.pixels(), Plan::kBlockPixels);
    const std::int64_t width = strip.column_count();
    for (std::int64_t block = 0; block < blocks; ++block) {
      const Range pixels = part_of({0, strip.pixels()}, blocks, block);
      const Position first{pixels.first / width, pixels.first % width};
      const Position last{pixels.last / width, pixels.last % width};
      for (std::int64_t b = 0; b < patch.block_count; ++b) {
        visit_vectors(plan_.blocks.vectors(patch.first_block + b), [&](auto vectors) {
          const Totals block_totals{totals.data + b * totals.block, 0, totals.step};
          const Panel block_panel{panel.data + b * panel.block, 0, panel.sample};
          multiply_block<decltype(vectors)::value>(patch, strip, first, last, scratch, block_panel,
                                                   block_totals, starts && block == 0);
        });
      }
    }
  }

  template <int V>
  void multiply_block(const Patch& patch, const Strip& strip, const Position& first,
                      const Position& last, C* scratch, const Panel& panel, const Totals& totals,
                      bool starts) const {
    const PairLists lists = lists_in(scratch);
    const RowTiles tiles = tiles_of(patch);
    const bool swapped = plan_.lanes_are_inputs;
    for (std::int64_t kh = 0; kh < g_.height.kernel; ++kh) {
      const Range rows = intersection(outputs_inside(g_.height, kh), strip.rows);
      const Position top{rows.first - strip.rows.first, 0}, end{rows.last - strip.rows.first, 0};
      const Position from = is_before(first, top) ? top : first;
      const Position to = is_before(end, last) ? end : last;
      // Of x, from the packed row that the first tap sees to that of this one.
      const std::int64_t x_row =
          (g_.height.input_position(strip.rows.first, kh) - strip.x_rows.first) / strip.x_rows.step;
      const std::int64_t x_offset = x_row * strip.x_columns.count * x_step();
      for (std::int64_t kw = 0; kw < plan_.column_taps(); ++kw) {
        const std::int64_t begin = from.pixels_before(lists.columns[kw]);
        const std::int64_t count = larger(to.pixels_before(lists.columns[kw]) - begin, 0);
        if (count == 0 && !starts) continue;
        const TileProduct<C> product{panel.data + (swapped ? x_offset : 0),
                                     scratch + scratch_.rows + (swapped ? 0 : x_offset),
                                     scratch_.row_tile,
                                     strip.samples,
                                     panel.sample,
                                     scratch_.row_sample,
                                     lists.of_tap(kw) + begin,
                                     count,
                                     nullptr,
                                     0,
                                     starts};
        if (plan_.merges_columns) {
          multiply_lines<V>(tiles, kh, totals, product);
        } else {
          multiply_tiles<V>(patch, tiles, kh * g_.width.kernel + kw, totals, product);
        }
      }
    }
  }

  // How rows are packed: in even tiles, which keep enough sums in flight in each, unless tiles are
  // taken in twos.
  RowTiles packed_tiles(const Patch& patch) const {
    return RowTiles(patch.rows, 2 * plan_.blocks.full > LaneBlocks<C>::kLargest);
  }
  // Lines of x that are made of a row of w each: one if they have the channels innermost.
  std::int64_t lines() const { return plan_.channels_innermost ? 1 : plan_.row_channels; }
  RowTiles tiles_of(const Patch& patch) const {
    if (!plan_.merges_columns) return packed_tiles(patch);
    return RowTiles(g_.width.kernel * plan_.row_channels / lines(), true);
  }

  template <int V>
  void multiply_tiles(const Patch& patch, const RowTiles& tiles, std::int64_t tap,
                      const Totals& totals, TileProduct<C> product) const {
    const C* rows = product.rows;
    product.total_step = (row_of(patch, 1, tap) - row_of(patch, 0, tap)) * totals.step;
    for (std::int64_t tile = 0, count; tile<tiles.count; tile += count> kRowTile ? 2 : 1) {
      count = tiles.rows(tile);
      if (kTakesTwoRowTiles<V> && tile + 1 < tiles.count && count == kRowTile &&
          tiles.rows(tile + 1) == kRowTile) {
        count = 2 * kRowTile;
      }
      product.rows = rows + tile * scratch_.row_tile;
      product.totals = totals.data + row_of(patch, tiles.first(tile), tap) * totals.step;
      multiply_tile_of<V>(static_cast<int>(count), product);
    }
  }

  // Rows are taps along the width, of each input channel or of all of them.
  template <int V>
  void multiply_lines(const RowTiles& tiles, std::int64_t kh, const Totals& totals,
                      TileProduct<C> product) const {
    const C* rows = product.rows;
    product.total_step = totals.step;
    for (std::int64_t line = 0; line < lines(); ++line) {
      const C* first_row = rows + line * plan_.x_pixels;
      C* first_total = totals.data + (line * g_.height.kernel + kh) * tiles.channels * totals.step;
      for (std::int64_t tile = 0; tile < tiles.count; ++tile) {
        product.rows = first_row + tiles.first(tile);
        product.totals = first_total + tiles.first(tile) * totals.step;
        multiply_tile_of<V>(static_cast<int>(tiles.rows(tile)), product);
      }
    }
  }

  // The row of the totals that a channel and a tap have: in the order of w, so that rows that
  // follow one another are neighbours there.
  std::int64_t row_of(const Patch& patch, std::int64_t channel, std::int64_t tap) const {
    return plan_.channels_innermost && !plan_.lanes_are_inputs ? tap * patch.rows + channel
                                                               : channel * plan_.taps() + tap;
  }

  // The first element of w that belongs to lane 0 of a patch and to a row of its totals, counted in
  // the order of row_of.
  T* weight_row(const Patch& patch, std::int64_t row) const {
    const std::int64_t in = g_.in_channels_per_group(), area = plan_.taps();
    const std::int64_t lane = plan_.blocks.first(patch.first_block);
    const std::int64_t oc = plan_.lanes_are_inputs ? patch.first_row + row / area : lane;
    std::int64_t at = (patch.group * g_.out_channels_per_group() + oc) * in * area;
    if (plan_.lanes_are_inputs) {
      at += row % area * in + lane;
    } else if (plan_.channels_innermost) {
      at += row / patch.rows * in + patch.first_row + row % patch.rows;
    } else {
      at += patch.first_row * area + row;
    }
    return static_cast<T*>(buffers_.w) + at;
  }

  // Writes rows of the totals of a patch to w: the sum of those of all chunks, in order.
  void store_rows(const Patch& patch, const C* totals, const Range& rows) const {
    constexpr std::int64_t L = kLanes<C>;
    const std::int64_t full = plan_.blocks.full, lanes = lanes_of(patch);
    const auto total = [&](std::int64_t row, std::int64_t lane) {
      const C* at = totals + (lane / full * plan_.total_rows() + row) * full + lane % full;
      Vector<C> sum = load(at);
      for (std::int64_t c = 1; c < plan_.chunks; ++c) sum += load(at + c * plan_.total_elements());
      return sum;
    };
    if (plan_.lanes_are_inputs) {
      for (std::int64_t row = rows.first; row < rows.last; ++row) {
        T* to = weight_row(patch, row);
        for (std::int64_t lane = 0; lane < lanes; lane += L) {
          store_masked(to + lane, total(row, lane), mask_between<C>(0, lanes - lane));
        }
      }
      return;
    }
    const std::int64_t step = g_.in_channels_per_group() * plan_.taps();
    const std::int64_t run = plan_.channels_innermost ? patch.rows : patch.rows * plan_.taps();
    for (std::int64_t lane = 0; lane < lanes; lane += L) {
      for (std::int64_t row = rows.first, count; row < rows.last; row += count) {
        count = smaller(smaller(L, rows.last - row), run - row % run);
        Vector<C> square[L];
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) square[i] = i < count ? total(row + i, lane) : Vector<C>{};
        transpose<C>(square);
        T* to = weight_row(patch, row) + lane * step;
        const auto mask = mask_between<C>(0, count);
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) {
          if (lane + i < lanes) store_masked(to + i * step, square[i], mask);
        }
      }
    }
  }

  const Problem& problem_;
  const Geometry& g_;
  const Buffers& buffers_;
  const Workspace& workspace_;
  const Plan plan_;
  const Scratch scratch_;
};
