// direct.grouped: lanes are neighbouring channels, of several groups, of channels_last images. For
// groups that have as many source as filled channels, G of them, a divisor of the lanes; both the
// convolution and its input gradient.
//
//     filled[n, g, f, pixel] = bias[g, f] + sum over s < G and taps of
//                              w[g, f, s, tap] * source[n, g, s, pixel + tap]
//
// A vector holds Q groups, interleaved: lane i * Q + q is the i-th channel of the q-th group. So
// the s-th channels of the groups adjoin, and a load that repeats these Q elements makes the
// operand of a whole vector of filled channels. It serves all taps of a row of the kernel that the
// pixel is read through.
//
// The source of an item of work (grouped_plan.h) is copied into scratch, [row][vector of channels]
// [column][lane] with zeros where the image is padded. The register tile is R x P pixels by up to K
// = 3 taps of a row of the kernel: of stride 1, P + 2 loads serve 3 P multiply-adds. Bytes: source
// and filled image once, in runs of up to 1 KiB.

template <class T>
class GroupedKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    const Plan plan(gather);
    return {plan.shared_bytes(), static_cast<std::size_t>(plan.thread_elements()) * sizeof(C)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    GroupedKernel(gather, workspace).run_all();
  }

 private:
  using Plan = GroupedPlan<C>;
  using Tables = GroupedTables<T>;
  using ClassPair = typename Tables::ClassPair;
  using Run = typename Tables::Run;
  static constexpr std::int64_t L = kLanes<C>;

  struct Item {
    std::int64_t n, first_block, blocks;
    Range rows, columns;  // of every class
    C *source, *sums;
    LinesAhead* ahead = nullptr;
  };

  GroupedKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather),
        plan_(gather),
        tables_(gather, plan_, workspace.shared<C>()),
        workspace_(workspace) {}

  void run_all() const {
    tables_.write();
    parallel_for(plan_.blocks, plan_.block_weights(),
                 [&](std::int64_t block, int) { tables_.pack_block(block); });
    const std::int64_t cost = plan_.rows * plan_.columns * plan_.item_blocks * L *
                              gather_.source_channels * gather_.kernel_area();
    const std::int64_t block_strips = plan_.block_strips();
    parallel_for(plan_.items(), cost, [&](std::int64_t index, int thread) {
      const std::int64_t block = index % block_strips * plan_.item_blocks;
      index /= block_strips;
      const std::int64_t column = index % plan_.column_strips * plan_.columns;
      index /= plan_.column_strips;
      C* source = workspace_.of_thread<C>(thread);
      run_item({index / plan_.row_strips,
                block,
                smaller(plan_.item_blocks, plan_.blocks - block),
                plan_.strip_rows(index % plan_.row_strips),
                {column, smaller(column + plan_.columns, plan_.columns_reach.count)},
                source,
                source + plan_.source_elements()});
    });
  }

  // The filled part of an item that begins at a row.
  LinesAhead lines_ahead(const Item& item, std::int64_t row) const {
    const AxisTaps &rows = gather_.rows, &columns = gather_.columns;
    const std::int64_t row_step = rows.classes()[0].step, step = columns.classes()[0].step;
    const std::int64_t first = item.columns.first * step;
    const auto bytes = [](std::int64_t elements) { return elements * std::int64_t{sizeof(T)}; };
    const ImageStrides& strides = gather_.filled_strides;
    const auto* image =
        static_cast<const T*>(gather_.filled) + item.n * strides.sample + item.first_block * L;
    return {reinterpret_cast<const char*>(image + row * row_step * strides.row +
                                          first * strides.column),
            bytes(strides.row),
            bytes(strides.column),
            smaller(item.rows.last * row_step, rows.filled_size) - row * row_step,
            smaller(item.columns.last * step, columns.filled_size) - first,
            bytes(smaller(item.blocks * L, plan_.channels - item.first_block * L))};
  }

  void run_item(Item item) const {
    fill_source(item);
    LinesAhead ahead = lines_ahead(item, item.rows.first + plan_.tile_rows);
    item.ahead = &ahead;
    for (std::int64_t row = item.rows.first; row < item.rows.last; row += plan_.tile_rows) {
      for (std::int64_t block = 0; block < item.blocks; ++block) {
        tables_.for_classes([&](const ClassPair& pair) {
          if (row < pair.rows.count) fill_rows(item, pair, block, row);
        });
      }
    }
  }

  // The source that the item reads, zeros where there is none.
  void fill_source(const Item& item) const {
    const ImageStrides& strides = gather_.source_strides;
    const std::int64_t first =
        item.columns.first * plan_.columns_reach.step + plan_.columns_reach.first;
    const std::int64_t begin = smaller(larger(0, -first), plan_.line_columns);
    const Range inside =
        intersection({begin, plan_.line_columns}, {begin, gather_.columns.source_size - first});
    const T* image =
        static_cast<const T*>(gather_.source) + item.n * strides.sample + item.first_block * L;
    C* to = item.source;
    const std::int64_t rows = plan_.rows_reach.elements(item.rows.last - item.rows.first);
    for (std::int64_t r = 0; r < rows; ++r, to += plan_.row_elements()) {
      const std::int64_t h = item.rows.first * plan_.rows_reach.step + plan_.rows_reach.first + r;
      const bool is_inside = h >= 0 && h < gather_.rows.source_size;
      for (std::int64_t block = 0; block < item.blocks; ++block) {
        C* line = to + block * plan_.line;
        fill_zeros(line, {0, is_inside ? inside.first : plan_.line_columns});
        fill_zeros(line, {inside.last, plan_.line_columns});
      }
      if (!is_inside) continue;
      const T* pixel = image + h * strides.row + (first + inside.first) * strides.column;
      for (std::int64_t at = inside.first; at < inside.last; ++at, pixel += strides.column)
        copy_pixel(item, pixel, to + at * L);
    }
  }

  void copy_pixel(const Item& item, const T* pixel, C* to) const {
    const std::int64_t exist = plan_.channels - item.first_block * L;
    const std::int64_t whole = smaller(item.blocks, exist / L);
    for (std::int64_t block = 0; block < whole; ++block)
      store(to + block * plan_.line, permute(load(pixel + block * L), tables_.interleaved()));
    if (whole == item.blocks) return;
    const auto mask = mask_between<C>(0, exist - whole * L);
    store(to + whole * plan_.line,
          permute(load_masked(pixel + whole * L, mask), tables_.interleaved()));
  }

  static void fill_zeros(C* line, const Range& columns) {
    for (std::int64_t i = columns.first; i < columns.last; ++i) store(line + i * L, Vector<C>{});
  }

  // A row of tiles: what they have in common, as far as it is found once.
  struct TileRow {
    const AxisClass& columns;
    std::int64_t exist_rows, lanes;  // that exist, of a tile's rows and of the block
    const C* source;                 // what the pixel of column 0 reads through a tap of offset 0
    T* filled;                       // that pixel
    const C *weights, *bias;
  };

  void fill_rows(const Item& item, const ClassPair& pair, std::int64_t block,
                 std::int64_t row) const {
    const AxisClass &rows = pair.rows, &columns = pair.columns;
    const std::int64_t whole_block = item.first_block + block;
    const std::int64_t row_step = plan_.rows_reach.step * plan_.row_elements();
    const std::int64_t exist_rows = smaller(item.rows.last, rows.count) - row;
    const std::int64_t last = smaller(item.columns.last, columns.count);
    const ImageStrides& strides = gather_.filled_strides;
    const TileRow tiles{
        columns,
        exist_rows,
        smaller(L, plan_.channels - whole_block * L),
        item.source + (row - item.rows.first) * row_step + block * plan_.line -
            (item.columns.first * columns.source_step + plan_.columns_reach.first) * L,
        static_cast<T*>(gather_.filled) + item.n * strides.sample + whole_block * L +
            (rows.first + row * rows.step) * strides.row + columns.first * strides.column,
        tables_.weights(whole_block) + pair.weights,
        tables_.bias(whole_block)};
    GroupedSums<C> sums;  // an initialiser would set it to zero before
    sums.source_row = exist_rows > 1 ? row_step : 0;
    sums.step = columns.source_step;
    sums.rows = rows.taps;
    sums.first_row = plan_.rows_reach.first;
    sums.line = plan_.row_elements();
    sums.channels = gather_.source_channels;
    sums.sums = item.sums;
    sums.filled_row = rows.step * strides.row;
    sums.filled_column = columns.step * strides.column;
    sums.adjacent = tables_.adjacent();
    for (std::int64_t column = item.columns.first; column < last;) {
      const std::int64_t left = last - column;
      if (plan_.tile_columns != kGroupedPixels) {
        fill_tile<1, kGroupedLongRow>(item, tiles, column, left, sums);
        column += kGroupedLongRow;
      } else if (left >= kGroupedWidePixels && columns.taps.count <= 2) {
        fill_tile<kGroupedRows, kGroupedWidePixels>(item, tiles, column, left, sums);
        column += kGroupedWidePixels;
      } else if (left > kGroupedFewPixels) {
        fill_tile<kGroupedRows, kGroupedPixels>(item, tiles, column, left, sums);
        column += kGroupedPixels;
      } else {
        fill_tile<kGroupedRows, kGroupedFewPixels>(item, tiles, column, left, sums);
        column += kGroupedFewPixels;
      }
    }
  }

  // The tile of the row that begins at `column`, of which `left` are left.
  template <int R, int P>
  void fill_tile(const Item& item, const TileRow& tiles, std::int64_t column, std::int64_t left,
                 GroupedSums<C>& sums) const {
    const AxisClass& columns = tiles.columns;
    // Where vectors are short, what a tile fills is little beside the work of asking for it.
    if constexpr (kVectorBytes == 64) item.ahead->advance(R * P / 2);
    const bool whole = tiles.exist_rows >= R && left >= P && tiles.lanes == L;
    T* const to = tiles.filled + column * sums.filled_column;
    const C* const source = tiles.source + column * sums.step * L;
    sums.weights = tiles.weights;
    sums.bias = tiles.bias;
    sums.filled = nullptr;
    Tables::for_runs(columns, [&](Run run) {
      sums.source = source + Tables::ascending(columns, run.first).offset * L;
      if constexpr (std::is_same_v<T, C>) {
        if (whole && run.first + run.count == columns.taps.count) sums.filled = to;
      }
      visit_held(held_, [&](auto held) { add_taps<R, P, decltype(held)::value>(sums, run.count); });
      sums.weights += sums.rows.count * run.count * sums.channels * L;
      sums.bias = nullptr;
    });
    if (sums.filled) return;
    if (sums.bias) fill_with_bias<R * P>(sums);
    const auto mask = mask_between<C>(0, tiles.lanes);
    for (int r = 0; r < R && r < tiles.exist_rows; ++r) {
      for (int p = 0; p < P && p < left; ++p) {
        store_masked(to + r * sums.filled_row + p * sums.filled_column,
                     permute(load(item.sums + (r * P + p) * L), tables_.adjacent()), mask);
      }
    }
  }

  // Positions that no tap reaches.
  template <int PIXELS>
  static void fill_with_bias(const GroupedSums<C>& sums) {
    for (int i = 0; i < PIXELS; ++i) store(sums.sums + i * L, load(sums.bias));
  }

  // visit(VectorCount<Q>{}) with Q groups of a vector.
  template <class Visit>
  HANDCONV_INLINE static void visit_held(std::int64_t held, const Visit& visit) {
    if constexpr (L >= 16) {
      if (held == 8) return visit(VectorCount<8>{});
    }
    if constexpr (L >= 8) {
      if (held == 4) return visit(VectorCount<4>{});
    }
    if constexpr (L >= 4) {
      if (held == 2) return visit(VectorCount<2>{});
    }
    visit(VectorCount<1>{});
  }

  template <int R, int P, int Q>
  static void add_taps(const GroupedSums<C>& sums, std::int64_t taps) {
    if (taps == 1) return add_grouped_taps<C, R, P, 1, 0, Q>(sums);
    if (taps == 2) {
      return sums.step == 1 ? add_grouped_taps<C, R, P, 2, 1, Q>(sums)
                            : add_grouped_taps<C, R, P, 2, 2, Q>(sums);
    }
    if constexpr (R * P <= kGroupedLongRow) {
      sums.step == 1 ? add_grouped_taps<C, R, P, 3, 1, Q>(sums)
                     : add_grouped_taps<C, R, P, 3, 2, Q>(sums);
    }
  }

  const Gather& gather_;
  const std::int64_t held_ = L / gather_.source_channels;  // groups of a vector
  const Plan plan_;
  const Tables tables_;
  const Workspace& workspace_;
};
