// direct.depthwise.channels: lanes are channels, each a group of its own, of channels_last images
// of any type, in place.
//
//     filled[i, c] = bias[c] + sum over taps of w[c, tap] * source[i s + offset(tap), c]
//
// by the tiles of depthwise_channels_tile.h. 3x3 is bound by memory: 8 bytes for 18 FLOPs in
// float32, so rows are read in the order in which they lie.
//
// A group may have several output channels (a multiplier M). Lanes are output channels then too:
// the convolution repeats the channels of x, and the input gradient adds up M lanes at the end.

template <class T>
class DepthwiseChannelsKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) { return Plan(problem, {}).size(); }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    DepthwiseChannelsKernel(problem, buffers, workspace).run_all();
  }

 private:
  using PixelTile = DepthwiseChannelsTile<T>;
  using Step = typename PixelTile::Step;
  using Spot = typename PixelTile::Spot;
  using Plan = DepthwiseChannelsPlan<T>;
  static constexpr int kMostPixels = PixelTile::kMostPixels;
  static constexpr std::int64_t kStripRows = Plan::kStripRows, L = kLanes<C>;

  // The workspace of a thread: which chunk its weight is of, the steps of a tile, the weight as
  // [vector][tap row][tap column][lane], the sums of a tile whose lanes are added up.
  struct Scratch {
    std::int64_t* chunk;
    Step* steps;
    C* weights;
    C* sums;
  };

  DepthwiseChannelsKernel(const Problem& problem, const Buffers& buffers,
                          const Workspace& workspace)
      : plan_(problem, buffers),
        gather_(plan_.gather),
        workspace_(workspace),
        w_lane_(problem.w_strides.out_channel) {
    auto* base = workspace.shared<char>();
    auto* columns = reinterpret_cast<ColumnPlan*>(base);
    auto* runs = reinterpret_cast<TapRun*>(base + plan_.runs_offset());
    for (const AxisClass& axis : gather_.columns.classes()) {
      columns[columns_.count] = plan_columns(axis, gather_.columns.source_size,
                                             shares_loads(axis) ? PixelTile::kMaxTaps : 1, runs);
      runs += columns[columns_.count++].runs.count;
    }
    columns_.first = columns;
  }

  // The pixels of tiles through dilated taps that share loads lie apart, and the last ones of a row
  // stay half empty. With vectors of 64 bytes it is not tried.
  bool shares_loads(const AxisClass& axis) const {
    const std::int64_t spread = columns_apart(axis);
    return spread == 1 || (kVectorBytes == 32 && gather_.columns.classes().count == 1 &&
                           axis.count >= PixelTile::kFewestPixels * spread);
  }

  void run_all() {
    if (gather_.filled_area() == 0) return;
    for (int thread = 0; thread < max_threads(); ++thread) *scratch_of(thread).chunk = -1;
    const std::int64_t cost = kStripRows * gather_.columns.filled_size *
                              (plan_.blocks / plan_.chunks) * plan_.block_weights();
    const std::int64_t rows = gather_.batch * plan_.strips;
    parallel_for(rows * plan_.chunks, cost, [&](std::int64_t item, int thread) {
      // Pixels in the order in which they lie, unless every chunk has to be packed anew.
      const bool packs_all = plan_.packs_all;
      const std::int64_t chunk = packs_all ? item % plan_.chunks : item / rows;
      const std::int64_t row = packs_all ? item / plan_.chunks : item % rows;
      const Scratch scratch = scratch_of(thread);
      const std::int64_t packed = packs_all ? 0 : chunk;
      if (*scratch.chunk != packed) {
        *scratch.chunk = packed;
        const Range blocks{packs_all ? 0 : plan_.chunk_first(chunk),
                           packs_all ? plan_.blocks : plan_.chunk_first(chunk + 1)};
        pack_depthwise_weights(plan_, w_lane_, blocks, scratch.weights);
      }
      fill_strip(chunk, row / plan_.strips, row % plan_.strips * kStripRows, scratch);
    });
  }

  Scratch scratch_of(int thread) const {
    auto* base = workspace_.of_thread<char>(thread);
    auto* weights = reinterpret_cast<C*>(base + Plan::kHeaderBytes + plan_.step_bytes());
    return {reinterpret_cast<std::int64_t*>(base),
            reinterpret_cast<Step*>(base + Plan::kHeaderBytes), weights,
            weights + plan_.packed_blocks() * plan_.block_weights()};
  }

  void fill_strip(std::int64_t chunk, std::int64_t n, std::int64_t first_row,
                  const Scratch& scratch) const {
    for (std::int64_t row = first_row; row < first_row + kStripRows; ++row) {
      for (const AxisClass& rows : gather_.rows.classes()) {
        if (row < rows.count) fill_row(chunk, n, rows, row, scratch);
      }
    }
  }

  // The pixels of all classes of columns in one row of a class.
  void fill_row(std::int64_t chunk, std::int64_t n, const AxisClass& rows, std::int64_t row,
                const Scratch& scratch) const {
    const RowOfTiles tiles{chunk, n, rows, row, list_steps(rows, n, row, scratch.steps)};
    for (std::int64_t residue = 0; residue < columns_[0].spread; ++residue)
      fill_residue(tiles, residue, scratch);
  }

  // Row `row` of a class of rows, whose tiles read so many lines.
  struct RowOfTiles {
    std::int64_t chunk, n;
    const AxisClass& rows;
    std::int64_t row, lines;
  };

  // The positions that lie `residue` behind multiples of the spread.
  void fill_residue(const RowOfTiles& tiles, std::int64_t residue, const Scratch& scratch) const {
    const ImageStrides& filled = gather_.filled_strides;
    T* line = static_cast<T*>(gather_.filled) + tiles.n * filled.sample +
              (tiles.rows.first + tiles.row * tiles.rows.step) * filled.row;
    const std::int64_t spread = columns_[0].spread, all = columns_[0].residue_count(residue);
    for (std::int64_t done = 0, pixels; done < all; done += pixels) {
      pixels = PixelTile::pixels_of_tile(all - done);
      const std::int64_t first = residue + done * spread, next = first + pixels * spread;
      // What comes next is the task of the first class, and of the first residue.
      std::int64_t ahead = plan_.fetches_ahead && residue == 0 ? pixels * spread : 0;
      // Classes innermost: they read the same pixels.
      Step* steps = scratch.steps;
      for (const ColumnPlan& columns : columns_) {
        const std::int64_t rest = columns.residue_count(residue) - done;
        const std::int64_t count = tiles.lines * columns.runs.count;
        if (rest <= 0) continue;
        const Spot spot{
            static_cast<int>(pixels),
            smaller(rest, pixels),
            line + (columns.first + first * columns.step) * filled.column,
            spread * columns.step * filled.column,
            {steps, count},
            first * columns.source_step * gather_.source_strides.column,
            columns.unit * gather_.source_strides.column,
            gather_.kernel_area() * L,
            find_inside(columns, first, pixels, tiles.lines, steps),
            next_source<T>(gather_, tiles.n, tiles.rows, tiles.row, columns, next, ahead),
            next_filled(gather_, line, columns, next, ahead)};
        fill_spot(spot, tiles.chunk, scratch);
        steps += count;
        ahead = 0;
      }
    }
  }

  // The steps of a row, class of columns by class, for each of the lines of the source that exist;
  // returns their number.
  std::int64_t list_steps(const AxisClass& rows, std::int64_t n, std::int64_t row,
                          Step* steps) const {
    const ImageStrides& strides = gather_.source_strides;
    const T* source = static_cast<const T*>(gather_.source) + n * strides.sample;
    std::int64_t lines = 0;
    for (const ColumnPlan& columns : columns_) {
      lines = 0;
      for (const Tap& tap : rows.taps) {
        const std::int64_t h = row * rows.source_step + tap.offset;
        if (h < 0 || h >= gather_.rows.source_size) continue;
        ++lines;
        for (const TapRun& run : columns.runs) {
          *steps++ = {source + h * strides.row + run.column * strides.column,
                      (tap.kernel * gather_.columns.kernel_size + run.kernel) * L,
                      run.kernel_step * L, 0, static_cast<std::int32_t>(run.taps)};
        }
      }
    }
    return lines;
  }

  // Finds which columns the tile of `pixels` pixels from position `first` on has inside; true if it
  // has all that it reads.
  bool find_inside(const ColumnPlan& columns, std::int64_t first, std::int64_t pixels,
                   std::int64_t lines, Step* steps) const {
    const std::int64_t runs = columns.runs.count;
    bool all = true;
    for (std::int64_t i = 0; i < runs; ++i) {
      const std::int64_t column = first * columns.source_step + columns.runs[i].column;
      const std::int64_t more = columns.runs[i].taps - 1;
      const std::uint32_t read = (1u << (pixels + more)) - 1;
      const std::uint32_t inside =
          columns_inside(column, columns.unit, columns.source_size, kMostPixels + more);
      all &= (inside & read) == read;
      for (std::int64_t line = 0; line < lines; ++line) steps[line * runs + i].inside = inside;
    }
    return all;
  }

  void fill_spot(const Spot& spot, std::int64_t chunk, const Scratch& scratch) const {
    Range blocks{plan_.chunk_first(chunk), plan_.chunk_first(chunk + 1)};
    const C* weights =
        scratch.weights + (plan_.packs_all ? blocks.first * plan_.block_weights() : 0);
    if (plan_.multiplier == 1) {
      const Range full{blocks.first, smaller(blocks.last, plan_.out_channels / L)};
      blocks.first = fill_full_lanes(spot, full, weights);
      weights += (blocks.first - full.first) * spot.block_weights;
    }
    for (; blocks.first < blocks.last; ++blocks.first, weights += plan_.block_weights()) {
      plan_.adds_lanes ? add_lanes(spot, blocks.first, weights, scratch)
                       : fill_some_lanes(spot, blocks.first * L, weights);
    }
  }

  // Fills full vectors of channels; returns the first that is left over.
  std::int64_t fill_full_lanes(const Spot& spot, Range blocks, const C* weights) const {
    switch (spot.pixels) {
      case 1:
        return fill_full_pixels<1>(spot, blocks, weights);
      case 4:
        return fill_full_pixels<4>(spot, blocks, weights);
      case 7:
        return fill_full_pixels<7>(spot, blocks, weights);
      default:
        return fill_full_pixels<kMostPixels>(spot, blocks, weights);
    }
  }

  template <int P>
  std::int64_t fill_full_pixels(const Spot& spot, Range blocks, const C* weights) const {
    constexpr int V = P == 1 ? PixelTile::kVectorsOfPixel : PixelTile::kVectors;
    if constexpr (V == 1) {
      if (gather_.kernel_area() >= BlockedTile<C, 1, 1>::kTerms) return blocks.first;
      const std::int64_t lane = blocks.first * L, count = blocks.last - blocks.first;
      const auto* bias = static_cast<const T*>(gather_.bias);
      if (bias) bias += lane;
      spot.is_interior
          ? PixelTile::template fill_vectors<P, false>(spot, lane, count, weights, bias)
          : PixelTile::template fill_vectors<P, true>(spot, lane, count, weights, bias);
      return larger(blocks.first, blocks.last);
    } else {
      const std::int64_t rest = fill_full_tiles<P, V>(spot, blocks, weights);
      weights += (rest - blocks.first) * spot.block_weights;
      return fill_full_tiles<P, 1>(spot, {rest, blocks.last}, weights);
    }
  }

  // Full vectors, V at a time; returns the first that is left over.
  template <int P, int V>
  std::int64_t fill_full_tiles(const Spot& spot, Range blocks, const C* weights) const {
    const Mask<C> all = mask_between<C>(0, L);
    std::int64_t block = blocks.first;
    for (; block + V <= blocks.last; block += V, weights += V * spot.block_weights) {
      const std::int64_t lane = block * L;
      Vector<C> start[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) start[v] = start_of(lane + v * L, all);
      T* filled = spot.filled + lane;
      spot.is_interior ? PixelTile::template fill<P, V, false>(spot, lane, weights, start,
                                                               FullLanes<T>{}, filled, all)
                       : PixelTile::template fill<P, V, true>(spot, lane, weights, start,
                                                              FullLanes<T>{}, filled, all);
    }
    return block;
  }

  // A vector of lanes that need not be full and may repeat a channel of x.
  void fill_some_lanes(const Spot& spot, std::int64_t lane, const C* weights) const {
    const LaneVector<T> lanes(lane, plan_.out_channels, plan_.multiplier);
    const Vector<C> start[1] = {start_of(lane, lanes.mask)};
    T* filled = spot.filled + lane;
    if (plan_.multiplier > 1) {
      const RepeatedLanes<T> repeated{lanes.x_mask, lanes.index};
      PixelTile::template fill<kMostPixels, 1, true>(spot, lanes.x_first(), weights, start,
                                                     repeated, filled, lanes.mask);
    } else {
      const TailLanes<T> tail{lanes.mask};
      PixelTile::template fill<kMostPixels, 1, true>(spot, lane, weights, start, tail, filled,
                                                     lanes.mask);
    }
  }

  Vector<C> start_of(std::int64_t channel, Mask<C> mask) const {
    const auto* bias = static_cast<const T*>(gather_.bias);
    return bias ? load_masked(bias + channel, mask) : Vector<C>{};
  }

  // The input gradient of groups of several output channels: M vectors of lanes go to scratch.sums,
  // and every M lanes are one channel of x.
  void add_lanes(const Spot& spot, std::int64_t block, const C* weights,
                 const Scratch& scratch) const {
    const std::int64_t multiplier = plan_.multiplier, pixel_sums = multiplier * L;
    Spot sums_spot = spot;
    sums_spot.filled_pixel = pixel_sums;
    for (std::int64_t v = 0; v < multiplier; ++v, weights += gather_.kernel_area() * L) {
      const std::int64_t first = (block * multiplier + v) * L;
      if (first >= plan_.out_channels) break;
      const auto mask = mask_between<C>(0, plan_.out_channels - first);
      const Vector<C> zero[1] = {};
      PixelTile::template fill<kMostPixels, 1, true>(sums_spot, first, weights, zero,
                                                     TailLanes<T>{mask}, scratch.sums + v * L,
                                                     mask_between<C>(0, L));
    }
    const auto mask = mask_between<C>(0, gather_.filled_channels * gather_.groups - block * L);
    const Vector<C> start = start_of(block * L, mask);
    for (std::int64_t p = 0; p < spot.pixel_count; ++p) {
      const C* sums = scratch.sums + p * pixel_sums;
      Vector<C> sum = start;
      for (std::int64_t m = 0; m < multiplier; ++m) {
        sum += load_strided(sums + m, multiplier, mask);
      }
      store_masked(spot.filled + p * spot.filled_pixel + block * L, sum, mask);
    }
  }

  Plan plan_;
  const Gather& gather_;
  const Workspace& workspace_;
  std::int64_t w_lane_;
  Span<ColumnPlan> columns_{nullptr, 0};
};
