// direct.depthwise.channels: lanes are channels, each a group of its own, of channels_last images
// of any type, in place.
//
//     filled[i, c] = bias[c] + sum over taps of w[c, tap] * source[i s + offset(tap), c]
//
// A tile is kRows x kPixels pixels by one vector of channels, its sums in registers. A row of the
// kernel is walked in runs of up to 3 taps (depthwise_columns.h): kPixels + 2 loads of source
// pixels serve 3 kPixels multiply-adds. 3x3 is bound by memory: 8 bytes for 18 FLOPs in float32, so
// the vectors of a pixel are innermost, and rows are read in the order in which they lie. Tried:
// software prefetch and non-temporal stores, both slower.
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
  static constexpr int kRows = kVectorBytes == 64 ? 2 : 1, kPixels = 7;
  static constexpr int kMaxTaps = 3;  // of a run; more serve windows that direct.packed takes
  static constexpr std::int64_t kStripRows = 2;  // of each class, that make an item
  static constexpr std::int64_t L = kLanes<C>;
  using Tile = BlockedTile<C, kRows * kPixels, 1>;

  // A run of taps of one row of the kernel, as a tile goes through it.
  struct Step {
    const T* lines[kRows];  // where column 0 of each row lies, for channel 0; null outside
    std::int64_t weight, weight_step;  // of the first tap, and from one to the next
    std::uint32_t inside;              // which columns lie inside
    std::int32_t taps;
  };

  // How the work is cut, and what lies where in the workspace.
  struct Plan {
    Plan(const Problem& problem, const Buffers& buffers)
        : gather(problem, buffers),
          out_channels(problem.geometry.out_channels),
          multiplier(problem.geometry.out_channels_per_group()),
          adds_lanes(problem.slot == Slot::kInput && multiplier > 1),
          block_vectors(adds_lanes ? multiplier : 1) {
      const std::int64_t filled = gather.groups * gather.filled_channels;
      blocks = ceil_divide(filled, L);
      strips = ceil_divide(gather.rows.classes()[0].count, kStripRows);
      // The weight of a chunk stays in the L1 cache, and there are items enough for many threads.
      constexpr std::int64_t kChunkBytes = 24 << 10, kItems = 16, kPackedBytes = 64 << 10;
      const std::int64_t bytes = blocks * block_weights() * static_cast<std::int64_t>(sizeof(C));
      // Rows of the source that strips share should still lie in the L2 cache when the next strip
      // comes: if they are too long for that, an item takes fewer channels of more of them.
      constexpr std::int64_t kWindowBytes = 512 << 10;
      const std::int64_t window = window_bytes();
      packs_all = bytes <= kPackedBytes && window <= kWindowBytes;
      chunks = ceil_divide(bytes, kChunkBytes);
      if (window > kWindowBytes) chunks = larger(chunks, ceil_divide(window, kWindowBytes / 2));
      while (chunks * strips < kItems) chunks *= 2;
      if (chunks > blocks) chunks = blocks;
    }

    // Of the source rows that a strip reads.
    std::int64_t window_bytes() const {
      const AxisClass& rows = gather.rows.classes()[0];
      const std::int64_t taps = rows.taps.count;
      if (taps == 0) return 0;
      const std::int64_t reach = rows.taps[taps - 1].offset - rows.taps[0].offset;
      return (larger(reach, -reach) + kStripRows * rows.source_step) * gather.source_strides.row *
             static_cast<std::int64_t>(sizeof(T));
    }
    std::int64_t block_weights() const { return block_vectors * gather.kernel_area() * L; }
    std::int64_t chunk_first(std::int64_t chunk) const { return blocks * chunk / chunks; }
    std::int64_t packed_blocks() const { return packs_all ? blocks : ceil_divide(blocks, chunks); }

    WorkspaceSize size() const {
      const std::int64_t sums = adds_lanes ? kRows * kPixels * block_vectors * L : 0;
      return {static_cast<std::size_t>(runs_offset() + run_bytes()),
              kHeaderBytes + static_cast<std::size_t>(step_bytes()) +
                  sizeof(C) * static_cast<std::size_t>(packed_blocks() * block_weights() + sums)};
    }
    std::int64_t runs_offset() const {
      return gather.columns.classes().count * static_cast<std::int64_t>(sizeof(ColumnPlan));
    }
    std::int64_t run_bytes() const {
      return gather.columns.kernel_size * static_cast<std::int64_t>(sizeof(TapRun));
    }
    std::int64_t step_bytes() const {
      return (gather.kernel_area() * static_cast<std::int64_t>(sizeof(Step)) + 63) / 64 * 64;
    }

    Gather gather;
    std::int64_t out_channels, multiplier;
    bool adds_lanes;
    std::int64_t block_vectors;  // of lanes that make one vector of filled channels
    std::int64_t blocks, strips, chunks;
    bool packs_all;  // a thread packs the whole weight, once
  };

  // The workspace of a thread: which chunk its weight is of, the steps of a tile, the weight as
  // [vector][tap row][tap column][lane], the sums of a tile whose lanes are added up.
  static constexpr std::size_t kHeaderBytes = 64;
  struct Scratch {
    std::int64_t* chunk;
    Step* steps;
    C* weights;
    C* sums;
  };

  // Where a tile lies, and how it is filled: the same for every vector of channels.
  struct Spot {
    std::int64_t row_count, pixel_count;    // that exist
    T* filled;                              // its first pixel
    std::int64_t filled_row, filled_pixel;  // from one to the next
    Span<Step> steps;
    std::int64_t unit;  // between columns of the source
    bool is_interior;   // every column of every step lies inside
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
      ColumnPlan& plan = columns[columns_.count++];
      plan = plan_columns(axis, gather_.columns.source_size, kMaxTaps, runs);
      runs += plan.runs.count;
    }
    columns_.first = columns;
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
        pack(packs_all ? 0 : plan_.chunk_first(chunk),
             packs_all ? plan_.blocks : plan_.chunk_first(chunk + 1), scratch);
      }
      fill_strip(chunk, row / plan_.strips, row % plan_.strips * kStripRows, scratch);
    });
  }

  Scratch scratch_of(int thread) const {
    auto* base = workspace_.of_thread<char>(thread);
    auto* weights = reinterpret_cast<C*>(base + kHeaderBytes + plan_.step_bytes());
    return {reinterpret_cast<std::int64_t*>(base), reinterpret_cast<Step*>(base + kHeaderBytes),
            weights, weights + plan_.packed_blocks() * plan_.block_weights()};
  }

  void pack(std::int64_t first_block, std::int64_t last_block, const Scratch& scratch) const {
    const std::int64_t area = gather_.kernel_area(), width = gather_.columns.kernel_size;
    const std::int64_t first = first_block * plan_.block_vectors * L;
    std::int64_t last = last_block * plan_.block_vectors * L;
    if (last > plan_.out_channels) last = plan_.out_channels;
    C* target = scratch.weights;
    for (std::int64_t lane = first; lane < last; lane += L, target += area * L) {
      const T* w = static_cast<const T*>(gather_.w) + lane * w_lane_;
      const std::int64_t lanes = last - lane < L ? last - lane : L;
      if (lanes < L) {
        for (std::int64_t i = 0; i < area * L; ++i) target[i] = 0;
      }
      if (gather_.w_column == 1 && gather_.w_row == width) {
        transpose_matrix(w, w_lane_, lanes, area, target, L);
        continue;
      }
      for (std::int64_t tap = 0; tap < area; ++tap) {
        const T* element = w + tap / width * gather_.w_row + tap % width * gather_.w_column;
        for (std::int64_t i = 0; i < lanes; ++i) {
          target[tap * L + i] = to_compute(element[i * w_lane_]);
        }
      }
    }
  }

  void fill_strip(std::int64_t chunk, std::int64_t n, std::int64_t first_row,
                  const Scratch& scratch) const {
    const std::int64_t most_rows = gather_.rows.classes()[0].count;
    const std::int64_t rest = most_rows - first_row;
    const std::int64_t last_row = first_row + (rest < kStripRows ? rest : kStripRows);
    const std::int64_t most_columns = columns_[0].count;
    for (std::int64_t row = first_row; row < last_row; row += kRows) {
      // Classes innermost: they read the same pixels.
      for (std::int64_t i = 0; i < most_columns; i += kPixels) {
        for (const ColumnPlan& columns : columns_) {
          fill_columns(chunk, n, row, last_row, i, columns, scratch);
        }
      }
    }
  }

  // The pixels of a class in kPixels columns of each residue, `i` being their first number within
  // the residue.
  void fill_columns(std::int64_t chunk, std::int64_t n, std::int64_t row, std::int64_t last_row,
                    std::int64_t i, const ColumnPlan& columns, const Scratch& scratch) const {
    const auto smaller = [](std::int64_t a, std::int64_t b) { return a < b ? a : b; };
    for (std::int64_t residue = 0; residue < columns.spread; ++residue) {
      const std::int64_t count = smaller(columns.residue_count(residue) - i, kPixels);
      if (count <= 0) break;
      const std::int64_t position = residue + i * columns.spread;
      const std::int64_t source_column = position * columns.source_step;
      for (const AxisClass& rows : gather_.rows.classes()) {
        const std::int64_t row_count = smaller(smaller(rows.count, last_row) - row, kRows);
        if (row_count <= 0) continue;
        const ImageStrides& filled = gather_.filled_strides;
        Spot spot{row_count,
                  count,
                  static_cast<T*>(gather_.filled) + n * filled.sample +
                      (rows.first + row * rows.step) * filled.row +
                      (columns.first + position * columns.step) * filled.column,
                  rows.step * filled.row,
                  columns.spread * columns.step * filled.column,
                  {scratch.steps, 0},
                  columns.unit * gather_.source_strides.column,
                  true};
        list_steps(rows, columns, n, row, source_column, scratch.steps, spot);
        fill_spot(spot, chunk, scratch);
      }
    }
  }

  // Those steps of a tile that lie inside the source, at least in part.
  void list_steps(const AxisClass& rows, const ColumnPlan& columns, std::int64_t n,
                  std::int64_t row, std::int64_t source_column, Step* steps, Spot& spot) const {
    const ImageStrides& strides = gather_.source_strides;
    const T* source = static_cast<const T*>(gather_.source) + n * strides.sample;
    const std::int64_t height = gather_.rows.source_size;
    for (const Tap& tap : rows.taps) {
      std::int64_t lines[kRows];
      bool any = false;
      for (int r = 0; r < kRows; ++r) {
        const std::int64_t h = (row + r) * rows.source_step + tap.offset;
        const bool exists = r < spot.row_count &&
                            static_cast<std::uint64_t>(h) < static_cast<std::uint64_t>(height);
        lines[r] = exists ? h : -1;
        any |= exists;
      }
      if (!any) continue;
      for (const TapRun& run : columns.runs) {
        const std::int64_t column = source_column + run.column, reads = kPixels + run.taps - 1;
        const std::uint32_t inside =
            columns_inside(column, columns.unit, columns.source_size, reads);
        if (inside == 0) continue;
        spot.is_interior &= inside == (1u << reads) - 1;
        Step& step = steps[spot.steps.count++];
        for (int r = 0; r < kRows; ++r) {
          step.lines[r] =
              lines[r] < 0 ? nullptr : source + lines[r] * strides.row + column * strides.column;
        }
        step.weight = (tap.kernel * gather_.columns.kernel_size + run.kernel) * L;
        step.weight_step = run.kernel_step * L;
        step.inside = inside;
        step.taps = static_cast<std::int32_t>(run.taps);
      }
    }
  }

  void fill_spot(const Spot& spot, std::int64_t chunk, const Scratch& scratch) const {
    const std::int64_t first_block = plan_.chunk_first(chunk);
    const C* weights =
        scratch.weights + (plan_.packs_all ? first_block * plan_.block_weights() : 0);
    const std::int64_t vector_weights = gather_.kernel_area() * L;
    const std::int64_t last_block = plan_.chunk_first(chunk + 1);
    for (std::int64_t block = first_block; block < last_block; ++block) {
      if (plan_.adds_lanes) {
        add_lanes(spot, block, weights, scratch);
        weights += plan_.block_weights();
        continue;
      }
      const LaneVector<T> lanes(block * L, plan_.out_channels, plan_.multiplier);
      const Vector<C> start = start_of(lanes.first, lanes.mask);
      T* filled = spot.filled + lanes.first;
      if (plan_.multiplier > 1) {
        const RepeatedLanes<T> repeated{lanes.x_mask, lanes.index};
        fill_tile<true>(spot, lanes.x_first(), weights, start, repeated, filled, lanes.mask);
      } else if (!lanes.is_full()) {
        const TailLanes<T> tail{lanes.mask};
        fill_tile<true>(spot, lanes.first, weights, start, tail, filled, lanes.mask);
      } else if (!spot.is_interior) {
        fill_tile<true>(spot, lanes.first, weights, start, FullLanes<T>{}, filled, lanes.mask);
      } else {
        fill_tile<false>(spot, lanes.first, weights, start, FullLanes<T>{}, filled, lanes.mask);
      }
      weights += vector_weights;
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
    sums_spot.filled_row = kPixels * pixel_sums;
    sums_spot.filled_pixel = pixel_sums;
    for (std::int64_t v = 0; v < multiplier; ++v, weights += gather_.kernel_area() * L) {
      const std::int64_t first = (block * multiplier + v) * L;
      if (first >= plan_.out_channels) break;
      const auto mask = mask_between<C>(0, plan_.out_channels - first);
      fill_tile<true>(sums_spot, first, weights, Vector<C>{}, TailLanes<T>{mask},
                      scratch.sums + v * L, mask_between<C>(0, L));
    }
    const auto mask = mask_between<C>(0, gather_.filled_channels * gather_.groups - block * L);
    const Vector<C> start = start_of(block * L, mask);
    for (std::int64_t r = 0; r < spot.row_count; ++r) {
      for (std::int64_t p = 0; p < spot.pixel_count; ++p) {
        const C* sums = scratch.sums + (r * kPixels + p) * pixel_sums;
        Vector<C> sum = start;
        for (std::int64_t m = 0; m < multiplier; ++m) {
          sum += load_strided(sums + m, multiplier, mask);
        }
        store_masked(spot.filled + r * spot.filled_row + p * spot.filled_pixel + block * L, sum,
                     mask);
      }
    }
  }

  // Fills the pixels of a tile by one vector, into elements of type U from `filled` on.
  template <bool kChecked, class Load, class U>
  [[gnu::noinline]] static void fill_tile(const Spot& spot, std::int64_t source_channel,
                                          const C* weights, Vector<C> start, Load load_pixel,
                                          U* filled, Mask<C> mask) {
    Tile tile;
#pragma GCC unroll 16
    for (int i = 0; i < kRows * kPixels; ++i) tile.block.sums[i][0] = start;
    for (const Step& step : spot.steps) {
      switch (step.taps) {
        case 1:
          add_step<1, kChecked>(tile, step, source_channel, spot.unit, weights, load_pixel);
          break;
        case 2:
          add_step<2, kChecked>(tile, step, source_channel, spot.unit, weights, load_pixel);
          break;
        default:
          add_step<kMaxTaps, kChecked>(tile, step, source_channel, spot.unit, weights, load_pixel);
      }
      tile.note_terms(step.taps);
    }
    tile.finish();
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
      if (r >= spot.row_count) break;
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
        if (p >= spot.pixel_count) break;
        store_masked(pixel_at(filled + r * spot.filled_row, p, spot.filled_pixel),
                     tile.block.sums[r * kPixels + p][0], mask);
      }
    }
  }

  // K taps, which read K + kPixels - 1 columns of each line.
  template <int K, bool kChecked, class Load>
  HANDCONV_INLINE static void add_step(Tile& tile, const Step& step, std::int64_t channel,
                                       std::int64_t unit, const C* weights, Load load_pixel) {
    Vector<C> weight[K];
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) weight[k] = load(weights + step.weight + k * step.weight_step);
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
      if (!step.lines[r]) continue;
      const T* line = step.lines[r] + channel;
#pragma GCC unroll 16
      for (int j = 0; j < kPixels + K - 1; ++j) {
        // The same for all lanes and rarely mispredicted; a path of its own for pixels at the edge
        // costs more, and so does a jump for every column that lies inside.
        if (kChecked && __builtin_expect(!(step.inside >> j & 1), 0)) continue;
        const Vector<C> pixel = load_pixel(pixel_at(line, j, unit));
#pragma GCC unroll 4
        for (int k = 0; k < K; ++k) {
          const int p = j - k;
          if (p < 0 || p >= kPixels) continue;
          Vector<C>& sum = tile.block.sums[r * kPixels + p][0];
          sum = fma(pixel, weight[k], sum);
        }
      }
    }
  }

  // line + i * unit from multiples of unit that several pixels share and that addresses scale.
  template <class U>
  HANDCONV_INLINE static U* pixel_at(U* line, int i, std::int64_t unit) {
    U* base = i < 5 ? line : line + 5 * unit;
    const int rest = i % 5;
    return rest == 3 ? base + 3 * unit : base + rest * unit;
  }

  Plan plan_;
  const Gather& gather_;
  const Workspace& workspace_;
  std::int64_t w_lane_;
  Span<ColumnPlan> columns_{nullptr, 0};
};
