// The weight gradient of direct.depthwise.channels: lanes are output channels.
//
//     w[c, kh, kw] = sum over n, oh, ow of y[n, oh, ow, c] * x[n, oh s - p + kh d, ow s - p + kw d,
//     c]
//
// The sums of up to 4 rows by 4 columns of taps are kept in registers while a block of rows of y
// passes. A tile of kPixels pixels of y is loaded once for all of them, and kPixels + 3 pixels of x
// serve 4 kPixels multiply-adds (depthwise_columns.h). The vectors of a pixel follow each other
// within a block of rows, so that x and y are read in the order in which they lie: 8 bytes for 2
// K^2 FLOPs in float32. Of images that no cache holds, one vector of a cache line asks for the next
// block of rows: 1.1 to 1.3 times as fast (AVX2; with stride 2 no gain). Tried: that every vector
// asks for its share as in depthwise_channels_ahead.h, a loss where images are small.

template <class T>
class DepthwiseChannelsWeightKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) { return Plan(problem).size(); }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    DepthwiseChannelsWeightKernel(problem, buffers, workspace).run_all();
  }

 private:
  static constexpr int kPixels = kVectorBytes == 64 ? 7 : 4;
  static constexpr int kMaxRows = kVectorBytes == 64 ? 4 : 3, kMaxTaps = 4;
  // Of a partial sum: as longer ones, those of long rows would round worse than F.conv2d.
  static constexpr std::int64_t kTilesOfSum = 128 / kPixels;
  static constexpr std::int64_t L = kLanes<C>;
  static constexpr std::int64_t kVectorsOfLine =
      larger(64 / (L * static_cast<std::int64_t>(sizeof(T))), 1);

  // Where a tile lies in a line of y and of x, in elements: kPixels pixels, or one.
  struct TileColumns {
    std::int64_t y, x;
    std::uint32_t inside;  // which of the columns of x exist
    bool is_whole;
  };

  // How the work is cut: into chunks of vectors by parts of the rows of y, of which each has sums
  // of its own.
  struct Plan {
    explicit Plan(const Problem& problem)
        : area(problem.geometry.kernel_area()),
          blocks(ceil_divide(problem.geometry.out_channels, L)) {
      const Geometry& g = problem.geometry;
      // Enough pixels for a partial sum to amortise adding it to the totals, few enough for its
      // rounding to stay small.
      constexpr std::int64_t kPixels = 96;
      block_rows = ceil_divide(kPixels, g.width.output);
      sample_blocks = ceil_divide(g.height.output, block_rows);
      // A part is worth it if it adds up many more terms than it has sums.
      constexpr std::int64_t kItems = 16, kPixelsPerTap = 32, kChunkBytes = 24 << 10;
      parts = g.batch * g.output_area() / (kPixelsPerTap * area);
      if (parts > kItems) parts = kItems;
      if (parts > g.batch * sample_blocks) parts = g.batch * sample_blocks;
      if (parts < 1) parts = 1;
      chunks = ceil_divide(blocks * area * L * static_cast<std::int64_t>(sizeof(C)), kChunkBytes);
      while (chunks * parts < kItems) chunks *= 2;
      if (chunks > blocks) chunks = blocks;
      sum_bytes = (parts * blocks * area * L * static_cast<std::int64_t>(sizeof(C)) + 63) / 64 * 64;
      run_bytes = g.width.kernel * static_cast<std::int64_t>(sizeof(TapRun));
      tile_bytes = g.width.kernel * g.width.output * static_cast<std::int64_t>(sizeof(TileColumns));
    }
    WorkspaceSize size() const {
      return {static_cast<std::size_t>(sum_bytes + run_bytes + tile_bytes), 0};
    }
    std::int64_t chunk_first(std::int64_t chunk) const { return blocks * chunk / chunks; }

    std::int64_t area, blocks, block_rows, sample_blocks, parts, chunks;
    std::int64_t sum_bytes, run_bytes, tile_bytes;
  };

  // Rows [first, last) of y of one sample, and the vector of channels.
  struct RowBlock {
    const T *x, *y;
    std::int64_t first, last;
    bool fetches_ahead;  // asks memory for the rows that follow, which other vectors share
  };

  DepthwiseChannelsWeightKernel(const Problem& problem, const Buffers& buffers,
                                const Workspace& workspace)
      : problem_(problem),
        buffers_(buffers),
        geometry_(problem.geometry),
        plan_(problem),
        axis_(geometry_.width, Slot::kOutput),
        x_strides_(problem.x_strides()),
        y_strides_(problem.y_strides()),
        fetches_ahead_(geometry_.height.stride * geometry_.width.stride == 1 &&
                       come_from_memory<T>(geometry_.batch *
                                           (geometry_.in_channels * geometry_.input_area() +
                                            geometry_.out_channels * geometry_.output_area()))),
        sums_(workspace.shared<C>()) {
    auto* base = workspace.shared<char>() + plan_.sum_bytes;
    columns_ = plan_columns(axis_.classes()[0], geometry_.width.input, kMaxTaps,
                            reinterpret_cast<TapRun*>(base));
    list_tiles(reinterpret_cast<TileColumns*>(base + plan_.run_bytes));
  }

  // The tiles of a line, run of taps by run of taps.
  void list_tiles(TileColumns* tiles) {
    tiles_ = tiles;
    for (const TapRun& run : columns_.runs) {
      tile_count_ = 0;
      for (std::int64_t residue = 0; residue < columns_.spread; ++residue) {
        const std::int64_t count = columns_.residue_count(residue);
        for (std::int64_t i = 0, pixels; i < count; i += pixels) {
          pixels = count - i >= kPixels ? kPixels : 1;
          const std::int64_t position = residue + i * columns_.spread;
          const std::int64_t column = position * columns_.source_step + run.column;
          *tiles++ = {
              position * y_strides_.column, column * x_strides_.column,
              columns_inside(column, columns_.unit, columns_.source_size, pixels + run.taps - 1),
              pixels == kPixels};
          ++tile_count_;
        }
      }
    }
  }

  void run_all() {
    const std::int64_t row_blocks = geometry_.batch * plan_.sample_blocks;
    const std::int64_t cost = row_blocks * plan_.block_rows * geometry_.width.output / plan_.parts *
                              (plan_.blocks / plan_.chunks) * L * plan_.area;
    parallel_for(plan_.chunks * plan_.parts, cost, [&](std::int64_t item, int) {
      const std::int64_t part = item % plan_.parts, chunk = item / plan_.parts;
      const std::int64_t first = plan_.chunk_first(chunk), last = plan_.chunk_first(chunk + 1);
      C* sums = sums_of(part, first);
      for (std::int64_t i = 0; i < (last - first) * plan_.area; ++i)
        store(sums + i * L, Vector<C>{});
      for (std::int64_t i = row_blocks * part / plan_.parts;
           i < row_blocks * (part + 1) / plan_.parts; ++i) {
        for (std::int64_t block = first; block < last; ++block) {
          add_row_block(i, block, sums_of(part, block));
        }
      }
      if (plan_.parts > 1) return;
      for (std::int64_t block = first; block < last; ++block) write(block);
    });
    if (plan_.parts == 1) return;
    parallel_for(plan_.blocks, plan_.parts * plan_.area * L, [&](std::int64_t block, int) {
      C* sums = sums_of(0, block);
      for (std::int64_t part = 1; part < plan_.parts; ++part) {
        const C* others = sums_of(part, block);
        for (std::int64_t i = 0; i < plan_.area * L; i += L) {
          store(sums + i, load(sums + i) + load(others + i));
        }
      }
      write(block);
    });
  }

  // [tap row][tap column][lane]
  C* sums_of(std::int64_t part, std::int64_t block) const {
    return sums_ + (part * plan_.blocks + block) * plan_.area * L;
  }

  // Converts the sums of a block to the elements of w.
  void write(std::int64_t block) const {
    const Axis &height = geometry_.height, &width = geometry_.width;
    const WeightStrides& strides = problem_.w_strides;
    const std::int64_t first = block * L, rest = geometry_.out_channels - first;
    const std::int64_t lanes = rest < L ? rest : L;
    const C* sums = sums_of(0, block);
    if (strides.column == 1 && strides.row == width.kernel) {
      T* w = weight_element<T>(problem_, buffers_, first, 0, 0, 0);
      return transpose_matrix(sums, L, plan_.area, lanes, w, strides.out_channel);
    }
    for (std::int64_t kh = 0; kh < height.kernel; ++kh) {
      for (std::int64_t kw = 0; kw < width.kernel; ++kw, sums += L) {
        for (std::int64_t lane = 0; lane < lanes; ++lane) {
          *weight_element<T>(problem_, buffers_, first + lane, 0, kh, kw) =
              from_compute<T>(sums[lane]);
        }
      }
    }
  }

  void add_row_block(std::int64_t index, std::int64_t block, C* sums) const {
    const std::int64_t n = index / plan_.sample_blocks;
    const std::int64_t first = index % plan_.sample_blocks * plan_.block_rows;
    const std::int64_t end = first + plan_.block_rows;
    const LaneVector<T> lanes(block * L, geometry_.out_channels,
                              geometry_.out_channels_per_group());
    const RowBlock rows{static_cast<const T*>(buffers_.x) + n * x_strides_.sample + lanes.x_first(),
                        static_cast<const T*>(buffers_.y) + n * y_strides_.sample + lanes.first,
                        first, end < geometry_.height.output ? end : geometry_.height.output,
                        fetches_ahead_ && block % kVectorsOfLine == 0};
    if (lanes.is_full() && lanes.multiplier == 1) {
      return add_all_taps(rows, FullLanes<T>{}, FullLanes<T>{}, sums);
    }
    // Tails, too few to deserve code of their own, pass for repeated lanes.
    const RepeatedLanes<T> repeated{lanes.x_mask, lanes.index};
    add_all_taps(rows, repeated, TailLanes<T>{lanes.mask}, sums);
  }

  template <class LoadX, class LoadY>
  void add_all_taps(const RowBlock& rows, LoadX load_x, LoadY load_y, C* sums) const {
    const std::int64_t height = geometry_.height.kernel;
    const std::int64_t parts = ceil_divide(height, kMaxRows);
    const std::int64_t sums_of_row = ceil_divide(tile_count_, kTilesOfSum);
    RowBlock without_last = rows;
    without_last.fetches_ahead = false;
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t kh = height * part / parts, last = height * (part + 1) / parts;
      const RowBlock& block = part + 1 == parts ? rows : without_last;
      const TileColumns* tiles = tiles_;
      for (const TapRun& run : columns_.runs) {
        C* first_sum = sums + (kh * geometry_.width.kernel + run.kernel) * L;
        const std::int64_t step = run.kernel_step * L;
        for (std::int64_t i = 0; i < sums_of_row; ++i) {
          const Range of_sum = part_of({0, tile_count_}, sums_of_row, i);
          const Span<TileColumns> some{tiles + of_sum.first, of_sum.last - of_sum.first};
          switch (last - kh) {
            case 1:
              add_rows<1>(block, kh, run.taps, step, some, load_x, load_y, first_sum);
              break;
            case 2:
              add_rows<2>(block, kh, run.taps, step, some, load_x, load_y, first_sum);
              break;
            case 3:
              add_rows<3>(block, kh, run.taps, step, some, load_x, load_y, first_sum);
              break;
            default:
              add_rows<kMaxRows>(block, kh, run.taps, step, some, load_x, load_y, first_sum);
          }
        }
        tiles += tile_count_;
      }
    }
  }

  template <int R, class LoadX, class LoadY>
  void add_rows(const RowBlock& rows, std::int64_t kh, std::int64_t taps, std::int64_t step,
                const Span<TileColumns>& tiles, LoadX load_x, LoadY load_y, C* sums) const {
    if (taps == 1) return add_taps<R, 1>(rows, kh, step, tiles, load_x, load_y, sums);
    if (taps == 2) return add_taps<R, 2>(rows, kh, step, tiles, load_x, load_y, sums);
    if (taps == 3) return add_taps<R, 3>(rows, kh, step, tiles, load_x, load_y, sums);
    add_taps<R, 4>(rows, kh, step, tiles, load_x, load_y, sums);
  }

  // Adds the sums of R rows of taps from kh on by K of a row, which lie `step` apart.
  template <int R, int K, class LoadX, class LoadY>
  [[gnu::noinline]] void add_taps(const RowBlock& rows, std::int64_t kh, std::int64_t step,
                                  const Span<TileColumns>& tiles, LoadX load_x, LoadY load_y,
                                  C* sums) const {
    const Axis& height = geometry_.height;
    const std::int64_t x_unit = columns_.unit * x_strides_.column;
    const std::int64_t y_unit = columns_.spread * y_strides_.column;
    const bool is_sample = plan_.sample_blocks == 1;
    const std::int64_t y_ahead = is_sample ? y_strides_.sample : plan_.block_rows * y_strides_.row;
    const std::int64_t x_ahead =
        is_sample ? x_strides_.sample : plan_.block_rows * height.stride * x_strides_.row;
    Tile<C, R, K> tile;
    tile.start_at_zero();
    for (std::int64_t oh = rows.first; oh < rows.last; ++oh) {
      const T* lines[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const std::int64_t h = height.input_position(oh, kh + r);
        const bool inside =
            static_cast<std::uint64_t>(h) < static_cast<std::uint64_t>(height.input);
        lines[r] = inside ? rows.x + h * x_strides_.row : nullptr;
      }
      const T* y = rows.y + oh * y_strides_.row;
      for (const TileColumns& columns : tiles) {
        if (columns.is_whole) {
          add_tile<kPixels>(tile, lines, y, columns, x_unit, y_unit, load_x, load_y);
          if (kFetchesAhead && rows.fetches_ahead && lines[R - 1]) {
            fetch_pixels(y + columns.y + y_ahead, y_unit);
            fetch_pixels(lines[R - 1] + columns.x + x_ahead, x_unit);
          }
        } else {
          add_tile<1>(tile, lines, y, columns, x_unit, y_unit, load_x, load_y);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) {
        C* sum = sums + r * geometry_.width.kernel * L + k * step;
        store(sum, load(sum) + tile.sums[r][k]);
      }
    }
  }

  HANDCONV_INLINE static void fetch_pixels(const T* first, std::int64_t unit) {
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) __builtin_prefetch(first + p * unit, 0, 2);
  }

  template <int P, int R, int K, class LoadX, class LoadY>
  HANDCONV_INLINE static void add_tile(Tile<C, R, K>& tile, const T* const (&lines)[R], const T* y,
                                       const TileColumns& columns, std::int64_t x_unit,
                                       std::int64_t y_unit, LoadX load_x, LoadY load_y) {
    Vector<C> cotangent[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) cotangent[p] = load_y(y + columns.y + p * y_unit);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      if (!lines[r]) continue;
      const T* line = lines[r] + columns.x;
#pragma GCC unroll 16
      for (int j = 0; j < P + K - 1; ++j) {
        if (__builtin_expect(!(columns.inside >> j & 1), 0)) continue;
        const Vector<C> pixel = load_x(line + j * x_unit);
#pragma GCC unroll 4
        for (int k = 0; k < K; ++k) {
          const int p = j - k;
          if (p < 0 || p >= P) continue;
          tile.sums[r][k] = fma(pixel, cotangent[p], tile.sums[r][k]);
        }
      }
    }
  }

  const Problem& problem_;
  const Buffers& buffers_;
  const Geometry& geometry_;
  Plan plan_;
  AxisTaps axis_;
  ColumnPlan columns_{};
  ImageStrides x_strides_, y_strides_;
  bool fetches_ahead_;
  C* sums_;
  const TileColumns* tiles_ = nullptr;
  std::int64_t tile_count_ = 0;  // of one run of taps
};
