// direct.depthwise.packed: y and the input gradient of large depthwise kernels with stride 1, for
// both layouts and every type; lanes are channels.
//
//     filled[i, c] = bias[c] + sum over taps of w[c, tap] * source[i + offset(tap), c]
//
// A vector of channels of a strip of the source is packed as [row][column][lane], converted, with
// zeros for the columns outside: K^2 multiply-adds a pixel pay for one copy, after which loads are
// aligned, no mask is left, and pixels do not share cache sets as the pixels of channels_last
// images with 2^n channels do. NCHW is transposed on its way in and out. Register tile:
// depthwise_packed_tile.h. Bytes: source and filled image once, and the K - 1 rows by which strips
// overlap.

template <class T>
class DepthwisePackedKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    return PackedPlan<C>(problem.layout, gather).size();
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    if (gather.batch * gather.filled_area() == 0) return;
    DepthwisePackedKernel(problem.layout, gather, workspace).run_all();
  }

 private:
  static constexpr std::int64_t L = kLanes<C>;

  // The workspace of a thread: whose weight it holds, the totals of a tile, that weight as [tap by
  // offset][lane], the packed source, and the filled pixels of a strip before they are transposed.
  struct Scratch {
    std::int64_t* block;
    C *totals, *weights, *source, *filled;
  };

  // What an item fills: rows and columns of one sample, and its vector of channels.
  struct Item {
    std::int64_t n, block, channel, lanes;
    std::int64_t row, rows, column, columns;
    std::int64_t first_source_row, source_rows;  // that it reads
  };

  DepthwisePackedKernel(Layout layout, const Gather& gather, const Workspace& workspace)
      : gather_(gather), workspace_(workspace), plan_(layout, gather) {}

  void run_all() const {
    const std::int64_t blocks = plan_.blocks, parts = plan_.strips * plan_.segments;
    if (plan_.pixel_order) {
      parallel_for(blocks, plan_.area * L, [&](std::int64_t block, int) {
        pack_weights(block, workspace_.shared<C>() + block * plan_.area * L);
      });
    } else {
      for (int thread = 0; thread < max_threads(); ++thread) *scratch_of(thread).block = -1;
    }
    const std::int64_t cost = plan_.strip * plan_.segment * plan_.area * L;
    const std::int64_t rest = gather_.batch * parts;
    parallel_for(blocks * rest, cost, [&](std::int64_t index, int thread) {
      const std::int64_t block = plan_.pixel_order ? index % blocks : index / rest;
      const std::int64_t part = plan_.pixel_order ? index / blocks : index % rest;
      fill_item(item_of(block, part / parts, part % parts), scratch_of(thread));
    });
  }

  Item item_of(std::int64_t block, std::int64_t n, std::int64_t part) const {
    Item item;
    item.n = n;
    item.block = block;
    item.channel = block * L;
    item.lanes = smaller(gather_.groups - item.channel, L);
    item.row = part / plan_.segments * plan_.strip;
    item.rows = smaller(plan_.height - item.row, plan_.strip);
    item.column = part % plan_.segments * plan_.segment;
    item.columns = smaller(plan_.width - item.column, plan_.segment);
    const std::int64_t first = item.row + plan_.rows.first;
    const std::int64_t last = first + item.rows + plan_.rows.span;
    item.first_source_row = larger(first, 0);
    item.source_rows = larger(smaller(last, gather_.rows.source_size) - item.first_source_row, 0);
    return item;
  }

  void fill_item(const Item& item, Scratch scratch) const {
    if (plan_.pixel_order) {
      scratch.weights = workspace_.shared<C>() + item.block * plan_.area * L;
    } else if (*scratch.block != item.block) {
      *scratch.block = item.block;
      pack_weights(item.block, scratch.weights);
    }
    pack_source(item, scratch.source);
    if (plan_.is_planar) {
      fill(item, scratch, scratch.filled, item.columns * L, L, mask_between<C>(0, L));
      store_planes(item, scratch.filled);
    } else {
      const ImageStrides& strides = gather_.filled_strides;
      T* filled = static_cast<T*>(gather_.filled) + item.n * strides.sample +
                  item.row * strides.row + item.column * strides.column + item.channel;
      fill(item, scratch, filled, strides.row, strides.column, mask_between<C>(0, item.lanes));
    }
  }

  Scratch scratch_of(int thread) const {
    auto* base = workspace_.of_thread<std::byte>(thread);
    auto* totals = reinterpret_cast<C*>(base + kPackedHeaderBytes);
    C* weights = totals + kPackedRows * kLargestPackedTile * L;
    C* source = weights + (plan_.pixel_order ? 0 : plan_.area * L);
    return {reinterpret_cast<std::int64_t*>(base), totals, weights, source,
            source + plan_.packed_pixels() * L};
  }

  // In the order of their offsets.
  void pack_weights(std::int64_t block, C* target) const {
    const std::int64_t width = gather_.columns.kernel_size;
    const T* w = static_cast<const T*>(gather_.w) + block * L * gather_.w_group;
    const std::int64_t lanes = smaller(gather_.groups - block * L, L);
    if (gather_.w_column == 1 && gather_.w_row == width) {
      const bool descends = plan_.rows.descends || plan_.columns.descends;
      C* first = descends ? target + (plan_.area - 1) * L : target;
      return transpose_lanes(w, gather_.w_group, lanes, plan_.area, first, descends ? -L : L);
    }
    for (std::int64_t i = 0; i < plan_.area; ++i, target += L) {
      const std::int64_t row = i / width, column = i % width;
      const T* tap = w + (plan_.rows.descends ? plan_.rows.taps - 1 - row : row) * gather_.w_row +
                     (plan_.columns.descends ? width - 1 - column : column) * gather_.w_column;
      for (std::int64_t lane = 0; lane < L; ++lane) {
        target[lane] = lane < lanes ? to_compute(tap[lane * gather_.w_group]) : C(0);
      }
    }
  }

  // `count` elements of each of `lanes` lists to vectors target_step apart.
  static void transpose_lanes(const T* source, std::int64_t source_step, std::int64_t lanes,
                              std::int64_t count, C* target, std::int64_t target_step) {
    for (std::int64_t i = 0; i < count; i += L) {
      const auto mask = mask_between<C>(0, count - i);
      Vector<C> square[L];
      for (std::int64_t lane = 0; lane < L; ++lane) {
        square[lane] =
            lane < lanes ? load_masked(source + lane * source_step + i, mask) : Vector<C>{};
      }
      transpose<C>(square);
      for (std::int64_t j = 0; j < L && i + j < count; ++j, target += target_step) {
        store(target, square[j]);
      }
    }
  }

  void pack_source(const Item& item, C* target) const {
    const ImageStrides& strides = gather_.source_strides;
    const T* source = static_cast<const T*>(gather_.source) + item.n * strides.sample +
                      item.first_source_row * strides.row + item.channel * strides.channel;
    const std::int64_t start = item.column + plan_.columns.first;  // source column of pixel 0
    const std::int64_t width = plan_.packed_width, size = gather_.columns.source_size;
    const std::int64_t begin = smaller(larger(-start, 0), width);
    const std::int64_t end = larger(smaller(size - start, width), begin);
    const auto mask = mask_between<C>(0, item.lanes);
    for (std::int64_t row = 0; row < item.source_rows; ++row, source += strides.row) {
      C* line = target + row * width * L;
      const T* pixel = source + (start + begin) * strides.column;
      for (std::int64_t i = 0; i < begin; ++i) store(line + i * L, Vector<C>{});
      if (plan_.is_planar) {
        transpose_lanes(pixel, strides.channel, item.lanes, end - begin, line + begin * L, L);
      } else {
        for (std::int64_t i = begin; i < end; ++i, pixel += strides.column) {
          store(line + i * L, load_masked(pixel, mask));
        }
      }
      for (std::int64_t i = end; i < width; ++i) store(line + i * L, Vector<C>{});
    }
  }

  template <class U>
  void fill(const Item& item, const Scratch& scratch, U* filled, std::int64_t row_step,
            std::int64_t pixel_step, Mask<C> mask) const {
    const auto* bias = static_cast<const T*>(gather_.bias);
    const auto exist = mask_between<C>(0, item.lanes);
    const Vector<C> start = bias ? load_masked(bias + item.channel, exist) : Vector<C>{};
    const std::int64_t E = plan_.rows.distance, line = plan_.packed_width * L;
    PackedTaps<C> taps{scratch.source,
                       E * line,
                       plan_.columns.distance * L,
                       scratch.weights,
                       plan_.rows.taps,
                       plan_.columns.taps,
                       0,
                       0,
                       0,
                       0};
    for (std::int64_t set = 0; set < smaller(E, item.rows); ++set) {
      const std::int64_t rows = ceil_divide(item.rows - set, E);
      const std::int64_t tiles = ceil_divide(rows, kPackedRows);
      for (std::int64_t i = 0; i < tiles; ++i) {
        const std::int64_t begin = rows * i / tiles, count = rows * (i + 1) / tiles - begin;
        const std::int64_t row = set + begin * E;
        // Line q of the tile is this many rows, and q E, below the first that was packed.
        const std::int64_t first = item.row + row + plan_.rows.first - item.first_source_row;
        taps.begin = first < 0 ? ceil_divide(-first, E) : 0;
        taps.end = smaller(plan_.rows.taps + count - 1, ceil_divide(item.source_rows - first, E));
        const C* source = scratch.source + first * line;
        PackedTarget<U> target{filled + row * row_step, E * row_step, pixel_step, count, 0};
        for (std::int64_t column = 0; column < item.columns; column += plan_.tile) {
          taps.source = source + column * L;
          target.first = filled + row * row_step + column * pixel_step;
          target.pixels = item.columns - column;
          set_taps(item.column + column, taps);
          fill_tile(taps, target, start, mask, scratch.totals);
        }
      }
    }
  }

  // The taps of a tile that starts at filled column `column`.
  void set_taps(std::int64_t column, PackedTaps<C>& taps) const {
    const std::int64_t start = column + plan_.columns.first, size = gather_.columns.source_size;
    const std::int64_t distance = plan_.columns.distance, behind = -start - plan_.tile + 1;
    taps.first = behind <= 0 ? 0 : smaller(ceil_divide(behind, distance), taps.columns);
    const std::int64_t ahead = size <= start ? 0 : ceil_divide(size - start, distance);
    taps.count = larger(smaller(ahead, taps.columns) - taps.first, 0);
  }

  template <class U>
  void fill_tile(const PackedTaps<C>& taps, const PackedTarget<U>& target, Vector<C> start,
                 Mask<C> mask, C* totals) const {
    const std::int64_t tile = plan_.tile;
    if (tile == kPackedTiles[0])
      return fill_packed_tile<kPackedTiles[0]>(taps, target, start, mask, totals);
    if (tile == kPackedTiles[1])
      return fill_packed_tile<kPackedTiles[1]>(taps, target, start, mask, totals);
    fill_packed_tile<kPackedTiles[2]>(taps, target, start, mask, totals);
  }

  void store_planes(const Item& item, const C* filled) const {
    const ImageStrides& strides = gather_.filled_strides;
    T* target = static_cast<T*>(gather_.filled) + item.n * strides.sample +
                item.channel * strides.channel + item.row * strides.row + item.column;
    if (item.columns == strides.row) {
      return transpose_matrix(filled, L, item.rows * item.columns, item.lanes, target,
                              strides.channel);
    }
    for (std::int64_t row = 0; row < item.rows; ++row, target += strides.row) {
      transpose_matrix(filled + row * item.columns * L, L, item.columns, item.lanes, target,
                       strides.channel);
    }
  }

  const Gather& gather_;
  const Workspace& workspace_;
  const PackedPlan<C> plan_;
};
