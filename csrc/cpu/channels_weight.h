// The weight gradient where lanes are channels:
//
//     w[oc, ic, kh, kw] = sum over n, oh, ow of y[n, oc, oh, ow] * x[n, ic, oh s - p + kh d, ow s -
//     p + kw d]
//
// Lanes are the channels of one image and rows those of the other, both packed strip by strip
// (weight_strips.h), cut as weight_plan.h says and multiplied by the tile of weight_tile.h: 2
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
            static_cast<std::size_t>(WeightScratch<C>(plan).elements) * sizeof(C)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    ChannelsWeightKernel(problem, buffers, workspace).run_all();
  }

 private:
  ChannelsWeightKernel(const Problem& problem, const Buffers& buffers, const Workspace& workspace)
      : g_(problem.geometry),
        w_(static_cast<T*>(buffers.w)),
        workspace_(workspace),
        plan_(problem),
        scratch_(plan_),
        strips_(problem, buffers, plan_),
        store_{plan_.channels_innermost,
               plan_.lanes_are_inputs,
               plan_.merges_columns || (plan_.channels_innermost && !plan_.lanes_are_inputs),
               plan_.blocks.full,
               plan_.total_rows(),
               plan_.chunks,
               plan_.total_elements()} {}

  void run_all() const {
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
                   const WeightPatch patch = plan_.patch(item / pieces);
                   const std::int64_t first = item % pieces * kRows;
                   store_.store_rows(g_, w_, patch, partial(item / pieces, 0),
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
  bool stores_at_once(const WeightPatch& patch) const {
    return std::is_same_v<T, C> && plan_.lanes_are_inputs && patch.lanes % kLanes<C> == 0 &&
           g_.batch <= plan_.samples && plan_.strip_rows >= g_.height.output &&
           plan_.strip_columns >= g_.width.output && plan_.y_pixels <= plan_.block_pixels();
  }

  void run_item(std::int64_t patch_index, std::int64_t chunk, C* scratch) const {
    const WeightPatch patch = plan_.patch(patch_index);
    const bool at_once = stores_at_once(patch);
    const Totals totals =
        at_once ? Totals{reinterpret_cast<C*>(store_.element(g_, w_, patch, 0)), plan_.blocks.full,
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
      strips_.list_pairs(smaller(plan_.strip_rows, chunk_rows.last - chunk_rows.first), columns,
                         x_columns, strips_.lists_in(scratch));
      for (std::int64_t n = 0; n < g_.batch; n += plan_.samples) {
        for (std::int64_t row = 0; row < row_strips; ++row) {
          const Range rows = part_of(chunk_rows, row_strips, row);
          const WeightStrip strip{n,       smaller(plan_.samples, g_.batch - n), rows,
                                  columns, window_of(g_.height, rows, false),    x_columns};
          multiply(patch, strip, strips_.pack(patch, strip, scratch), strips_.lists_in(scratch),
                   totals, starts);
          starts = false;
        }
      }
    }
    if (plan_.chunks == 1 && !at_once) {
      store_.store_rows(g_, w_, patch, totals.data, {0, patch.rows * plan_.taps()});
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
  void multiply(const WeightPatch& patch, const WeightStrip& strip,
                const WeightOperands<C>& operands, const PairLists& lists, const Totals& totals,
                bool starts) const {
    const std::int64_t blocks = ceil_divide(strip.pixels(), plan_.block_pixels());
    const std::int64_t width = strip.column_count();
    for (std::int64_t block = 0; block < blocks; ++block) {
      const Range pixels = part_of({0, strip.pixels()}, blocks, block);
      const Position first{pixels.first / width, pixels.first % width};
      const Position last{pixels.last / width, pixels.last % width};
      for (std::int64_t b = 0; b < plan_.block_count(patch); ++b) {
        visit_vectors(plan_.block_vectors(patch, b), [&](auto vectors) {
          const Totals block_totals{totals.data + b * totals.block, 0, totals.step};
          WeightOperands<C> block_operands = operands;
          block_operands.panel += b * operands.block;
          multiply_block<decltype(vectors)::value>(patch, strip, first, last, block_operands, lists,
                                                   block_totals, starts && block == 0);
        });
      }
    }
  }

  template <int V>
  void multiply_block(const WeightPatch& patch, const WeightStrip& strip, const Position& first,
                      const Position& last, const WeightOperands<C>& operands,
                      const PairLists& lists, const Totals& totals, bool starts) const {
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
      const std::int64_t x_offset = x_row * strips_.x_steps(strip.x_columns).line;
      for (std::int64_t kw = 0; kw < plan_.column_taps(); ++kw) {
        const std::int64_t begin = from.pixels_before(lists.columns[kw]);
        const std::int64_t count = larger(to.pixels_before(lists.columns[kw]) - begin, 0);
        if (count == 0 && !starts) continue;
        const TileProduct<C> product{operands.panel + (swapped ? x_offset : 0),
                                     operands.rows + (swapped ? 0 : x_offset),
                                     strips_.tile_step(),
                                     strip.samples,
                                     operands.panel_sample,
                                     operands.row_sample,
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

  RowTiles tiles_of(const WeightPatch& patch) const {
    if (!plan_.merges_columns) return strips_.packed_tiles(patch);
    return RowTiles(g_.width.kernel * plan_.row_channels, kRowTile, true);
  }

  template <int V>
  void multiply_tiles(const WeightPatch& patch, const RowTiles& tiles, std::int64_t tap,
                      const Totals& totals, TileProduct<C> product) const {
    const C* rows = product.rows;
    product.total_step =
        (store_.row_of(g_, patch, 1, tap) - store_.row_of(g_, patch, 0, tap)) * totals.step;
    for (std::int64_t tile = 0, count; tile<tiles.count; tile += count> kRowTile ? 2 : 1) {
      count = tiles.rows(tile);
      if (kTakesTwoRowTiles<V> && tile + 1 < tiles.count && count == kRowTile &&
          tiles.rows(tile + 1) == kRowTile) {
        count = 2 * kRowTile;
      }
      product.rows = rows + strips_.tile_offset(tiles, tile);
      product.totals = totals.data + store_.row_of(g_, patch, tiles.first(tile), tap) * totals.step;
      multiply_pairs_of<V>(static_cast<int>(count), product);
    }
  }

  // Rows are the input channels of the taps along the width.
  template <int V>
  void multiply_lines(const RowTiles& tiles, std::int64_t kh, const Totals& totals,
                      TileProduct<C> product) const {
    const C* rows = product.rows;
    product.total_step = totals.step;
    for (std::int64_t tile = 0; tile < tiles.count; ++tile) {
      const std::int64_t first = tiles.first(tile);
      product.rows = rows + first;
      product.totals = totals.data + (kh * tiles.channels + first) * totals.step;
      multiply_pairs_of<V>(static_cast<int>(tiles.rows(tile)), product);
    }
  }

  const Geometry& g_;
  T* const w_;
  const Workspace& workspace_;
  const Plan plan_;
  const WeightScratch<C> scratch_;
  const WeightStrips<T> strips_;
  const WeightStore<T> store_;
};
