// direct.channels: lanes are the filled channels of one group and rows of the tile are pixels:
//
//     filled[pixel, f] = bias[f] + sum over taps and source channels s of
//                                  strip[pixel * step + tap, s] * w[tap, s, f]
//
// An item packs the rows of the source that it meets into a strip (channels_strip.h), in which a
// tap is an offset that is the same for every pixel of a row, and adds up the products of blocks of
// terms (channels_sums.h), for whose length a panel's weights stay near the processor for all
// pixels of the item. Few pixels with a large weight are channels_deep.h's.
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
      kernel.pack(false);
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
        plan_(gather, false),
        weights_(gather, plan_),
        sums_(gather, plan_),
        workspace_(workspace),
        packed_weights_(workspace.shared<C>()),
        bias_(packed_weights_ + weights_.elements()) {}

  static WorkspaceSize workspace_of(const Gather& gather) {
    const Plan plan(gather, false);
    const ChannelsWeights<T> weights(gather, plan);
    return {bytes_of<C>(weights.elements() + ChannelsSums<T>::biases(gather, plan)),
            bytes_of<C>(aligned(plan.strip()) + plan.totals())};
  }

  // The packed weight is the same for all parts.
  static void run_parts(const Gather& gather, const ColumnParts& parts,
                        const Workspace& workspace) {
    const Gather first(gather, parts.columns(0), sizeof(T)),
        last(gather, parts.columns(parts.count() - 1), sizeof(T));
    const ChannelsKernel kernel(first, workspace);
    kernel.pack(true);
    const std::int64_t items = larger(kernel.items(), ChannelsKernel(last, workspace).items());
    parallel_for(parts.count() * items, kernel.cost(), [&](std::int64_t index, int thread) {
      const Gather part(gather, parts.columns(index / items), sizeof(T));
      ChannelsKernel(part, workspace).run_item(index % items, thread);
    });
  }

  static std::int64_t aligned(std::int64_t elements) { return round_up(elements, 16); }

  // A part of the columns may need taps that another does not.
  void pack(bool is_part) const {
    weights_.pack(packed_weights_, !is_part);
    sums_.pack_bias(bias_);
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

  void fill(const Item& item, C* scratch) const {
    C *const strip = scratch, *const totals = scratch + aligned(plan_.strip());
    const C* bias = bias_ + (item.group * plan_.panels + item.panel) * kLanesOfPanel;
    for (std::int64_t p = 0; p < item.panels && !plan_.whole_rows; ++p)
      sums_.start(bias + p * kLanesOfPanel, item.rows, totals + p * plan_.totals_of_panel());
    const std::int64_t channel = item.group * gather_.filled_channels + item.panel * kLanesOfPanel;
    const ChannelsStrip<T> source(gather_, plan_, *item.axis, item.row, item.rows);
    for (std::int64_t chunk = 0; chunk < plan_.chunks && item.axis->taps.count > 0; ++chunk) {
      source.pack(item.sample, item.group * plan_.sources + chunk * plan_.chunk,
                  plan_.chunk_size(chunk), strip);
      for (std::int64_t p = 0; p < item.panels; ++p) {
        for (const AxisClass& columns : gather_.columns.classes()) {
          const C* weights = packed_weights_ +
                             weights_.first(item.group, item.panel + p, *item.axis, columns, chunk);
          sums_.add_chunk(
              source, {*item.axis, columns, item.row, item.rows, plan_.chunk_size(chunk),
                       sums_.lanes(item.panel + p), strip, weights,
                       totals + p * plan_.totals_of_panel(), chunk == 0, chunk == plan_.chunks - 1,
                       bias + p * kLanesOfPanel, item.sample, channel + p * kLanesOfPanel});
        }
      }
    }
    for (std::int64_t p = 0; p < item.panels && !sums_.is_direct(); ++p) {
      sums_.store_rows(item.sample, channel + p * kLanesOfPanel, sums_.lanes(item.panel + p),
                       *item.axis, item.row, item.rows, totals + p * plan_.totals_of_panel());
    }
  }

  const Gather& gather_;
  const Plan plan_;
  const ChannelsWeights<T> weights_;
  const ChannelsSums<T> sums_;
  const Workspace& workspace_;
  C* const packed_weights_;
  C* const bias_;
};
