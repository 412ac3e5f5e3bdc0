// The gradients of direct.gemv, both of the form
//
//     filled[r, k] = start[k] + sum over t of factors[t, r] panel[t, k]
//
// with lanes along k. For x, r is a sample, t a filter and the panel w; for w, r is a filter, t a
// sample and the panel x. A tile of kTileRows x kTileVectors (tile.h) loads V vectors of the panel
// and R factors for R V multiply-adds. 2 FLOPs a term and element filled; few rows are bound by
// reading the panel, of which 8 vectors by one row use every line whole.

template <class T>
class GemvGradientKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const GemvShape shape(problem);
    return {problem.has_bias ? bytes_of<C>(shape.groups * shape.terms) : 0, 0};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const C* start = problem.has_bias ? spread_bias(problem, buffers, workspace) : nullptr;
    const GemvShape shape(problem);
    fill(shape.groups,
         [&](std::int64_t group) { return product_of(problem, buffers, start, group); });
  }

 private:
  static constexpr std::int64_t L = kLanes<C>;

  struct Product {
    std::int64_t rows, terms, lanes;
    const T* factors;
    std::int64_t factor_row, factor_term;
    const T* panel;
    std::int64_t panel_term;
    const C* start;  // null for zeros
    T* filled;
    std::int64_t filled_row;
  };

  static Product product_of(const Problem& problem, const Buffers& buffers, const C* start,
                            std::int64_t group) {
    const GemvShape shape(problem);
    const std::int64_t x_step = shape.window(1, 0), y_step = shape.pixel(1, 0);
    const T* factors = static_cast<const T*>(buffers.y) + shape.pixel(0, group);
    T* window = static_cast<T*>(buffers.x) + shape.window(0, group);
    T* filters = static_cast<T*>(buffers.w) + shape.first_filter(group);
    if (problem.slot == Slot::kInput) {
      return {shape.batch,
              shape.filters,
              shape.terms,
              factors,
              y_step,
              1,
              filters,
              shape.filter_step,
              start ? start + group * shape.terms : nullptr,
              window,
              x_step};
    }
    return {shape.filters, shape.batch, shape.terms, factors,          1, y_step, window,
            x_step,        nullptr,     filters,     shape.filter_step};
  }

  // The bias of every element of a sample.
  static const C* spread_bias(const Problem& problem, const Buffers& buffers,
                              const Workspace& workspace) {
    const Geometry& g = problem.geometry;
    const auto* bias = static_cast<const T*>(buffers.bias);
    const ImageStrides strides = problem.x_strides();
    C* spread = workspace.shared<C>();
    for (std::int64_t c = 0; c < g.in_channels; ++c) {
      const std::int64_t pixel = strides.channel == 1 ? g.in_channels : 1;
      for (std::int64_t i = 0; i < g.input_area(); ++i)
        spread[c * strides.channel + i * pixel] = to_compute(bias[c]);
    }
    return spread;
  }

  // An item is some rows of some lanes of a group, whose panel stays in L2 from one tile of rows to
  // the next.
  template <class ProductOf>
  static void fill(std::int64_t groups, const ProductOf& product_of) {
    constexpr std::int64_t kRows = 24, kElements = 16 << 10, kMost = 2048;
    const Product any = product_of(0);
    const std::int64_t wanted = round_up(ceil_divide(kElements, any.terms), 8 * L);
    const std::int64_t lanes = smaller(wanted, kMost), panels = ceil_divide(any.lanes, lanes);
    const std::int64_t strips = ceil_divide(any.rows, kRows);
    const std::int64_t cost = smaller(any.rows, kRows) * smaller(any.lanes, lanes) * any.terms;
    parallel_for(groups * panels * strips, cost, [&](std::int64_t item, int) {
      const Product product = product_of(item / strips / panels);
      const std::int64_t row = item % strips * kRows, lane = item / strips % panels * lanes;
      fill_item(product, {row, smaller(product.rows, row + kRows)},
                {lane, smaller(product.lanes, lane + lanes)});
    });
  }

  static void fill_item(const Product& product, Range rows, Range lanes) {
    constexpr int V = kTileVectors, R = kTileRows<V>;
    std::int64_t row = rows.first;
    for (; row + R <= rows.last; row += R) fill_rows<R, V>(product, row, lanes);
    for (; row < rows.last; ++row) fill_rows<1, 8>(product, row, lanes);
  }

  template <int R, int V>
  static void fill_rows(const Product& product, std::int64_t row, Range lanes) {
    std::int64_t lane = lanes.first;
    for (; lane + V * L <= lanes.last; lane += V * L)
      fill_tile<R, V>(product, row, lane, mask_between<C>(0, L), FullPanel<T>{});
    for (; lane < lanes.last; lane += L) {
      const auto mask = mask_between<C>(0, lanes.last - lane);
      fill_tile<R, 1>(product, row, lane, mask, TailPanel<T>{mask});
    }
  }

  template <int R, int V, class Load>
  HANDCONV_INLINE static void fill_tile(const Product& product, std::int64_t row, std::int64_t lane,
                                        Mask<C> mask, Load load_panel) {
    BlockedTile<C, R, V> tile;
    start_tile(tile.block, product.start ? product.start + lane : nullptr, mask);
    const T* factors = product.factors + row * product.factor_row;
    const T* panel = product.panel + lane;
    for (std::int64_t done = 0; done < product.terms; done += tile.kTerms) {
      const std::int64_t count = smaller(tile.kTerms, product.terms - done);
      add_terms(tile.block, product, factors, panel, count, load_panel);
      factors += count * product.factor_term;
      panel += count * product.panel_term;
      tile.note_terms(count);
    }
    tile.finish();
    T* filled = product.filled + row * product.filled_row + lane;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        T* target = filled + r * product.filled_row + v * L;
        if constexpr (V == 1) {
          store_masked(target, tile.block.sums[r][v], mask);
        } else {
          store(target, tile.block.sums[r][v]);
        }
      }
    }
  }

  template <int R, int V>
  HANDCONV_INLINE static void start_tile(Tile<C, R, V>& tile, const C* start, Mask<C> mask) {
    if (!start) return tile.start_at_zero();
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v)
        tile.sums[r][v] = V == 1 ? load_masked(start, mask) : load(start + v * L);
    }
  }

  template <int R, int V, class Load>
  HANDCONV_INLINE static void add_terms(Tile<C, R, V>& tile, const Product& product,
                                        const T* factors, const T* panel, std::int64_t count,
                                        Load load_panel) {
    for (std::int64_t t = 0; t < count; ++t) {
      Vector<C> lanes[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) lanes[v] = load_panel(panel + v * L, v == V - 1);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vector<C> factor = broadcast(to_compute(factors[r * product.factor_row]));
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) tile.sums[r][v] = fma(factor, lanes[v], tile.sums[r][v]);
      }
      factors += product.factor_term;
      panel += product.panel_term;
    }
  }
};
