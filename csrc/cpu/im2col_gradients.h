// The gradients of im2col.h: products with the transposed matrices, and col2im.

// The input gradient: col2im of W^T Y. An item owns some channels of one sample, so no two items
// add to the same pixel.
template <class T>
class Im2colInputKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const std::int64_t matrix = g.out_channels * g.in_channels_per_group() * g.kernel_area();
    const std::int64_t panel = g.out_channels_per_group() * kPixelLanes<C>;
    return {bytes_of<C>(matrix),
            bytes_of<C>(panel + kPixelLanes<C> + channels_per_item(g) * g.input_area())};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    Im2colInputKernel(problem, buffers, workspace).run_all();
  }

 private:
  static constexpr int V = kTileVectors;
  static constexpr int R = kTileRows<V>;

  Im2colInputKernel(const Problem& problem, const Buffers& buffers, const Workspace& workspace)
      : problem_(problem), g_(problem.geometry), buffers_(buffers), workspace_(workspace) {}

  // As many as keep their planes in L2.
  static std::int64_t channels_per_item(const Geometry& g) {
    constexpr std::int64_t kElements = 32768;
    return larger(1, smaller(kElements / g.input_area(), g.in_channels_per_group()));
  }

  void run_all() {
    pack_weight_matrix(problem_, static_cast<const T*>(buffers_.w), true, workspace_.shared<C>());
    const std::int64_t step = channels_per_item(g_),
                       parts = ceil_divide(g_.in_channels_per_group(), step);
    const std::int64_t cost =
        step * g_.kernel_area() * g_.output_area() * g_.out_channels_per_group();
    parallel_for(g_.batch * g_.groups * parts, cost, [&](std::int64_t item, int thread) {
      const std::int64_t first = item % parts * step, rest = g_.in_channels_per_group() - first;
      fill_channels(item / parts / g_.groups, item / parts % g_.groups, first, smaller(rest, step),
                    workspace_.of_thread<C>(thread));
    });
  }

  // x[n, ic .. ic + count of the group]
  void fill_channels(std::int64_t n, std::int64_t group, std::int64_t ic, std::int64_t count,
                     C* panel) const {
    C* row = panel + g_.out_channels_per_group() * kPixelLanes<C>;
    C* planes = row + kPixelLanes<C>;
    for (std::int64_t i = 0; i < count * g_.input_area(); ++i) planes[i] = 0;
    for (std::int64_t first = 0; first < g_.output_area(); first += kPixelLanes<C>) {
      const std::int64_t rest = g_.output_area() - first;
      const ColumnBlock<T> columns(plane_problem_, first, smaller(rest, kPixelLanes<C>));
      pack_pixels(n, group, first, columns.count(), panel);
      add_columns(group, ic, count, columns, panel, row, planes);
    }
    store_planes(n, group * g_.in_channels_per_group() + ic, count, planes);
  }

  // Y[all oc of the group, the block's pixels], as [oc][lane].
  void pack_pixels(std::int64_t n, std::int64_t group, std::int64_t first, std::int64_t count,
                   C* panel) const {
    const ImageStrides strides = problem_.y_strides();
    const T* y = static_cast<const T*>(buffers_.y) + n * strides.sample +
                 group * g_.out_channels_per_group() * strides.channel + first * strides.column;
    for (std::int64_t oc = 0; oc < g_.out_channels_per_group(); ++oc) {
      for (std::int64_t lane = 0; lane < kPixelLanes<C>; ++lane) {
        panel[oc * kPixelLanes<C> + lane] =
            lane < count ? to_compute(y[oc * strides.channel + lane * strides.column]) : C(0);
      }
    }
  }

  void add_columns(std::int64_t group, std::int64_t ic, std::int64_t count,
                   const ColumnBlock<T>& columns, const C* panel, C* row, C* planes) const {
    const std::int64_t taps = g_.kernel_area(), depth = g_.out_channels_per_group();
    const C* matrix =
        workspace_.shared<C>() + (group * g_.in_channels_per_group() + ic) * taps * depth;
    for (std::int64_t k = 0; k < count * taps; k += R) {
      Tile<C, R, V> tile;
      tile.start_at_zero();
      const C* rows[R];
      find_rows(matrix, k, count * taps, depth, rows);
      accumulate(tile, rows, 1, panel, kPixelLanes<C>, depth, FullPanel<C>{});
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        if (k + r >= count * taps) break;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(row + v * kLanes<C>, tile.sums[r][v]);
        const std::int64_t channel = (k + r) / taps, tap = (k + r) % taps;
        columns.add_row(row, tap / g_.width.kernel, tap % g_.width.kernel,
                        planes + channel * g_.input_area());
      }
    }
  }

  void store_planes(std::int64_t n, std::int64_t channel, std::int64_t count,
                    const C* planes) const {
    const ImageStrides strides = problem_.x_strides();
    const auto* bias = static_cast<const T*>(buffers_.bias);
    T* x = static_cast<T*>(buffers_.x) + n * strides.sample + channel * strides.channel;
    for (std::int64_t c = 0; c < count; ++c) {
      const C shift = bias ? to_compute(bias[channel + c]) : C(0);
      for (std::int64_t p = 0; p < g_.input_area(); ++p) {
        x[c * strides.channel + p * strides.column] =
            from_compute<T>(planes[c * g_.input_area() + p] + shift);
      }
    }
  }

  const Problem& problem_;
  // The same problem on contiguous planes, which is what columns are added to whatever the layout
  // of x.
  const Problem plane_problem_ = [&] {
    Problem planes = problem_;
    planes.layout = Layout::kNchw;
    return planes;
  }();
  const Geometry& g_;
  const Buffers& buffers_;
  const Workspace& workspace_;
};

