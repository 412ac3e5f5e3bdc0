// direct.channels of few pixels, whose weight is larger than the images: an item fills a panel or
// two of filled channels in all pixels of some samples, and packs their weights chunk by chunk for
// itself, so that each is read from memory once, and used from the second-level cache.
//
// The source is packed before, by all threads: strip[sample][group][chunk][row][column][channel]
// with zeros for padding along the width. Bytes: the weight once, the strips of a sample once for
// every item, the filled image once.

template <class T>
class DeepChannelsKernel {
 public:
  using C = Compute<T>;
  using Plan = ChannelsPlan<C>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    const DeepChannelsKernel kernel(gather, Workspace(nullptr, {}));
    return {bytes_of<C>(ChannelsSums<T>::biases(gather, kernel.plan_) +
                        kernel.samples_ * kernel.strips_of_sample()),
            bytes_of<C>(kernel.weights_of_chunk() +
                        kernel.plan_.item_panels * kernel.samples_ * kernel.totals_of_sample())};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    DeepChannelsKernel(gather, workspace).run_all();
  }

 private:
  static constexpr std::int64_t kLanesOfPanel = kPanelLanes<C>;

  // What one item fills of the samples of a pass: some panels, in part `part` of the rows of each
  // class.
  struct Item {
    std::int64_t first_sample, samples, group, panel, panels, part;
  };

  // Where rows of an item lie in the packed image.
  struct Source {
    const DeepChannelsKernel& kernel;
    const AxisClass& axis;
    std::int64_t first, rows;

    Range rows_inside(std::int64_t tap) const {
      const std::int64_t offset = tap_in_order(axis.taps, tap).offset;
      const Range inside =
          intersection(positions_inside(kernel.gather_.rows, axis, offset), {first, first + rows});
      return {inside.first - first, inside.last - first};
    }
    std::int64_t line(std::int64_t tap, std::int64_t row, std::int64_t channels) const {
      const std::int64_t h = (first + row) * axis.source_step + tap_in_order(axis.taps, tap).offset;
      return (h * kernel.plan_.width + kernel.plan_.left) * channels;
    }
  };

  DeepChannelsKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather),
        plan_(gather, true),
        weights_(gather, plan_),
        sums_(gather, plan_),
        workspace_(workspace),
        bias_(workspace.shared<C>()),
        strips_(bias_ + ChannelsSums<T>::biases(gather, plan_)) {
    constexpr std::int64_t kStrips = (8 << 20) / sizeof(C), kTotals = (256 << 10) / sizeof(C);
    // Where no window sees a pixel the strips are empty.
    const std::int64_t fit = smaller(kStrips / larger(1, strips_of_sample()),
                                     kTotals / (plan_.item_panels * totals_of_sample()));
    samples_ = smaller(gather.batch, larger(1, smaller(fit, 8)));
  }

  std::int64_t strips_of_sample() const {
    return gather_.groups * plan_.sources * gather_.rows.source_size * plan_.width;
  }
  // Of one panel.
  std::int64_t totals_of_sample() const {
    std::int64_t rows = 0;
    for (const AxisClass& axis : gather_.rows.classes())
      rows += ceil_divide(axis.count, plan_.row_parts);
    return rows * plan_.filled_columns * kLanesOfPanel;
  }
  std::int64_t weights_of_chunk() const {
    return gather_.kernel_area() * plan_.chunk * kLanesOfPanel;
  }

  void run_all() const {
    sums_.pack_bias(bias_);
    const std::int64_t items = gather_.groups * plan_.lane_parts * plan_.row_parts;
    const std::int64_t cost =
        gather_.filled_area() * gather_.source_channels * samples_ * kLanesOfPanel;
    for (std::int64_t n = 0; n < gather_.batch; n += samples_) {
      const std::int64_t samples = smaller(samples_, gather_.batch - n);
      pack_strips(n, samples);
      parallel_for(items, cost, [&](std::int64_t index, int thread) {
        const std::int64_t panel_part = index / plan_.row_parts % plan_.lane_parts;
        const Range panels = plan_.part(panel_part);
        fill({n, samples, index / plan_.row_parts / plan_.lane_parts, panels.first,
              panels.last - panels.first, index % plan_.row_parts},
             workspace_.of_thread<C>(thread));
      });
    }
  }

  // Elements before a chunk of a group; `sample` counts from the first of the pass.
  std::int64_t strip(std::int64_t sample, std::int64_t group, std::int64_t chunk) const {
    return sample * strips_of_sample() +
           (group * plan_.sources + chunk * plan_.chunk) * gather_.rows.source_size * plan_.width;
  }

  void pack_strips(std::int64_t first, std::int64_t samples) const {
    const std::int64_t rows = gather_.rows.source_size, chunks = plan_.chunks;
    const ImageStrides& strides = gather_.source_strides;
    parallel_for(samples * gather_.groups * chunks * rows, 2 * plan_.width * plan_.chunk,
                 [&](std::int64_t item, int) {
                   const std::int64_t row = item % rows, chunk = item / rows % chunks;
                   const std::int64_t group = item / rows / chunks % gather_.groups;
                   const std::int64_t n = item / rows / chunks / gather_.groups;
                   const std::int64_t channel = group * plan_.sources + chunk * plan_.chunk,
                                      channels = plan_.chunk_size(chunk);
                   const T* from = static_cast<const T*>(gather_.source) +
                                   (first + n) * strides.sample + channel * strides.channel +
                                   row * strides.row;
                   pack_line(plan_, strides, from, channels,
                             strips_ + strip(n, group, chunk) + row * plan_.width * channels);
                 });
  }

  // Rows of a class that are part `part` of them.
  Range rows_of(const AxisClass& axis, std::int64_t part) const {
    return part_of({0, axis.count}, plan_.row_parts, part);
  }

  // visit(panel, sample, row class, its rows, totals)
  template <class Visit>
  void for_totals(const Item& item, C* totals, std::int64_t panel, const Visit& visit) const {
    for (std::int64_t n = 0; n < item.samples; ++n) {
      C* to = totals + (panel * item.samples + n) * totals_of_sample();
      for (const AxisClass& axis : gather_.rows.classes()) {
        const Range rows = rows_of(axis, item.part);
        visit(n, axis, rows, to);
        to += (rows.last - rows.first) * plan_.filled_columns * kLanesOfPanel;
      }
    }
  }

  void fill(const Item& item, C* scratch) const {
    C *const weights = scratch, *const totals = scratch + weights_of_chunk();
    for (std::int64_t p = 0; p < item.panels && !plan_.whole_rows; ++p) {
      for_totals(item, totals, p, [&](std::int64_t, const AxisClass&, const Range& rows, C* to) {
        sums_.start(bias(item, p), rows.last - rows.first, to);
      });
    }
    for (std::int64_t chunk = 0; chunk < plan_.chunks; ++chunk) {
      for (std::int64_t p = 0; p < item.panels; ++p) {
        weights_.pack_chunk(item.group, item.panel + p, chunk, true, weights);
        for_totals(item, totals, p,
                   [&](std::int64_t n, const AxisClass& axis, const Range& rows, C* to) {
                     add_chunk(item, p, chunk, n, axis, rows, weights, to);
                   });
      }
    }
    for (std::int64_t p = 0; p < item.panels && !sums_.is_direct(); ++p) {
      for_totals(
          item, totals, p, [&](std::int64_t n, const AxisClass& axis, const Range& rows, C* from) {
            sums_.store_rows(item.first_sample + n, channel(item, p), sums_.lanes(item.panel + p),
                             axis, rows.first, rows.last - rows.first, from);
          });
    }
  }
  const C* bias(const Item& item, std::int64_t panel) const {
    return bias_ + (item.group * plan_.panels + item.panel + panel) * kLanesOfPanel;
  }
  std::int64_t channel(const Item& item, std::int64_t panel) const {
    return item.group * gather_.filled_channels + (item.panel + panel) * kLanesOfPanel;
  }

  void add_chunk(const Item& item, std::int64_t panel, std::int64_t chunk, std::int64_t sample,
                 const AxisClass& axis, const Range& rows, const C* weights, C* totals) const {
    const std::int64_t count = rows.last - rows.first;
    const Source source{*this, axis, rows.first, count};
    for (const AxisClass& columns : gather_.columns.classes()) {
      sums_.add_chunk(source,
                      {axis, columns, rows.first, count, plan_.chunk_size(chunk),
                       sums_.lanes(item.panel + panel), strips_ + strip(sample, item.group, chunk),
                       weights + weights_.first_of_chunk(axis, columns, chunk), totals, chunk == 0,
                       chunk == plan_.chunks - 1, bias(item, panel), item.first_sample + sample,
                       channel(item, panel)});
    }
  }

  const Gather& gather_;
  const Plan plan_;
  const ChannelsWeights<T> weights_;
  const ChannelsSums<T> sums_;
  const Workspace& workspace_;
  C* const bias_;
  C* const strips_;
  std::int64_t samples_;
};

// The kernel that suits the numbers of pixels and of weights.
template <class T>
struct ChannelsByDepth {
  static WorkspaceSize workspace(const Problem& problem) {
    return is_deep(problem) ? DeepChannelsKernel<T>::workspace(problem)
                            : ChannelsKernel<T>::workspace(problem);
  }
  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    if (is_deep(problem)) {
      DeepChannelsKernel<T>::run(problem, buffers, workspace);
    } else {
      ChannelsKernel<T>::run(problem, buffers, workspace);
    }
  }

 private:
  static bool is_deep(const Problem& problem) {
    return ChannelsPlan<Compute<T>>::is_deep(Gather(problem, {}));
  }
};
