// direct.windows: the input gradient of windows along a signal of one channel, as in the first
// layer of networks that read sound.
//
//     x[n, p] = bias + sum over outputs o and taps k with o s - pad + k = p of
//               sum over oc of y[n, oc, o] w[oc, k]
//
// The inner sum is a product of matrices: outputs are rows, read where they lie in either layout
// (16-bit ones are converted), taps are lanes, and the tile is that of gemm_weight_tile.h. Its
// windows are then added up where they overlap. An item fills a stretch of one sample, and computes
// the windows that reach into it from its neighbours once more.
//
// Bytes: y once, in strips of up to 128 outputs by 64 planes (NCHW) or 256 channels, and the packed
// weight once per strip, from L2.

template <class C>
struct WindowsPlan {
  static constexpr std::int64_t L = kLanes<C>;

  explicit WindowsPlan(const Problem& problem)
      : axis(is_row(problem.geometry) ? problem.geometry.width : problem.geometry.height),
        filters(problem.geometry.out_channels),
        outputs_adjoin(problem.layout == Layout::kNchw) {
    vectors = ceil_divide(axis.kernel, L);
    panels = ceil_divide(vectors, kPackedVectors);
    constexpr std::int64_t kElements = 8192, kMostOutputs = 128, kFewestOutputs = 32;
    strip = smaller(kMostOutputs, larger(kFewestOutputs, kElements / lanes()));
    depth = smaller(filters, outputs_adjoin ? 64 : 256);
    // Windows of an item, of which an eighth at most are those of its neighbours.
    const std::int64_t windows = larger(256, 8 * ceil_divide(axis.kernel, axis.stride));
    items = larger(1, axis.input / (windows * axis.stride));
  }

  static bool is_row(const Geometry& g) { return g.height.input == 1 && g.height.kernel == 1; }

  std::int64_t lanes() const { return vectors * L; }
  // The stretch of an item, with room for windows that begin before or end after it.
  std::int64_t stretch() const {
    return round_up(ceil_divide(axis.input, items) + 2 * axis.kernel, L) + 2 * L;
  }
  // The outputs whose windows reach into a stretch.
  Range outputs(const Range& stretch) const {
    const std::int64_t reach = stretch.first + axis.padding - (axis.kernel - 1);
    const std::int64_t first = larger(0, -floor_divide(-reach, axis.stride));
    const std::int64_t last =
        smaller(axis.output, floor_divide(stretch.last - 1 + axis.padding, axis.stride) + 1);
    return {first, larger(first, last)};
  }

  const Axis& axis;
  std::int64_t filters;
  bool outputs_adjoin;  // else filters do
  std::int64_t vectors, panels;
  std::int64_t strip, depth;  // outputs and filters that are multiplied at a time, at most
  std::int64_t items;         // of a sample
};