// The weight gradient: X Y^T, a tile being rows of X by output channels. Partial sums over blocks
// of pixels are added in order.
template <class T>
class Im2colWeightKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const std::int64_t pixels = packs(problem) ? kPixels * g.out_channels_per_group() : 0;
    const std::int64_t rows = channels_per_item(g) * g.kernel_area();
    return {0, bytes_of<C>(rows * (kPixels + padded_channels(g)) + pixels)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    Im2colWeightKernel(problem, buffers, workspace).run_all();
  }

 private:
  static constexpr std::int64_t kPixels = 96;  // in a partial sum

  Im2colWeightKernel(const Problem& problem, const Buffers& buffers, const Workspace& workspace)
      : problem_(problem),
        g_(problem.geometry),
        buffers_(buffers),
        workspace_(workspace),
        blocks_{g_.out_channels_per_group()} {}

  static bool packs(const Problem& problem) { return !is_pixel_image<T>(problem.y_strides()); }
  static std::int64_t padded_channels(const Geometry& g) {
    return LaneBlocks<C>{g.out_channels_per_group()}.padded_channels();
  }
  static std::int64_t channels_per_item(const Geometry& g) {
    constexpr std::int64_t kRows = 48;
    return larger(1, smaller(kRows / g.kernel_area(), g.in_channels_per_group()));
  }

  void run_all() {
    const std::int64_t step = channels_per_item(g_),
                       parts = ceil_divide(g_.in_channels_per_group(), step);
    const std::int64_t cost =
        g_.batch * g_.output_area() * step * g_.kernel_area() * g_.out_channels_per_group();
    parallel_for(g_.groups * parts, cost, [&](std::int64_t item, int thread) {
      const std::int64_t first = item % parts * step, rest = g_.in_channels_per_group() - first;
      fill_channels(item / parts, first, smaller(rest, step), workspace_.of_thread<C>(thread));
    });
  }

  // w[all oc of the group, ic .. ic + count, all taps]
  void fill_channels(std::int64_t group, std::int64_t ic, std::int64_t count, C* rows) const {
    const std::int64_t depth = count * g_.kernel_area(), padded = padded_channels(g_);
    C* totals = rows + depth * kPixels;
    for (std::int64_t i = 0; i < depth * padded; ++i) totals[i] = 0;
    for (std::int64_t n = 0; n < g_.batch; ++n) {
      for (std::int64_t first = 0; first < g_.output_area(); first += kPixels) {
        const std::int64_t rest = g_.output_area() - first;
        const ColumnBlock<T> columns(problem_, first, smaller(rest, kPixels));
        pack_rows(n, group, ic, count, columns, rows);
        const PixelImage<C> y = pixels_of_y(n, group, columns, first, totals + depth * padded);
        for (std::int64_t block = 0; block < blocks_.count(); ++block) {
          visit_vectors(blocks_.vectors(block), [&](auto vectors) {
            add_partial_sums<decltype(vectors)::value>(y, block, columns.count(), rows, depth,
                                                       totals);
          });
        }
      }
    }
    store_totals(group, ic, count, totals);
  }

  void pack_rows(std::int64_t n, std::int64_t group, std::int64_t ic, std::int64_t count,
                 const ColumnBlock<T>& columns, C* rows) const {
    const ImageStrides strides = problem_.x_strides();
    const T* x = static_cast<const T*>(buffers_.x) + n * strides.sample +
                 (group * g_.in_channels_per_group() + ic) * strides.channel;
    for (std::int64_t c = 0; c < count; ++c) {
      for (std::int64_t tap = 0; tap < g_.kernel_area(); ++tap) {
        columns.pack_row(x + c * strides.channel, tap / g_.width.kernel, tap % g_.width.kernel,
                         rows + (c * g_.kernel_area() + tap) * kPixels);
      }
    }
  }

  // The block's pixels of y, channels of the group adjacent.
  PixelImage<C> pixels_of_y(std::int64_t n, std::int64_t group, const ColumnBlock<T>& columns,
                            std::int64_t first, C* scratch) const {
    const ImageStrides strides = problem_.y_strides();
    const std::int64_t channels = g_.out_channels_per_group();
    const T* y = static_cast<const T*>(buffers_.y) + n * strides.sample +
                 group * channels * strides.channel + first * strides.column;
    if constexpr (std::is_same_v<T, C>) {
      if (!packs(problem_)) return {y, strides.sample, strides.row, strides.column};
    }
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t p = 0; p < columns.count(); ++p) {
        scratch[p * channels + c] = to_compute(y[c * strides.channel + p * strides.column]);
      }
    }
    return {scratch, 0, 0, channels};
  }

  template <int V>
  void add_partial_sums(const PixelImage<C>& y, std::int64_t block, std::int64_t pixels,
                        const C* rows, std::int64_t depth, C* totals) const {
    constexpr int R = kTileRows<V>;
    const std::int64_t lanes = blocks_.size(block), padded = padded_channels(g_);
    const C* panel = y.data + blocks_.first(block);
    for (std::int64_t k = 0; k < depth; k += R) {
      Tile<C, R, V> tile;
      tile.start_at_zero();
      const C* tile_rows[R];
      find_rows(rows, k, depth, kPixels, tile_rows);
      if (lanes == V * kLanes<C>) {
        accumulate(tile, tile_rows, 1, panel, y.column, pixels, FullPanel<C>{});
      } else {
        const TailPanel<C> tail{mask_between<C>(0, lanes - (V - 1) * kLanes<C>)};
        accumulate(tile, tile_rows, 1, panel, y.column, pixels, tail);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        if (k + r >= depth) break;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          C* total = totals + (k + r) * padded + blocks_.first(block) + v * kLanes<C>;
          store(total, load(total) + tile.sums[r][v]);
        }
      }
    }
  }

  void store_totals(std::int64_t group, std::int64_t ic, std::int64_t count,
                    const C* totals) const {
    const std::int64_t taps = g_.kernel_area(), padded = padded_channels(g_);
    for (std::int64_t oc = 0; oc < g_.out_channels_per_group(); ++oc) {
      for (std::int64_t k = 0; k < count * taps; ++k) {
        *weight_element<T>(problem_, buffers_, group * g_.out_channels_per_group() + oc,
                           ic + k / taps, k % taps / g_.width.kernel, k % g_.width.kernel) =
            from_compute<T>(totals[k * padded + oc]);
      }
    }
  }

  const Problem& problem_;
  const Geometry& g_;
  const Buffers& buffers_;
  const Workspace& workspace_;
  LaneBlocks<C> blocks_;
};
