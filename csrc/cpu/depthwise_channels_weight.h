// The weight gradient of direct.depthwise.channels: lanes are channels, and the sums of up to K
// taps of a row of the kernel are kept in registers.

template <class T>
class DepthwiseChannelsWeightKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem&) { return {}; }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace&) {
    const std::int64_t taps = problem.geometry.width.kernel;
    if (taps == 1) return run_all<1>(problem, buffers);
    if (taps <= 3) return run_all<3>(problem, buffers);
    if (taps <= 5) return run_all<5>(problem, buffers);
    run_all<7>(problem, buffers);
  }

 private:
  static constexpr int V = 2;
  static constexpr std::int64_t kBlock = V * kLanes<C>;

  // A row of K taps from tap (kh, kw) on, for one block of lanes.
  template <int K>
  struct Item {
    std::int64_t channel, lanes, kh, kw;
    int taps;          // of K, that exist
    Range columns[K];  // outputs inside through each tap
    Range interior;    // outputs inside through all of them
    Mask<C> masks[V];
  };

  template <int K>
  static void run_all(const Problem& problem, const Buffers& buffers) {
    const Geometry& g = problem.geometry;
    const std::int64_t blocks = (g.groups + kBlock - 1) / kBlock,
                       tap_blocks = (g.width.kernel + K - 1) / K;
    parallel_for(blocks * g.height.kernel * tap_blocks, g.batch * g.output_area() * K * kBlock,
                 [&](std::int64_t index, int) {
                   const std::int64_t tap_block = index % tap_blocks,
                                      kh = index / tap_blocks % g.height.kernel;
                   const std::int64_t block = index / tap_blocks / g.height.kernel;
                   fill_taps(problem, buffers, make_item<K>(g, block * kBlock, kh, tap_block * K));
                 });
  }

  template <int K>
  static Item<K> make_item(const Geometry& g, std::int64_t channel, std::int64_t kh,
                           std::int64_t kw) {
    Item<K> item;
    item.channel = channel;
    item.lanes = g.groups - channel < kBlock ? g.groups - channel : kBlock;
    item.kh = kh;
    item.kw = kw;
    item.taps = static_cast<int>(g.width.kernel - kw < K ? g.width.kernel - kw : K);
    item.interior = {0, g.width.output};
    for (int k = 0; k < K; ++k) {
      item.columns[k] = k < item.taps ? outputs_inside(g.width, kw + k) : Range{0, 0};
      if (item.columns[k].first > item.interior.first) item.interior.first = item.columns[k].first;
      if (item.columns[k].last < item.interior.last) item.interior.last = item.columns[k].last;
    }
    if (item.interior.last < item.interior.first) item.interior = {g.width.output, g.width.output};
    for (int v = 0; v < V; ++v) item.masks[v] = mask_between<C>(0, item.lanes - v * kLanes<C>);
    return item;
  }

  template <int K>
  static void fill_taps(const Problem& problem, const Buffers& buffers, const Item<K>& item) {
    const Geometry& g = problem.geometry;
    const ImageStrides xs = problem.x_strides(), ys = problem.y_strides();
    const std::int64_t first_input = g.width.input_position(0, item.kw);
    const T* x = static_cast<const T*>(buffers.x) + first_input * xs.column + item.channel;
    const T* y = static_cast<const T*>(buffers.y) + item.channel;
    Tile<C, K, V> totals;
    totals.start_at_zero();
    for (std::int64_t n = 0; n < g.batch; ++n) {
      for_row_blocks(
          g, outputs_inside(g.height, item.kh), [&](std::int64_t first, std::int64_t last) {
            Tile<C, K, V> tile;
            tile.start_at_zero();
            for (std::int64_t oh = first; oh < last; ++oh) {
              const T* x_line = x + n * xs.sample + g.height.input_position(oh, item.kh) * xs.row;
              const T* y_line = y + n * ys.sample + oh * ys.row;
              add_columns<K, true>(tile, item, g, x_line, xs.column, y_line, ys.column,
                                   {0, item.interior.first});
              add_columns<K, false>(tile, item, g, x_line, xs.column, y_line, ys.column,
                                    item.interior);
              add_columns<K, true>(tile, item, g, x_line, xs.column, y_line, ys.column,
                                   {item.interior.last, g.width.output});
            }
#pragma GCC unroll 8
            for (int k = 0; k < K; ++k) {
#pragma GCC unroll 4
              for (int v = 0; v < V; ++v) totals.sums[k][v] += tile.sums[k][v];
            }
          });
    }
    for (int k = 0; k < item.taps; ++k) {
      for (std::int64_t lane = 0; lane < item.lanes; ++lane) {
        *weight_element<T>(problem, buffers, item.channel + lane, 0, item.kh, item.kw + k) =
            from_compute<T>(totals.sums[k][lane / kLanes<C>][lane % kLanes<C>]);
      }
    }
  }

  template <int K, bool kChecked>
  HANDCONV_INLINE static void add_columns(Tile<C, K, V>& tile, const Item<K>& item,
                                          const Geometry& g, const T* x, std::int64_t x_column,
                                          const T* y, std::int64_t y_column, Range columns) {
    for (std::int64_t ow = columns.first; ow < columns.last; ++ow) {
      Vector<C> cotangent[V];
      for (int v = 0; v < V; ++v)
        cotangent[v] = load_masked(y + ow * y_column + v * kLanes<C>, item.masks[v]);
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
        if (kChecked && (ow < item.columns[k].first || ow >= item.columns[k].last)) continue;
        const T* pixel = x + (ow * g.width.stride + k * g.width.dilation) * x_column;
        for (int v = 0; v < V; ++v) {
          tile.sums[k][v] =
              fma(load_masked(pixel + v * kLanes<C>, item.masks[v]), cotangent[v], tile.sums[k][v]);
        }
      }
    }
  }
};
