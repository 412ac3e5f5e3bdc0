// direct.planes: lanes are neighbouring pixels of a row, for contiguous (NCHW) images and groups of
// few channels, depthwise above all. Nothing is padded or copied: a load takes a mask of the lanes
// that lie inside the image, made once per column of tiles and tap, and a row outside is a line of
// zeros.
//
// Register tile: F filled channels x rows x V vectors; each load serves F multiply-adds. Bytes:
// source and filled image once, as long as a plane stays in L2.

// One filled tile, and what is the same for all of its rows.
template <class C>
struct PlaneColumns {
  std::int64_t first;      // of the class, in filled positions
  const Mask<C>* sources;  // [tap][vector]: lanes inside the source
};

constexpr int kPlaneSums =
    kVectorBytes == 64 ? 16 : 8;  // vectors of sums a tile keeps in registers

// The lanes of a vector of filled positions from `first` on that exist and read inside the source
// through `tap`.
template <class C>
inline Mask<C> lanes_inside(const AxisClass& axis, std::int64_t source_size, const Tap& tap,
                            std::int64_t first) {
  const std::int64_t start = first * axis.source_step + tap.offset;
  const auto lanes_before =
      [&](std::int64_t position) {  // lanes whose source lies before `position`
        const std::int64_t distance = position - start;
        return distance <= 0 ? 0 : (distance + axis.source_step - 1) / axis.source_step;
      };
  const std::int64_t last = lanes_before(source_size), exist = axis.count - first;
  return mask_between<C>(lanes_before(0), last < exist ? last : exist);
}

