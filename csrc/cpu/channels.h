// direct.channels: lanes are the filled channels of one group and rows of the tile are pixels:
//
//     filled[pixel, f] = bias[f] + sum over taps and source channels s of
//                                  strip[pixel * step + tap, s] * w[tap, s, f]
//
// An item packs the rows of the source that it meets into a strip (channels_strip.h), in which a
// tap is an offset that is the same for every pixel of a row, and adds up the products of blocks of
// terms by the tile of gemm_tile.h: 14 pixels by 2 vectors of channels. Taps that see padding alone
// are left out row by row and tile by tile. Blocks of at most 256 terms keep rounding from growing
// with their number, and a panel's weights near the processor for all pixels of an item.
//
// Bytes: the source is packed once for every item, the packed weight streams in once for every
// item, the filled image is written once.

template <class T>
class ChannelsKernel {
 public:
  using C = Compute<T>;
  using Plan = ChannelsPlan<C>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    const ColumnParts parts(gather);
    if (parts.count() == 1) return workspace_of(gather);
    WorkspaceSize most;
    // The first part, one between two others, and the last.
    for (const std::int64_t i : {std::int64_t{0}, parts.count() / 2, parts.count() - 1}) {
      const WorkspaceSize size = workspace_of(Gather(gather, parts.columns(i), sizeof(T)));
      if (size.per_thread > most.per_thread) most = size;
    }
    return most;
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    const ColumnParts parts(gather);
    if (parts.count() == 1) {
      const ChannelsKernel kernel(gather, workspace);
      kernel.pack();
      return parallel_for(kernel.items(), kernel.cost(),
                          [&](std::int64_t item, int thread) { kernel.run_item(item, thread); });
    }
    run_parts(gather, parts, workspace);
  }

 private:
  static constexpr std::int64_t kLanesOfPanel = kPanelLanes<C>;

  // What one item fills.
  struct Item {
    std::int64_t sample, group;
    std::int64_t panel, panels;
    const AxisClass* axis;
    std::int64_t row, rows;  // of the class
  };

  ChannelsKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather),
        plan_(gather),
        weights_(gather, plan_),
        workspace_(workspace),
        packed_weights_(workspace.shared<C>()),
        bias_(packed_weights_ + weights_.elements()),
        pixel_step_(gather.columns.classes()[0].step * kLanesOfPanel) {
    for (int r = 0; r < kGemmRows; ++r) tile_offsets_[r] = r * pixel_step_;
  }

  static WorkspaceSize workspace_of(const Gather& gather) {
    const Plan plan(gather);
    const ChannelsWeights<T> weights(gather, plan);
    return {bytes_of<C>(weights.elements() + biases(gather, plan)),
            bytes_of<C>(aligned(plan.strip()) + plan.totals())};
  }

  // The packed weight is the same for all parts.
  static void run_parts(const Gather& gather, const ColumnParts& parts,
                        const Workspace& workspace) {
    const Gather first(gather, parts.columns(0), sizeof(T)),
        last(gather, parts.columns(parts.count() - 1), sizeof(T));
    const ChannelsKernel kernel(first, workspace);
    kernel.pack();
    const std::int64_t items = larger(kernel.items(), ChannelsKernel(last, workspace).items());
    parallel_for(parts.count() * items, kernel.cost(), [&](std::int64_t index, int thread) {
      const Gather part(gather, parts.columns(index / items), sizeof(T));
      ChannelsKernel(part, workspace).run_item(index % items, thread);
    });
  }

  static std::int64_t biases(const Gather& gather, const Plan& plan) {
    return gather.groups * plan.panels * kLanesOfPanel;
  }
  static std::int64_t aligned(std::int64_t elements) { return round_up(elements, 16); }

  void pack() const {
    weights_.pack(packed_weights_);
    pack_bias();
  }

  std::int64_t items() const {
    return gather_.groups * gather_.batch * row_items() * plan_.lane_parts;
  }
  std::int64_t row_items() const { return plan_.row_parts * gather_.rows.classes().count; }
  // Multiply-adds of an item.
  std::int64_t cost() const {
    return plan_.rows * plan_.filled_columns * plan_.item_panels * kLanesOfPanel *
           gather_.cost_per_element() / gather_.rows.classes().count;
  }

  void run_item(std::int64_t index, int thread) const {
    if (index >= items()) return;
    // The weight of a part stays in L2 over all its rows, but parts of odd sizes share out badly.
    const bool parts_outermost = plan_.panels % 2 == 0;
    const std::int64_t parts = plan_.lane_parts, items_of_part = items() / parts;
    const std::int64_t part = parts_outermost ? index / items_of_part : index % parts;
    const std::int64_t rest = parts_outermost ? index % items_of_part : index / parts;
    // Classes take turns, so that neighbouring items are of all costs.
    const Span<AxisClass> classes = gather_.rows.classes();
    const AxisClass& axis = classes[rest % classes.count];
    const std::int64_t row = rest / classes.count % plan_.row_parts * plan_.rows;
    if (row >= axis.count) return;
    const std::int64_t n = rest / row_items() % gather_.batch;
    const Range panels = plan_.part(part);
    fill({n, rest / row_items() / gather_.batch, panels.first, panels.last - panels.first, &axis,
          row, smaller(plan_.rows, axis.count - row)},
         workspace_.of_thread<C>(thread));
  }

  void pack_bias() const {
    const auto* bias = static_cast<const T*>(gather_.bias);
    const std::int64_t padded = plan_.panels * kLanesOfPanel, channels = gather_.filled_channels;
    for (std::int64_t i = 0; i < gather_.groups * padded; ++i) {
      const std::int64_t group = i / padded, f = i % padded;
      bias_[i] = bias && f < channels ? to_compute(bias[group * channels + f]) : C(0);
    }
  }

  void fill(const Item& item, C* scratch) const {
    C *const strip = scratch, *const totals = scratch + aligned(plan_.strip());
    start_totals(item, totals);
    const ChannelsStrip<T> source(gather_, plan_, *item.axis, item.row, item.rows);
    for (std::int64_t chunk = 0; chunk < plan_.chunks && item.axis->taps.count > 0; ++chunk) {
      source.pack(item.sample, item.group * plan_.sources + chunk * plan_.chunk,
                  plan_.chunk_size(chunk), strip);
      for (std::int64_t p = 0; p < item.panels; ++p) {
        for (const AxisClass& columns : gather_.columns.classes()) {
          add_chunk(item, p, columns, chunk, source, strip,
                    totals + p * plan_.totals_of_panel() + columns.first * kLanesOfPanel);
        }
      }
    }
    for (std::int64_t p = 0; p < item.panels; ++p)
      store_panel(item, p, totals + p * plan_.totals_of_panel());
  }

  // totals[panel][row][filled column][lane]
  void start_totals(const Item& item, C* totals) const {
    const C* bias = bias_ + (item.group * plan_.panels + item.panel) * kLanesOfPanel;
    for (std::int64_t p = 0; p < item.panels; ++p, bias += kLanesOfPanel) {
      Vector<C> lanes[kPanelVectors];
      for (int v = 0; v < kPanelVectors; ++v) lanes[v] = load(bias + v * kLanes<C>);
      C* to = totals + p * plan_.totals_of_panel();
      C* const end = to + item.rows * plan_.filled_columns * kLanesOfPanel;
      for (; to < end; to += kLanesOfPanel) {
        for (int v = 0; v < kPanelVectors; ++v) store(to + v * kLanes<C>, lanes[v]);
      }
    }
  }

  std::int64_t lanes_of(const Item& item, std::int64_t panel) const {
    return smaller(kLanesOfPanel, gather_.filled_channels - (item.panel + panel) * kLanesOfPanel);
  }

  // A chunk of source channels through all taps of a class, for a panel of filled channels.
  void add_chunk(const Item& item, std::int64_t panel, const AxisClass& columns, std::int64_t chunk,
                 const ChannelsStrip<T>& source, const C* strip, C* totals) const {
    constexpr std::int64_t kTerms = 1024 / sizeof(C);
    const std::int64_t channels = plan_.chunk_size(chunk), taps = columns.taps.count;
    if (taps == 0) return;
    const bool adjoin = Plan::taps_adjoin(columns);
    const C* weights = packed_weights_ +
                       weights_.first(item.group, item.panel + panel, *item.axis, columns, chunk);
    const std::int64_t terms = adjoin ? taps * channels : channels;  // of a run
    const std::int64_t blocks = ceil_divide(terms, kTerms);
    for (std::int64_t row_tap = 0; row_tap < item.axis->taps.count; ++row_tap) {
      const Range rows = source.rows_inside(row_tap);
      for (std::int64_t run = 0; run < (adjoin ? 1 : taps); ++run) {
        const std::int64_t offset = tap_in_order(columns.taps, run).offset;
        const Range wanted = adjoin ? Range{0, columns.count} : columns_inside(columns, offset);
        for (std::int64_t block = 0; block < blocks; ++block) {
          const Range k = part_of({0, terms}, blocks, block);
          const Block product{weights + k.first * kLanesOfPanel, k.last - k.first,
                              columns.source_step * channels, lanes_of(item, panel)};
          if (wanted.first == wanted.last) continue;
          for (std::int64_t row = rows.first; row < rows.last; ++row) {
            add_row(product, columns.count, wanted,
                    strip + source.line(row_tap, row, channels) + offset * channels + k.first,
                    totals + row * plan_.filled_columns * kLanesOfPanel);
          }
        }
        weights += terms * kLanesOfPanel;
      }
    }
  }

  // Columns of a class that see the source through a tap.
  Range columns_inside(const AxisClass& columns, std::int64_t offset) const {
    const std::int64_t step = columns.source_step;
    const std::int64_t begin = larger(0, ceil_divide(-offset, step));
    const std::int64_t end =
        smaller(columns.count, floor_divide(gather_.columns.source_size - 1 - offset, step) + 1);
    return {begin, larger(begin, end)};
  }

  // Tried: fetching the weights of the block after it meanwhile; slower.
  struct Block {
    const C* weights;
    std::int64_t depth, row_pitch, lanes;
  };

  // Adds a block of terms to the columns [0, count) of a row, in tiles; those that have none of the
  // columns `wanted` are left out.
  HANDCONV_INLINE void add_row(const Block& block, std::int64_t count, const Range& wanted,
                               const C* line, C* totals) const {
    const std::int64_t tiles = ceil_divide(count, kGemmRows), size = count / tiles;
    std::int64_t larger_ones = count % tiles;
    for (std::int64_t first = 0; first < wanted.last;) {
      const std::int64_t rows = larger_ones-- > 0 ? size + 1 : size;
      if (first + rows > wanted.first) {
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
      }
      first += rows;
    }
  }

  void store_panel(const Item& item, std::int64_t panel, const C* totals) const {
    const ImageStrides& strides = gather_.filled_strides;
    const std::int64_t lanes = lanes_of(item, panel), columns = plan_.filled_columns;
    T* target = static_cast<T*>(gather_.filled) + item.sample * strides.sample +
                (item.group * gather_.filled_channels + (item.panel + panel) * kLanesOfPanel) *
                    strides.channel +
                (item.axis->first + item.row * item.axis->step) * strides.row;
    const bool one_run = item.axis->step == 1 && strides.row == columns * strides.column;
    const std::int64_t pixels = one_run ? item.rows * columns : columns;
    for (std::int64_t row = 0; row < (one_run ? 1 : item.rows); ++row) {
      if (strides.channel != 1) {
        transpose_matrix(totals, kLanesOfPanel, pixels, lanes, target, strides.channel);
      } else {
        store_pixels(totals, pixels, lanes, target);
      }
      totals += pixels * kLanesOfPanel;
      target += item.axis->step * strides.row;
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
  const Plan plan_;
  const ChannelsWeights<T> weights_;
  const Workspace& workspace_;
  C* const packed_weights_;
  C* const bias_;
  const std::int64_t pixel_step_;
  std::int64_t tile_offsets_[kGemmRows];
};
