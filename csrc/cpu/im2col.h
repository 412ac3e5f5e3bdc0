// im2col: convolution as the product of two matrices, per sample and group,
//
//     Y[oc, p] = sum over k of W[oc, k] X[k, p]        k = (ic, kh, kw), p = (oh, ow)
//
// where column p of X holds the input pixels that output pixel p sees. X is never built: panels of
// it are packed when they are needed, into a workspace of bounded size. The gradients are the
// products with the matrices transposed, and col2im, the adjoint of packing, adds columns back into
// an image.

// A stretch of neighbouring columns of X that one tap takes from one row of the input.
struct Segment {
  std::int64_t lane, count;  // columns, from the first of the block
  std::int64_t offset;  // of the first one's pixel, in elements from the first pixel of the channel
};

// The columns [first, first + count) of X and what they read.
template <class T>
class ColumnBlock {
 public:
  ColumnBlock(const Problem& problem, std::int64_t first, std::int64_t count)
      : g_(problem.geometry), strides_(problem.x_strides()), first_(first), count_(count) {}

  std::int64_t count() const { return count_; }

  // Row (kh, kw) of one input channel, `channel` being its first pixel: row[lane] = X[k, first +
  // lane]; zero in the padding.
  void pack_row(const T* channel, std::int64_t kh, std::int64_t kw, Compute<T>* row) const {
    for (std::int64_t lane = 0; lane < count_; ++lane) row[lane] = 0;
    const std::int64_t step = g_.width.stride * strides_.column;
    for_segments(kh, kw, [&](const Segment& segment) {
      const T* from = channel + segment.offset;
      Compute<T>* to = row + segment.lane;
      if (step == 1) {
        for (std::int64_t i = 0; i < segment.count; ++i) to[i] = to_compute(from[i]);
      } else {
        for (std::int64_t i = 0; i < segment.count; ++i) to[i] = to_compute(from[i * step]);
      }
    });
  }

  // The adjoint: plane[pixel] += row[lane] for the pixels that pack_row reads. `plane` is
  // contiguous, H x W.
  void add_row(const Compute<T>* row, std::int64_t kh, std::int64_t kw, Compute<T>* plane) const {
    const std::int64_t step = g_.width.stride;
    for_segments(kh, kw, [&](const Segment& segment) {
      Compute<T>* to = plane + segment.offset;
      for (std::int64_t i = 0; i < segment.count; ++i) to[i * step] += row[segment.lane + i];
    });
  }

 private:
  // visit(segment) for every row of y that the block touches.
  template <class Visit>
  void for_segments(std::int64_t kh, std::int64_t kw, const Visit& visit) const {
    const Range inside = outputs_inside(g_.width, kw);
    for (std::int64_t p = first_; p < first_ + count_;) {
      const std::int64_t oh = p / g_.width.output, row = oh * g_.width.output;
      const std::int64_t row_end = row + g_.width.output, end = smaller(first_ + count_, row_end);
      const std::int64_t h = g_.height.input_position(oh, kh);
      const std::int64_t begin = larger(p - row, inside.first);
      const std::int64_t last = smaller(end - row, inside.last);
      if (0 <= h && h < g_.height.input && begin < last) {
        const std::int64_t w = g_.width.input_position(begin, kw);
        visit(Segment{row + begin - first_, last - begin, h * strides_.row + w * strides_.column});
      }
      p = end;
    }
  }

  const Geometry& g_;
  ImageStrides strides_;
  std::int64_t first_, count_;
};

// W as a matrix in compute type: element (oc, k), rows adjacent along k or, transposed, along oc.
template <class T>
inline void pack_weight_matrix(const Problem& problem, const T* w, bool transposed,
                               Compute<T>* matrix) {
  using C = Compute<T>;
  const Geometry& g = problem.geometry;
  const WeightStrides& strides = problem.w_strides;
  const std::int64_t channels = g.in_channels_per_group(), depth = channels * g.kernel_area();
  const std::int64_t out_channels = g.out_channels_per_group();
  parallel_for(g.out_channels, depth, [&](std::int64_t oc, int) {
    const std::int64_t group = oc / out_channels, o = oc % out_channels;
    C* row = matrix + group * out_channels * depth + (transposed ? o : o * depth);
    for (std::int64_t ic = 0; ic < channels; ++ic) {
      for (std::int64_t kh = 0; kh < g.height.kernel; ++kh) {
        const T* line = w + oc * strides.out_channel + ic * strides.in_channel + kh * strides.row;
        for (std::int64_t kw = 0; kw < g.width.kernel; ++kw, row += transposed ? out_channels : 1) {
          *row = to_compute(line[kw * strides.column]);
        }
      }
    }
  });
}

// Pixels of y that are worked on at a time: the lanes of a full tile.
template <class C>
constexpr std::int64_t kPixelLanes = kTileVectors * kLanes<C>;

// Rows of the matrix A from `row` on for a tile of R; those past the last repeat it and are not
// stored.
template <class C, int R>
HANDCONV_INLINE void find_rows(const C* matrix, std::int64_t row, std::int64_t count,
                               std::int64_t depth, const C* (&rows)[R]) {
  for (int r = 0; r < R; ++r) rows[r] = matrix + (smaller(row + r, count - 1)) * depth;
}