template <class T>
class PlanesKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    const std::int64_t elements =
        gather.groups * group_weights(gather) + gather.columns.source_size;
    return {static_cast<std::size_t>(elements) * sizeof(C),
            static_cast<std::size_t>(gather.columns.kernel_size) * 2 * sizeof(Mask<C>)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    PlanesKernel(gather, workspace).run_all();
  }

 private:
  PlanesKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather), workspace_(workspace) {}

  static constexpr std::int64_t kRowsPerItem = 32;

  // Filled channels of a tile.
  static std::int64_t tile_channels(const Gather& gather) {
    return gather.filled_channels == 1 ? 1 : 4;
  }
  static std::int64_t channel_tiles(const Gather& gather) {
    return (gather.filled_channels + tile_channels(gather) - 1) / tile_channels(gather);
  }
  // [channel tile][source channel][tap][channel of the tile]
  static std::int64_t tile_weights(const Gather& gather) {
    return gather.source_channels * gather.kernel_area() * tile_channels(gather);
  }
  static std::int64_t group_weights(const Gather& gather) {
    return channel_tiles(gather) * tile_weights(gather);
  }

  // A source line in the padding.
  const T* zeros() const {
    return reinterpret_cast<const T*>(workspace_.shared<C>() +
                                      gather_.groups * group_weights(gather_));
  }

  void run_all() {
    pack_weights();
    const bool is_depthwise = tile_channels(gather_) == 1;
    const std::int64_t tiles = channel_tiles(gather_);
    for (const AxisClass& rows : gather_.rows.classes()) {
      const std::int64_t row_items = (rows.count + kRowsPerItem - 1) / kRowsPerItem;
      for (const AxisClass& columns : gather_.columns.classes()) {
        const std::int64_t cost =
            kRowsPerItem * columns.count * tile_channels(gather_) * gather_.cost_per_element();
        parallel_for(
            gather_.batch * gather_.groups * tiles * row_items, cost,
            [&](std::int64_t item, int thread) {
              const std::int64_t row_item = item % row_items, plane = item / row_items;
              const Planes planes{
                  &rows,
                  &columns,
                  plane / tiles / gather_.groups,
                  plane / tiles % gather_.groups,
                  plane % tiles,
                  row_item * kRowsPerItem,
                  static_cast<Mask<C>*>(static_cast<void*>(workspace_.of_thread<C>(thread)))};
              is_depthwise ? fill_planes<1>(planes) : fill_planes<4>(planes);
            });
      }
    }
  }

  void pack_weights() const {
    const auto* w = static_cast<const T*>(gather_.w);
    const std::int64_t tiles = channel_tiles(gather_), width = tile_channels(gather_);
    C* packed = workspace_.shared<C>();
    parallel_for(gather_.groups * tiles, tile_weights(gather_), [&](std::int64_t item, int) {
      const std::int64_t group = item / tiles, first = item % tiles * width;
      C* to = packed + item * tile_weights(gather_);
      for (std::int64_t s = 0; s < gather_.source_channels; ++s) {
        for (std::int64_t kh = 0; kh < gather_.rows.kernel_size; ++kh) {
          const T* line = w + group * gather_.w_group + s * gather_.w_source + kh * gather_.w_row;
          for (std::int64_t kw = 0; kw < gather_.columns.kernel_size; ++kw) {
            const T* element = line + kw * gather_.w_column;
            for (std::int64_t f = first; f < first + width; ++f) {
              *to++ =
                  f < gather_.filled_channels ? to_compute(element[f * gather_.w_filled]) : C(0);
            }
          }
        }
      }
    });
    std::memset(const_cast<T*>(zeros()), 0,
                static_cast<std::size_t>(gather_.columns.source_size) * sizeof(T));
  }

  // What one item fills: up to F planes, rows [first_row, first_row + kRowsPerItem) of a class.
  struct Planes {
    const AxisClass* rows;
    const AxisClass* columns;
    std::int64_t n, group, channel_tile, first_row;
    Mask<C>* masks;
  };

  template <int F>
  void fill_planes(const Planes& planes) const {
    const bool unit = planes.columns->source_step == 1;
    if (planes.columns->count <= kLanes<C>) {
      unit ? fill_columns<F, 1, true>(planes) : fill_columns<F, 1, false>(planes);
    } else {
      unit ? fill_columns<F, 2, true>(planes) : fill_columns<F, 2, false>(planes);
    }
  }

  template <int F, int V, bool kUnitStep>
  void fill_columns(const Planes& planes) const {
    constexpr int R = kPlaneSums / (F * V);
    const AxisClass& columns = *planes.columns;
    const std::int64_t rest = planes.rows->count - planes.first_row;
    const std::int64_t last_row = planes.first_row + (rest < kRowsPerItem ? rest : kRowsPerItem);
    for (std::int64_t first = 0; first < columns.count; first += V * kLanes<C>) {
      for (std::int64_t t = 0; t < columns.taps.count; ++t) {
        for (int v = 0; v < V; ++v) {
          planes.masks[t * V + v] = lanes_inside<C>(columns, gather_.columns.source_size,
                                                    columns.taps[t], first + v * kLanes<C>);
        }
      }
      for (std::int64_t row = planes.first_row; row < last_row; row += R) {
        fill_tile<F, R, V, kUnitStep>(planes, row, last_row, {first, planes.masks});
      }
    }
  }

  template <int F, int R, int V, bool kUnitStep>
  void fill_tile(const Planes& planes, std::int64_t row, std::int64_t last_row,
                 const PlaneColumns<C>& at) const {
    const ImageStrides& strides = gather_.source_strides;
    const std::int64_t channel = planes.group * gather_.filled_channels + planes.channel_tile * F;
    const C* weights =
        workspace_.shared<C>() +
        (planes.group * channel_tiles(gather_) + planes.channel_tile) * tile_weights(gather_);
    const T* source = static_cast<const T*>(gather_.source) + planes.n * strides.sample +
                      planes.group * gather_.source_channels * strides.channel;
    BlockedTile<C, F * R, V> tile;
    start<F, R, V>(tile.block, channel);
    for (std::int64_t s = 0; s < gather_.source_channels; ++s) {
      const C* channel_weights = weights + s * gather_.kernel_area() * F;
      for (const Tap& tap : planes.rows->taps) {
        const T* lines[R];
        if (!find_lines(planes, row, tap, source + s * strides.channel, lines)) continue;
        add_row<F, R, V, kUnitStep>(tile.block, lines, *planes.columns, at,
                                    channel_weights + tap.kernel * gather_.columns.kernel_size * F);
        tile.note_terms(planes.columns->taps.count);
      }
    }
    tile.finish();
    store_tile<F, R, V>(tile.block, planes, row, last_row, at.first, channel);
  }

  template <int F, int R, int V>
  HANDCONV_INLINE void start(Tile<C, F * R, V>& tile, std::int64_t channel) const {
    const auto* bias = static_cast<const T*>(gather_.bias);
    const std::int64_t last = gather_.groups * gather_.filled_channels;
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) {
      const C value = bias && channel + f < last ? to_compute(bias[channel + f]) : C(0);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) tile.sums[f * R + r][v] = broadcast(value);
      }
    }
  }

  // The source line of each row of the tile; false if all lie in the padding. Rows past the last
  // are not stored, and read what there is.
  template <int R>
  HANDCONV_INLINE bool find_lines(const Planes& planes, std::int64_t row, const Tap& tap,
                                  const T* plane, const T* (&lines)[R]) const {
    const std::int64_t step = planes.rows->source_step, pitch = gather_.source_strides.row;
    const auto height = static_cast<std::uint64_t>(gather_.rows.source_size);
    const T* zero_line = zeros();
    std::int64_t h = row * step + tap.offset, offset = h * pitch;
    bool any = false;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const bool inside = static_cast<std::uint64_t>(h) < height;
      lines[r] = inside ? plane + offset : zero_line;
      any |= inside;
      h += step;
      offset += step * pitch;
    }
    return any;
  }

  template <int F, int R, int V, bool kUnitStep>
  HANDCONV_INLINE static void add_row(Tile<C, F * R, V>& tile, const T* const (&lines)[R],
                                      const AxisClass& columns, const PlaneColumns<C>& at,
                                      const C* weights) {
    for (std::int64_t t = 0; t < columns.taps.count; ++t) {
      const Tap& tap = columns.taps[t];
      const std::int64_t start = at.first * columns.source_step + tap.offset;
      Vector<C> weight[F];
      for (int f = 0; f < F; ++f) weight[f] = broadcast(weights[tap.kernel * F + f]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const Mask<C> mask = at.sources[t * V + v];
        const std::int64_t position = start + v * kLanes<C> * columns.source_step;
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const T* p = lines[r] + position;
          const Vector<C> pixels =
              kUnitStep ? load_masked(p, mask) : load_strided(p, columns.source_step, mask);
#pragma GCC unroll 4
          for (int f = 0; f < F; ++f)
            tile.sums[f * R + r][v] = fma(pixels, weight[f], tile.sums[f * R + r][v]);
        }
      }
    }
  }

  template <int F, int R, int V>
  HANDCONV_INLINE void store_tile(const Tile<C, F * R, V>& tile, const Planes& planes,
                                  std::int64_t row, std::int64_t last_row, std::int64_t first,
                                  std::int64_t channel) const {
    const ImageStrides& strides = gather_.filled_strides;
    const AxisClass &rows = *planes.rows, &columns = *planes.columns;
    const std::int64_t last_channel = (planes.group + 1) * gather_.filled_channels;
    T* image = static_cast<T*>(gather_.filled) + planes.n * strides.sample;
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) {
      if (channel + f >= last_channel) break;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        if (row + r >= last_row) break;
        T* line = image + (channel + f) * strides.channel +
                  (rows.first + (row + r) * rows.step) * strides.row;
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          const std::int64_t position = first + v * kLanes<C>;
          store_strided(line + columns.first + position * columns.step, columns.step,
                        columns.count - position, tile.sums[f * R + r][v]);
        }
      }
    }
  }

  // The first `count` lanes.
  static void store_strided(T* p, std::int64_t step, std::int64_t count, Vector<C> sums) {
    if (step == 1) return store_masked(p, sums, mask_between<C>(0, count));
    for (int lane = 0; lane < kLanes<C> && lane < count; ++lane)
      p[lane * step] = from_compute<T>(sums[lane]);
  }

  const Gather& gather_;
  const Workspace& workspace_;
};