template <class T>
class WindowsKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Plan plan(problem);
    return {bytes_of<C>(plan.filters * plan.lanes()),
            bytes_of<C>(plan.stretch() + plan.strip * plan.lanes() + rows_size(plan))};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    WindowsKernel(problem, buffers, workspace).run_all();
  }

 private:
  using Plan = WindowsPlan<C>;
  static constexpr std::int64_t L = kLanes<C>;
  static constexpr bool kRowsInPlace = std::is_same_v<T, C>;

  WindowsKernel(const Problem& problem, const Buffers& buffers, const Workspace& workspace)
      : buffers_(buffers),
        workspace_(workspace),
        plan_(problem),
        w_strides_(problem.w_strides),
        w_step_(Plan::is_row(problem.geometry) ? w_strides_.column : w_strides_.row),
        samples_(problem.geometry.batch) {}

  static std::int64_t rows_size(const Plan& plan) {
    return kRowsInPlace ? 0 : plan.strip * plan.depth + L;
  }

  void run_all() const {
    constexpr std::int64_t kFilters = 64;
    parallel_for(ceil_divide(plan_.filters, kFilters), kFilters * plan_.lanes(),
                 [&](std::int64_t part, int) {
                   pack_weights(part * kFilters, smaller((part + 1) * kFilters, plan_.filters));
                 });
    const std::int64_t cost = plan_.axis.output / plan_.items * plan_.filters * plan_.lanes();
    parallel_for(samples_ * plan_.items, cost, [&](std::int64_t item, int thread) {
      run_item(item / plan_.items, part_of({0, plan_.axis.input}, plan_.items, item % plan_.items),
               workspace_.of_thread<C>(thread));
    });
  }

  Range panel(std::int64_t index) const { return part_of({0, plan_.vectors}, plan_.panels, index); }

  // [panel][filter][lane], with zeros in the lanes after the last tap.
  void pack_weights(std::int64_t first, std::int64_t last) const {
    for (std::int64_t i = 0; i < plan_.panels; ++i) {
      const std::int64_t begin = panel(i).first * L, lanes = panel(i).last * L - begin;
      C* packed = workspace_.shared<C>() + begin * plan_.filters;
      for (std::int64_t oc = first; oc < last; ++oc) {
        const T* w = static_cast<const T*>(buffers_.w) + oc * w_strides_.out_channel;
        for (std::int64_t lane = 0; lane < lanes; lane += L) {
          const std::int64_t tap = begin + lane;
          store(packed + oc * lanes + lane,
                load_strided(w + tap * w_step_, w_step_,
                             mask_between<C>(0, plan_.axis.kernel - tap)));
        }
      }
    }
  }

  void run_item(std::int64_t n, const Range& stretch, C* scratch) const {
    const Axis& axis = plan_.axis;
    C* const windows = scratch + plan_.stretch();
    for (std::int64_t i = 0; i < plan_.stretch(); i += L) store(scratch + i, Vector<C>{});
    // Where the first element of the stretch lies.
    C* const sums = scratch + axis.kernel;
    const Range outputs = plan_.outputs(stretch);
    const std::int64_t strips = ceil_divide(outputs.last - outputs.first, plan_.strip);
    for (std::int64_t i = 0; i < strips; ++i) {
      const Range strip = part_of(outputs, strips, i);
      multiply(n, strip, windows, windows + plan_.strip * plan_.lanes());
      for (std::int64_t o = strip.first; o < strip.last; ++o) {
        add_window(windows + (o - strip.first) * plan_.lanes(),
                   sums + axis.input_position(o, 0) - stretch.first);
      }
    }
    const C bias = buffers_.bias ? to_compute(*static_cast<const T*>(buffers_.bias)) : C(0);
    T* x = static_cast<T*>(buffers_.x) + n * axis.input + stretch.first;
    const std::int64_t count = stretch.last - stretch.first;
    for (std::int64_t i = 0; i < count; i += L)
      store_masked(x + i, load(sums + i) + broadcast(bias), mask_between<C>(0, count - i));
  }

  // The lanes after the last tap may hold what infinity times zero gave.
  void add_window(const C* window, C* sums) const {
    const std::int64_t last = (plan_.vectors - 1) * L;
    for (std::int64_t k = 0; k < last; k += L) store(sums + k, load(sums + k) + load(window + k));
    const auto tail = mask_between<C>(0, plan_.axis.kernel - last);
    store(sums + last, load(sums + last) + load_masked(window + last, tail));
  }

  // windows[output][tap]
  void multiply(std::int64_t n, const Range& outputs, C* windows, C* scratch) const {
    const std::int64_t count = outputs.last - outputs.first;
    const RowTiles tiles(count, kPackedRows, true);
    const std::int64_t blocks = ceil_divide(plan_.filters, plan_.depth);
    for (std::int64_t block = 0; block < blocks; ++block) {
      const Range filters = part_of({0, plan_.filters}, blocks, block);
      const Rows rows = rows_of(n, outputs, filters, scratch);
      for (std::int64_t i = 0; i < plan_.panels; ++i) {
        const std::int64_t lane = panel(i).first * L, vectors = panel(i).last - panel(i).first;
        PackedTile<C> tile{};
        tile.pitch = rows.pitch;
        tile.panel = workspace_.shared<C>() + lane * plan_.filters + filters.first * vectors * L;
        tile.samples = 1;
        tile.depth = filters.last - filters.first;
        tile.start_step = tile.target_step = plan_.lanes();
        tile.tail = mask_between<C>(0, L);
        for (std::int64_t t = 0; t < tiles.count; ++t) {
          const std::int64_t first = tiles.first(t);
          tile.rows = rows.first + first * (plan_.outputs_adjoin ? 1 : rows.pitch);
          tile.target = windows + first * plan_.lanes() + lane;
          tile.start = block == 0 ? nullptr : tile.target;
          if (plan_.outputs_adjoin) {
            multiply_packed<true>(tiles.rows(t), vectors, tile);
          } else {
            multiply_packed<false>(tiles.rows(t), vectors, tile);
          }
        }
      }
    }
  }

  // Outputs by filters, in the order of y; `pitch`: between planes, or between pixels.
  struct Rows {
    const C* first;
    std::int64_t pitch;
  };
  Rows rows_of(std::int64_t n, const Range& outputs, const Range& filters, C* scratch) const {
    const bool planes = plan_.outputs_adjoin;
    const std::int64_t pitch = planes ? plan_.axis.output : plan_.filters;
    const Range outer = planes ? filters : outputs, inner = planes ? outputs : filters;
    const T* y = static_cast<const T*>(buffers_.y) + n * plan_.filters * plan_.axis.output +
                 outer.first * pitch + inner.first;
    if constexpr (kRowsInPlace) {
      return {y, pitch};
    } else {
      const std::int64_t count = inner.last - inner.first;
      for (std::int64_t i = outer.first; i < outer.last; ++i, y += pitch) {
        C* to = scratch + (i - outer.first) * count;
        for (std::int64_t k = 0; k < count; k += L) {
          const auto mask = mask_between<C>(0, count - k);
          store_masked(to + k, load_masked(y + k, mask), mask);
        }
      }
      return {scratch, count};
    }
  }

  const Buffers& buffers_;
  const Workspace& workspace_;
  const Plan plan_;
  const WeightStrides w_strides_;
  const std::int64_t w_step_;
  const std::int64_t samples_;
};