template <class T>
class Im2colKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const std::int64_t matrix = g.out_channels * g.in_channels_per_group() * g.kernel_area();
    const std::int64_t panel = channels_per_panel(g) * g.kernel_area() * kPixelLanes<C>;
    return {bytes_of<C>(matrix), bytes_of<C>(panel + g.out_channels_per_group() * kPixelLanes<C>)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    Im2colKernel(problem, buffers, workspace).run_all();
  }

 private:
  static constexpr int V = kTileVectors;
  static constexpr int R = kTileRows<V>;

  Im2colKernel(const Problem& problem, const Buffers& buffers, const Workspace& workspace)
      : problem_(problem), g_(problem.geometry), buffers_(buffers), workspace_(workspace) {}

  // Input channels whose rows of X make a panel, which is to stay in L2 beside its block of sums.
  // Panels are summed one by one: rounding grows with their depth.
  static std::int64_t channels_per_panel(const Geometry& g) {
    constexpr std::int64_t kDepth = 512;
    return larger(1, smaller(kDepth / g.kernel_area(), g.in_channels_per_group()));
  }

  void run_all() {
    pack_weight_matrix(problem_, static_cast<const T*>(buffers_.w), false, workspace_.shared<C>());
    const std::int64_t blocks = ceil_divide(g_.output_area(), kPixelLanes<C>);
    const std::int64_t cost = kPixelLanes<C> * g_.out_channels_per_group() *
                              g_.in_channels_per_group() * g_.kernel_area();
    parallel_for(g_.batch * g_.groups * blocks, cost, [&](std::int64_t item, int thread) {
      const std::int64_t first = item % blocks * kPixelLanes<C>, rest = g_.output_area() - first;
      const ColumnBlock<T> columns(problem_, first, smaller(rest, kPixelLanes<C>));
      fill_pixels(item / blocks / g_.groups, item / blocks % g_.groups, first, columns,
                  workspace_.of_thread<C>(thread));
    });
  }

  // Y[all oc of the group, the block's pixels], as sums over panels.
  void fill_pixels(std::int64_t n, std::int64_t group, std::int64_t first,
                   const ColumnBlock<T>& columns, C* panel) const {
    const std::int64_t taps = g_.kernel_area(), channels = g_.in_channels_per_group(),
                       step = channels_per_panel(g_);
    C* sums = panel + step * taps * kPixelLanes<C>;
    start_with_bias(group, sums);
    for (std::int64_t ic = 0; ic < channels; ic += step) {
      const std::int64_t count = smaller(step, channels - ic);
      pack_panel(n, group, ic, count, columns, panel);
      const C* matrix = workspace_.shared<C>() +
                        group * g_.out_channels_per_group() * channels * taps + ic * taps;
      multiply(matrix, channels * taps, panel, count * taps, sums);
    }
    store_sums(n, group, first, columns.count(), sums);
  }

  void start_with_bias(std::int64_t group, C* sums) const {
    const auto* bias = static_cast<const T*>(buffers_.bias);
    for (std::int64_t oc = 0; oc < g_.out_channels_per_group(); ++oc) {
      const C value = bias ? to_compute(bias[group * g_.out_channels_per_group() + oc]) : C(0);
      for (std::int64_t lane = 0; lane < kPixelLanes<C>; ++lane)
        sums[oc * kPixelLanes<C> + lane] = value;
    }
  }

  void pack_panel(std::int64_t n, std::int64_t group, std::int64_t ic, std::int64_t count,
                  const ColumnBlock<T>& columns, C* panel) const {
    const ImageStrides strides = problem_.x_strides();
    const T* x = static_cast<const T*>(buffers_.x) + n * strides.sample +
                 (group * g_.in_channels_per_group() + ic) * strides.channel;
    for (std::int64_t c = 0; c < count; ++c) {
      for (std::int64_t tap = 0; tap < g_.kernel_area(); ++tap) {
        columns.pack_row(x + c * strides.channel, tap / g_.width.kernel, tap % g_.width.kernel,
                         panel + (c * g_.kernel_area() + tap) * kPixelLanes<C>);
      }
    }
  }

  void multiply(const C* matrix, std::int64_t row_length, const C* panel, std::int64_t depth,
                C* sums) const {
    const std::int64_t out_channels = g_.out_channels_per_group();
    for (std::int64_t oc = 0; oc < out_channels; oc += R) {
      Tile<C, R, V> tile;
      tile.start_at_zero();
      const C* rows[R];
      find_rows(matrix, oc, out_channels, row_length, rows);
      accumulate(tile, rows, 1, panel, kPixelLanes<C>, depth, FullPanel<C>{});
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        if (oc + r >= out_channels) break;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          C* sum = sums + (oc + r) * kPixelLanes<C> + v * kLanes<C>;
          store(sum, load(sum) + tile.sums[r][v]);
        }
      }
    }
  }

  void store_sums(std::int64_t n, std::int64_t group, std::int64_t first, std::int64_t count,
                  const C* sums) const {
    const ImageStrides strides = problem_.y_strides();
    T* y = static_cast<T*>(buffers_.y) + n * strides.sample +
           group * g_.out_channels_per_group() * strides.channel + first * strides.column;
    for (std::int64_t oc = 0; oc < g_.out_channels_per_group(); ++oc) {
      for (std::int64_t lane = 0; lane < count; ++lane) {
        y[oc * strides.channel + lane * strides.column] =
            from_compute<T>(sums[oc * kPixelLanes<C> + lane]);
      }
    }
  }

  const Problem& problem_;
  const Geometry& g_;
  const Buffers& buffers_;
  const Workspace& workspace_;
};