// The weight gradient of planes: the taps of a pair of channels are sums over the pixels of one
// plane of y and one of x. Up to K x K taps are kept in registers at a time, as vectors of partial
// sums down a column of vectors, which are then added to the totals.
template <class T>
class PlanesWeightKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem&) { return {}; }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace&) {
    const std::int64_t kh = problem.geometry.height.kernel, kw = problem.geometry.width.kernel;
    const std::int64_t largest = kh > kw ? kh : kw;
    if (largest == 1) return run_all<1>(problem, buffers);
    if (largest <= 3 || kVectorBytes < 64) return run_all<3>(problem, buffers);
    if (largest == 5 || largest > 8) return run_all<5>(problem, buffers);
    run_all<4>(problem, buffers);
  }

 private:
  // A tile of taps of one pair of channels.
  template <int K>
  struct Item {
    std::int64_t oc, ic, kh, kw;
    int rows, columns;  // of K, that exist
  };

  template <int K>
  static void run_all(const Problem& problem, const Buffers& buffers) {
    const Geometry& g = problem.geometry;
    const std::int64_t tiles_h = (g.height.kernel + K - 1) / K,
                       tiles_w = (g.width.kernel + K - 1) / K;
    const std::int64_t channels = g.in_channels_per_group();
    const std::int64_t cost = g.batch * g.output_area() * K * K;
    parallel_for(g.out_channels * channels * tiles_h * tiles_w, cost, [&](std::int64_t index, int) {
      const std::int64_t pair = index / tiles_w / tiles_h;
      const std::int64_t kh = index / tiles_w % tiles_h * K, kw = index % tiles_w * K;
      const auto existing = [](std::int64_t rest) { return static_cast<int>(rest < K ? rest : K); };
      fill_taps<K>(problem, buffers,
                   {pair / channels, pair % channels, kh, kw, existing(g.height.kernel - kh),
                    existing(g.width.kernel - kw)});
    });
  }

  template <int K>
  static void fill_taps(const Problem& problem, const Buffers& buffers, const Item<K>& item) {
    const Geometry& g = problem.geometry;
    const ImageStrides xs = problem.x_strides(), ys = problem.y_strides();
    const std::int64_t group = item.oc / g.out_channels_per_group();
    const T* x = static_cast<const T*>(buffers.x) +
                 (group * g.in_channels_per_group() + item.ic) * xs.channel;
    const T* y = static_cast<const T*>(buffers.y) + item.oc * ys.channel;
    Tile<C, K, K> totals;
    totals.start_at_zero();
    for (std::int64_t n = 0; n < g.batch; ++n) {
      for (std::int64_t column = 0; column < g.width.output; column += kLanes<C>) {
        add_column<K>(totals, g, item, x + n * xs.sample, y + n * ys.sample, column);
      }
    }
    for (int i = 0; i < item.rows; ++i) {
      for (int j = 0; j < item.columns; ++j) {
        *weight_element<T>(problem, buffers, item.oc, item.ic, item.kh + i, item.kw + j) =
            from_compute<T>(horizontal_sum<C>(totals.sums[i][j]));
      }
    }
  }

  // The columns of y from `column` on that fill a vector.
  template <int K>
  HANDCONV_INLINE static void add_column(Tile<C, K, K>& totals, const Geometry& g,
                                         const Item<K>& item, const T* x, const T* y,
                                         std::int64_t column) {
    const Mask<C> exist = mask_between<C>(0, g.width.output - column);
    Mask<C> inside[K];
    for (int j = 0; j < K; ++j) {
      const Range outputs = j < item.columns ? outputs_inside(g.width, item.kw + j) : Range{0, 0};
      inside[j] = mask_between<C>(outputs.first - column, outputs.last - column);
    }
    const T* x_column = x + g.width.input_position(column, item.kw);
    Tile<C, K, K> tile;
    tile.start_at_zero();
    for (std::int64_t oh = 0; oh < g.height.output; ++oh) {
      const Vector<C> cotangent = load_masked(y + oh * g.width.output + column, exist);
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) {
        const std::int64_t h = g.height.input_position(oh, item.kh + i);
        if (i >= item.rows || h < 0 || h >= g.height.input) continue;
        const T* line = x_column + h * g.width.input;
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) {
          const Vector<C> pixels =
              load_strided(line + j * g.width.dilation, g.width.stride, inside[j]);
          tile.sums[i][j] = fma(pixels, cotangent, tile.sums[i][j]);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < K; ++j) totals.sums[i][j] += tile.sums[i][j];
    }
  }
};
