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
// An item of work is some rows by one vector of channels. Their source is copied into scratch,
// [row][column][lane] with zeros where the image is padded, of some tens of KiB. The register tile
// is kRows x P pixels by up to K = 3 taps of a row of the kernel: of stride 1, P + 2 loads serve 3
// P multiply-adds. Bytes: source and filled image once, in whole cache lines.

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
  static constexpr std::int64_t L = kLanes<C>;
  static constexpr int kPixels = 7, kFewPixels = 4, kTaps = 3;

  // How the work is cut: by the shape of a sample alone.
  struct Plan {
    explicit Plan(const Gather& gather)
        : gather(gather), rows_reach(gather.rows), columns_reach(gather.columns) {
      constexpr std::int64_t kBytes = 24 << 10;
      channels = gather.groups * gather.filled_channels;
      blocks = ceil_divide(channels, L);
      std::int64_t columns = columns_reach.count / kPixels * kPixels;
      const std::int64_t rest = columns_reach.count - columns;
      columns += rest > kFewPixels ? kPixels : rest > 0 ? kFewPixels : 0;
      line = columns ? columns_reach.elements(columns) * L : L;
      const std::int64_t fit = kBytes / (line * static_cast<std::int64_t>(sizeof(C)));
      const std::int64_t halo = rows_reach.last - rows_reach.first + 1;
      rows = larger((fit - halo) / rows_reach.step + 1, 2 * (halo - 1) / rows_reach.step);
      rows = larger(rows, kGroupedRows);
      const std::int64_t total = larger(1, rows_reach.count);
      rows = round_up(ceil_divide(total, ceil_divide(total, rows)), kGroupedRows);
      strips = ceil_divide(rows_reach.count, rows);
    }

    std::int64_t block_weights() const { return gather.kernel_area() * gather.source_channels * L; }
    std::size_t shared_bytes() const {
      return static_cast<std::size_t>(blocks * (block_weights() + L) + 2 * L) * sizeof(C) +
             static_cast<std::size_t>(gather.kernel_area()) * sizeof(TapPlace);
    }
    std::int64_t source_elements() const { return rows_reach.elements(rows) * line; }
    std::int64_t thread_elements() const { return source_elements() + kGroupedRows * kPixels * L; }

    const Gather& gather;
    const AxisReach rows_reach, columns_reach;
    std::int64_t channels, blocks;  // of the image, and vectors of them
    std::int64_t line;              // elements of a row in scratch
    std::int64_t rows, strips;      // of every class, of an item
  };

  // Taps of a row of the kernel that lie next to each other, or one, by ascending offset.
  struct Run {
    std::int64_t first, count;
  };

  struct Item {
    std::int64_t n, block, first_row, rows;
    C *source, *sums;
  };

  GroupedKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather), plan_(gather), workspace_(workspace) {}

  C* weights() const { return workspace_.shared<C>(); }
  C* biases() const { return weights() + plan_.blocks * plan_.block_weights(); }
  // The channel of a vector in memory that is a lane, and the lane that is a channel.
  LaneIndex<C>* interleaved() const {
    return static_cast<LaneIndex<C>*>(static_cast<void*>(biases() + plan_.blocks * L));
  }
  LaneIndex<C>* adjacent() const { return interleaved() + L; }
  TapPlace* places() const { return static_cast<TapPlace*>(static_cast<void*>(adjacent() + L)); }

  void run_all() const {
    write_tables();
    parallel_for(plan_.blocks, plan_.block_weights(),
                 [&](std::int64_t block, int) { pack_block(block); });
    const std::int64_t cost = plan_.rows * gather_.columns.filled_size * L *
                              gather_.rows.classes().count * gather_.cost_per_element();
    parallel_for(
        gather_.batch * plan_.strips * plan_.blocks, cost, [&](std::int64_t index, int thread) {
          const std::int64_t strip = index / plan_.blocks % plan_.strips;
          C* source = workspace_.of_thread<C>(thread);
          run_item({index / plan_.blocks / plan_.strips, index % plan_.blocks, strip * plan_.rows,
                    smaller(plan_.rows, plan_.rows_reach.count - strip * plan_.rows), source,
                    source + plan_.source_elements()});
        });
  }

  // The i-th tap by ascending offset.
  static const Tap& ascending(const AxisClass& columns, std::int64_t i) {
    const Span<Tap>& taps = columns.taps;
    return taps[taps[0].offset <= taps[taps.count - 1].offset ? i : taps.count - 1 - i];
  }

  // visit(run) over the taps of a row of the kernel.
  template <class Visit>
  HANDCONV_INLINE static void for_runs(const AxisClass& columns, const Visit& visit) {
    const std::int64_t count = columns.taps.count;
    const bool adjoin = count > 1 && columns.source_step <= 2 &&
                        ascending(columns, 1).offset - ascending(columns, 0).offset == 1;
    for (std::int64_t first = 0; first < count;) {
      const Run run{first, adjoin ? smaller(kTaps, count - first) : 1};
      visit(run);
      first += run.count;
    }
  }

  // visit(row class, column class, weights of the classes before)
  template <class Visit>
  HANDCONV_INLINE void for_classes(const Visit& visit) const {
    std::int64_t weights = 0;
    for (const AxisClass& rows : gather_.rows.classes()) {
      for (const AxisClass& columns : gather_.columns.classes()) {
        visit(rows, columns, weights);
        weights += rows.taps.count * columns.taps.count * gather_.source_channels * L;
      }
    }
  }

  void write_tables() const {
    const std::int64_t size = gather_.filled_channels, held = L / size;
    for (std::int64_t lane = 0; lane < L; ++lane) {
      const std::int64_t channel = lane % held * size + lane / held;
      interleaved()[lane] = static_cast<LaneIndex<C>>(channel);
      adjacent()[channel] = static_cast<LaneIndex<C>>(lane);
    }
    for (std::int64_t tap = 0; tap < gather_.kernel_area(); ++tap) places()[tap] = {0, 0};
    std::int64_t first = 0;
    for_classes([&](const AxisClass& rows, const AxisClass& columns, std::int64_t) {
      for_runs(columns, [&](Run run) {
        for (const Tap& row : rows.taps) {
          for (std::int64_t k = 0; k < run.count; ++k) {
            const Tap& column = ascending(columns, run.first + k);
            places()[row.kernel * gather_.columns.kernel_size + column.kernel] = {first + k,
                                                                                  run.count};
          }
          first += size * run.count;
        }
      });
    });
  }

  void pack_block(std::int64_t block) const {
    const std::int64_t group = block * (L / gather_.filled_channels);
    const GroupedWeightPacker<T> packer(gather_, places(), group, gather_.groups - group);
    packer.pack(interleaved(), weights() + block * plan_.block_weights());
    const auto* bias = static_cast<const T*>(gather_.bias);
    for (std::int64_t lane = 0; lane < L; ++lane) {
      const std::int64_t channel = block * L + interleaved()[lane];
      biases()[block * L + lane] =
          bias && channel < plan_.channels ? to_compute(bias[channel]) : C(0);
    }
  }

  void run_item(const Item& item) const {
    fill_source(item);
    for_classes([&](const AxisClass& rows, const AxisClass& columns, std::int64_t weights) {
      const C* packed = this->weights() + item.block * plan_.block_weights() + weights;
      const std::int64_t count = smaller(item.rows, rows.count - item.first_row);
      for (std::int64_t row = 0; row < count; row += kGroupedRows) {
        for (std::int64_t column = 0; column < columns.count;) {
          const std::int64_t rest = columns.count - column;
          rest > kFewPixels
              ? fill_tile<kPixels>(item, rows, columns, packed, row, count - row, column)
              : fill_tile<kFewPixels>(item, rows, columns, packed, row, count - row, column);
          column += rest > kFewPixels ? kPixels : kFewPixels;
        }
      }
    });
  }

  // The source rows that the item reads, zeros where there are none.
  void fill_source(const Item& item) const {
    const ImageStrides& strides = gather_.source_strides;
    const std::int64_t channel = item.block * L;
    const auto mask = mask_between<C>(0, plan_.channels - channel);
    const T* image = static_cast<const T*>(gather_.source) + item.n * strides.sample + channel;
    const std::int64_t lead = smaller(-plan_.columns_reach.first * L, plan_.line);
    const std::int64_t size = gather_.columns.source_size * L;
    C* to = item.source;
    for (std::int64_t r = 0; r < plan_.rows_reach.elements(item.rows); ++r, to += plan_.line) {
      const std::int64_t h = item.first_row * plan_.rows_reach.step + plan_.rows_reach.first + r;
      std::int64_t at = 0;
      if (h >= 0 && h < gather_.rows.source_size) {
        const T* from = image + h * strides.row;
        for (; at < lead; at += L) store(to + at, Vector<C>{});
        const T* pixel = from + (at - lead) / L * strides.column;
        for (; at < plan_.line && at - lead < size; at += L, pixel += strides.column) {
          __builtin_prefetch(pixel + L);
          store(to + at, permute(load_masked(pixel, mask), interleaved()));
        }
      }
      for (; at < plan_.line; at += L) store(to + at, Vector<C>{});
    }
  }

  template <int P>
  void fill_tile(const Item& item, const AxisClass& rows, const AxisClass& columns,
                 const C* weights, std::int64_t row, std::int64_t rest, std::int64_t column) const {
    for_pixels<P>(item, rows, columns, row, rest, column,
                  [](T* pixel, std::int64_t) { __builtin_prefetch(pixel, 1); });
    const Vector<C> bias = load(biases() + item.block * L);
#pragma GCC unroll 16
    for (int i = 0; i < kGroupedRows * P; ++i) store(item.sums + i * L, bias);
    const std::int64_t step = columns.source_step;
    for_runs(columns, [&](Run run) {
      const std::int64_t first =
          column * step + ascending(columns, run.first).offset - plan_.columns_reach.first;
      const GroupedSums<C> sums{item.source + row * plan_.rows_reach.step * plan_.line + first * L,
                                rest > 1 ? plan_.rows_reach.step * plan_.line : 0,
                                step,
                                rows.taps,
                                plan_.rows_reach.first,
                                plan_.line,
                                gather_.source_channels,
                                weights,
                                item.sums};
      weights += rows.taps.count * run.count * gather_.source_channels * L;
      visit_held(L / gather_.source_channels,
                 [&](auto held) { add_taps<P, decltype(held)::value>(sums, run.count); });
    });
    const auto mask = mask_between<C>(0, plan_.channels - item.block * L);
    for_pixels<P>(item, rows, columns, row, rest, column, [&](T* pixel, std::int64_t at) {
      store_masked(pixel, permute(load(item.sums + at), adjacent()), mask);
    });
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

  template <int P, int Q>
  static void add_taps(const GroupedSums<C>& sums, std::int64_t taps) {
    if (taps == 1) return add_grouped_taps<C, P, 1, 0, Q>(sums);
    if (taps == 2) {
      return sums.step == 1 ? add_grouped_taps<C, P, 2, 1, Q>(sums)
                            : add_grouped_taps<C, P, 2, 2, Q>(sums);
    }
    sums.step == 1 ? add_grouped_taps<C, P, 3, 1, Q>(sums) : add_grouped_taps<C, P, 3, 2, Q>(sums);
  }

  // visit(pixel, its place in the sums) of a tile: those that exist.
  template <int P, class Visit>
  HANDCONV_INLINE void for_pixels(const Item& item, const AxisClass& rows, const AxisClass& columns,
                                  std::int64_t row, std::int64_t rest, std::int64_t column,
                                  const Visit& visit) const {
    const ImageStrides& strides = gather_.filled_strides;
    T* to = static_cast<T*>(gather_.filled) + item.n * strides.sample + item.block * L +
            (rows.first + (item.first_row + row) * rows.step) * strides.row +
            (columns.first + column * columns.step) * strides.column;
    for (int r = 0; r < kGroupedRows && r < rest; ++r, to += rows.step * strides.row) {
      for (int p = 0; p < P && p < columns.count - column; ++p)
        visit(to + p * columns.step * strides.column, (r * P + p) * L);
    }
  }

  const Gather& gather_;
  const Plan plan_;
  const Workspace& workspace_;
};
