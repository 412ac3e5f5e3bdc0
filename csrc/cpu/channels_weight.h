// The weight gradient of direct.channels: sums over pixels of products of channels. Lanes are
// output channels, rows of the tile input channels; the pixels of channels_last y and x are read in
// place. Images that must be converted are so some samples at a time; the totals then outlive a
// pass, in the shared workspace.

template <class T>
class ChannelsWeightKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const std::int64_t samples = samples_per_pass(problem);
    const std::int64_t images = packs(problem) ? samples * sample_elements(g) : 0;
    const auto bytes = [](std::int64_t elements) {
      return static_cast<std::size_t>(elements) * sizeof(C);
    };
    return samples == g.batch ? WorkspaceSize{bytes(images), bytes(item_elements(g))}
                              : WorkspaceSize{bytes(images + most_items(g) * item_elements(g)), 0};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    ChannelsWeightKernel(problem, buffers, workspace).run_all();
  }

 private:
  static constexpr int kMostRows = 14;

  ChannelsWeightKernel(const Problem& problem, const Buffers& buffers, const Workspace& workspace)
      : problem_(problem),
        g_(problem.geometry),
        buffers_(buffers),
        workspace_(workspace),
        blocks_{g_.out_channels_per_group()} {}

  static bool packs(const Problem& problem) { return !is_pixel_image<T>(problem.x_strides()); }
  static std::int64_t sample_elements(const Geometry& g) {
    return g.in_channels * g.input_area() + g.out_channels * g.output_area();
  }
  static std::int64_t samples_per_pass(const Problem& problem) {
    const Geometry& g = problem.geometry;
    return packs(problem) ? samples_within_budget<C>(g.batch, sample_elements(g)) : g.batch;
  }
  // The totals of one item of work, at most; and how many items there are, at most.
  static std::int64_t item_elements(const Geometry& g) {
    return g.width.kernel * kMostRows * LaneBlocks<C>::kLargest;
  }
  static std::int64_t most_items(const Geometry& g) {
    return g.groups * LaneBlocks<C>{g.out_channels_per_group()}.count() *
           ((g.in_channels_per_group() + 5) / 6) * g.height.kernel;
  }

  // Samples [first, first + count) as converted images.
  struct Pass {
    std::int64_t first, count;
    PixelImage<C> x, y;
  };

  void run_all() {
    const std::int64_t step = samples_per_pass(problem_);
    for (std::int64_t n = 0; n < g_.batch; n += step)
      run_pass(n, g_.batch - n < step ? g_.batch - n : step);
  }

  void run_pass(std::int64_t first, std::int64_t count) {
    C* scratch = workspace_.shared<C>();
    const auto* x = static_cast<const T*>(buffers_.x) + first * problem_.x_strides().sample;
    const auto* y = static_cast<const T*>(buffers_.y) + first * problem_.y_strides().sample;
    const Pass pass{
        first, count,
        as_pixel_image<T>(x, problem_.x_strides(), count, g_.in_channels, g_.height.input,
                          g_.width.input, scratch),
        as_pixel_image<T>(y, problem_.y_strides(), count, g_.out_channels, g_.height.output,
                          g_.width.output, scratch + count * g_.in_channels * g_.input_area())};
    std::int64_t items = 0;
    for (std::int64_t block = 0; block < blocks_.count(); ++block) {
      visit_vectors(blocks_.vectors(block), [&](auto vectors) {
        constexpr int V = decltype(vectors)::value;
        if (g_.in_channels_per_group() == 1) {
          items += run_block<1, V>(pass, block, items);
        } else {
          items += run_block<kTileRows<V>, V>(pass, block, items);
        }
      });
    }
  }

  // Returns the number of items; `first_item` of them came before.
  template <int R, int V>
  std::int64_t run_block(const Pass& pass, std::int64_t block, std::int64_t first_item) const {
    const std::int64_t channel_tiles = (g_.in_channels_per_group() + R - 1) / R;
    const std::int64_t items = g_.groups * channel_tiles * g_.height.kernel;
    const std::int64_t cost = pass.count * g_.output_area() * g_.width.kernel * R * V * kLanes<C>;
    parallel_for(items, cost, [&](std::int64_t item, int thread) {
      const std::int64_t kh = item % g_.height.kernel,
                         tile = item / g_.height.kernel % channel_tiles;
      const std::int64_t group = item / g_.height.kernel / channel_tiles;
      add_row_of_taps<R, V>(pass, group, block, tile * R, kh, totals_of(first_item + item, thread));
    });
    return items;
  }

  C* totals_of(std::int64_t item, int thread) const {
    const std::int64_t samples = samples_per_pass(problem_);
    if (samples == g_.batch) return workspace_.of_thread<C>(thread);
    return workspace_.shared<C>() + samples * sample_elements(g_) + item * item_elements(g_);
  }

  // w[oc of the block, ic .. ic + R, kh, all kw]
  template <int R, int V>
  void add_row_of_taps(const Pass& pass, std::int64_t group, std::int64_t block, std::int64_t ic,
                       std::int64_t kh, C* totals) const {
    constexpr std::int64_t kTileElements = R * V * kLanes<C>;
    if (pass.first == 0) {
      for (std::int64_t i = 0; i < g_.width.kernel * kTileElements; ++i) totals[i] = 0;
    }
    for (std::int64_t n = 0; n < pass.count; ++n) {
      for_row_blocks(g_, outputs_inside(g_.height, kh), [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t kw = 0; kw < g_.width.kernel; ++kw) {
          add_partial_sum<R, V>(pass, group, block, ic, n, kh, kw, {first, last},
                                totals + kw * kTileElements);
        }
      });
    }
    if (pass.first + pass.count == g_.batch) store_totals<R, V>(group, block, ic, kh, totals);
  }

  template <int R, int V>
  void add_partial_sum(const Pass& pass, std::int64_t group, std::int64_t block, std::int64_t ic,
                       std::int64_t n, std::int64_t kh, std::int64_t kw, Range rows,
                       C* totals) const {
    const Range columns = outputs_inside(g_.width, kw);
    const std::int64_t count = columns.last - columns.first, lanes = blocks_.size(block);
    if (count == 0) return;
    const std::int64_t channels = g_.in_channels_per_group();
    const C* x = pass.x.data + n * pass.x.sample +
                 g_.width.input_position(columns.first, kw) * pass.x.column + group * channels;
    const C* y = pass.y.data + n * pass.y.sample + columns.first * pass.y.column +
                 group * g_.out_channels_per_group() + blocks_.first(block);
    Tile<C, R, V> tile;
    tile.start_at_zero();
    const auto add_rows = [&](auto load_panel) __attribute__((always_inline)) {
      for (std::int64_t oh = rows.first; oh < rows.last; ++oh) {
        const C* line = x + g_.height.input_position(oh, kh) * pass.x.row;
        const C* pixels[R];
        // Rows of the tile past the last channel repeat it; they are not stored.
        for (int r = 0; r < R; ++r) pixels[r] = line + (ic + r < channels ? ic + r : channels - 1);
        accumulate(tile, pixels, g_.width.stride * pass.x.column, y + oh * pass.y.row,
                   pass.y.column, count, load_panel);
      }
    };
    if (lanes == V * kLanes<C>) {
      add_rows(FullPanel<C>{});
    } else {
      add_rows(TailPanel<C>{mask_between<C>(0, lanes - (V - 1) * kLanes<C>)});
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        C* total = totals + (r * V + v) * kLanes<C>;
        store(total, load(total) + tile.sums[r][v]);
      }
    }
  }

  template <int R, int V>
  void store_totals(std::int64_t group, std::int64_t block, std::int64_t ic, std::int64_t kh,
                    const C* totals) const {
    const std::int64_t lanes = blocks_.size(block), rest = g_.in_channels_per_group() - ic;
    const std::int64_t first_oc = group * g_.out_channels_per_group() + blocks_.first(block);
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      for (std::int64_t r = 0; r < R && r < rest; ++r) {
        for (std::int64_t kw = 0; kw < g_.width.kernel; ++kw) {
          *weight_element<T>(problem_, buffers_, first_oc + lane, ic + r, kh, kw) =
              from_compute<T>(totals[((kw * R + r) * V) * kLanes<C> + lane]);
        }
      }
    }
  }

  const Problem& problem_;
  const Geometry& g_;
  const Buffers& buffers_;
  const Workspace& workspace_;
  LaneBlocks<C> blocks_;
};
