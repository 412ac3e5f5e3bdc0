// The weight gradient of 3x3 windows with stride 1 and any dilation by Winograd's tiles of m x m (m
// = kOutputs):
//
//     w = G^T [ sum over samples and tiles of (B^T d B) * (A y A^T) ] G
//
// where y is a tile of outputs and d the (m + 2)^2 inputs that it meets: (m + 2)^2 products of
// matrices, M[point] = V[point]^T D[point], of channels by tiles by channels, 9 m^2 / (m + 2)^2
// times fewer multiplications than the definition has: 4 for m = 4 and 2.25 for m = 2.
//
// Two rows of points are computed at a time, so that V and D of many tiles, M and the totals of a
// patch stay in the second-level cache. Register tile: 6 rows by kTileVectors vectors. What is not
// pixels by channels in C is converted first, whole samples at a time.

template <class C, int R, int V>
struct WinogradWeightTile {
  // m[r][lane] (+)= sum over t of v[t * v_step + r] * d[t * d_step + lane]
  [[gnu::noinline]] static void run(const C* v, std::int64_t v_step, const C* d,
                                    std::int64_t d_step, std::int64_t count, C* m,
                                    std::int64_t m_step, bool starts) {
    Tile<C, R, V> tile;
    tile.start_at_zero();
    // From the second-level cache, while the sums run.
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) __builtin_prefetch(m + r * m_step + i * kLanes<C>, 1);
    }
    for (std::int64_t t = 0; t < count; ++t, v += v_step, d += d_step) {
      Vector<C> lanes[V];
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) lanes[i] = load(d + i * kLanes<C>);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const Vector<C> element = broadcast(v[r]);
#pragma GCC unroll 4
        for (int i = 0; i < V; ++i) tile.sums[r][i] = fma(element, lanes[i], tile.sums[r][i]);
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) {
        C* at = m + r * m_step + i * kLanes<C>;
        store(at, starts ? tile.sums[r][i] : load(at) + tile.sums[r][i]);
      }
    }
  }
};

template <class T, int kOutputs>
class WinogradWeightKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Plan plan(problem);
    const Shared shared(problem, plan);
    const Scratch scratch(plan, shared.keeps_totals);
    return {static_cast<std::size_t>(shared.elements) * sizeof(C),
            static_cast<std::size_t>(scratch.elements) * sizeof(C)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    WinogradWeightKernel(problem, buffers, workspace).run_all();
  }

 private:
  using Plan = WinogradWeightPlan<C, kOutputs>;

  // Where things lie in the workspace that threads share, in elements.
  struct Shared {
    std::int64_t x, y, totals, elements;
    bool in_place, keeps_totals;
    std::int64_t pass;  // samples

    Shared(const Problem& problem, const Plan& plan)
        : in_place(is_pixel_image<T>(problem.x_strides()) &&
                   is_pixel_image<T>(problem.y_strides())),
          pass(in_place ? plan.batch : plan.pass) {
      keeps_totals = plan.chunks > 1 || pass < plan.batch;
      x = 0;
      y = x + (in_place ? 0 : aligned(pass * problem.x_strides().sample));
      totals = y + (in_place ? 0 : aligned(pass * problem.y_strides().sample));
      elements = totals + (keeps_totals ? plan.items() * plan.total_elements() : 0);
    }
  };
  // And in that of a thread.
  struct Scratch {
    std::int64_t v, d, m, totals, elements;

    Scratch(const Plan& plan, bool totals_are_shared) {
      v = 0;
      d = v + aligned(Plan::kPoints * plan.v_point());
      m = d + aligned(Plan::kPoints * plan.d_point());
      totals = m + aligned(Plan::kPoints * plan.m_point());
      elements = totals + (totals_are_shared ? 0 : plan.total_elements());
    }
  };
  static std::int64_t aligned(std::int64_t elements) { return round_up(elements, Plan::kPadding); }

  WinogradWeightKernel(const Problem& problem, const Buffers& buffers, const Workspace& workspace)
      : problem_(problem),
        g_(problem.geometry),
        buffers_(buffers),
        workspace_(workspace),
        plan_(problem),
        shared_(problem, plan_),
        scratch_(plan_, shared_.keeps_totals),
        store_{plan_.lanes_are_inputs, plan_.lanes_are_inputs, false,
               plan_.blocks.full,      plan_.total_rows(),     plan_.chunks,
               plan_.total_elements()} {}

  void run_all() const {
    for (std::int64_t n = 0; n < plan_.batch; n += shared_.pass) {
      run_pass(n, smaller(shared_.pass, plan_.batch - n));
    }
    if (!shared_.keeps_totals) return;
    constexpr std::int64_t kRows = 64;
    const std::int64_t pieces = ceil_divide(plan_.total_rows(), kRows);
    parallel_for(plan_.patches() * pieces, kRows * plan_.blocks.full * plan_.chunks,
                 [&](std::int64_t item, int) {
                   const WeightPatch patch = plan_.patch(item / pieces);
                   const std::int64_t first = item % pieces * kRows;
                   const std::int64_t last = smaller(first + kRows, patch.rows * 9);
                   if (first < last) {
                     write(patch, shared_totals(item / pieces * plan_.chunks), {first, last});
                   }
                 });
  }

  C* shared_totals(std::int64_t item) const {
    return workspace_.shared<C>() + shared_.totals + item * plan_.total_elements();
  }

  void write(const WeightPatch& patch, const C* totals, const Range& rows) const {
    store_.store_rows(g_, static_cast<T*>(buffers_.w), patch, totals, rows);
  }

  // Samples [first, first + count).
  void run_pass(std::int64_t first, std::int64_t count) const {
    const TileImage<C> x{pixels(buffers_.x, problem_.x_strides(), g_.in_channels, g_.height.input,
                                g_.width.input, first, count, shared_.x),
                         g_.height.input, g_.width.input, -g_.height.padding, -g_.width.padding};
    const TileImage<C> y{pixels(buffers_.y, problem_.y_strides(), g_.out_channels, g_.height.output,
                                g_.width.output, first, count, shared_.y),
                         g_.height.output, g_.width.output, 0, 0};
    const std::int64_t cost = Plan::kTile * Plan::kTile * plan_.patch_rows * plan_.blocks.full *
                              ceil_divide(count * plan_.grid.per_sample(), plan_.chunks);
    parallel_for(plan_.items(), cost, [&](std::int64_t item, int thread) {
      const WeightPatch patch = plan_.patch(item / plan_.chunks);
      C* scratch = workspace_.of_thread<C>(thread);
      C* totals = shared_.keeps_totals ? shared_totals(item) : scratch + scratch_.totals;
      const Range chunk = part_of({0, plan_.grid.per_sample()}, plan_.chunks, item % plan_.chunks);
      add_pair<0>(x, y, patch, chunk, count, scratch, totals, first == 0);
      add_pair<1>(x, y, patch, chunk, count, scratch, totals, false);
      if constexpr (Filter<C, kOutputs, 3>::kPairs == 3) {
        add_pair<2>(x, y, patch, chunk, count, scratch, totals, false);
      }
      if (!shared_.keeps_totals) write(patch, totals, {0, patch.rows * 9});
    });
  }

  PixelImage<C> pixels(const void* image, const ImageStrides& strides, std::int64_t channels,
                       std::int64_t height, std::int64_t width, std::int64_t first,
                       std::int64_t count, std::int64_t offset) const {
    const T* samples = static_cast<const T*>(image) + first * strides.sample;
    return as_pixel_image<T>(samples, strides, count, channels, height, width,
                             workspace_.shared<C>() + offset);
  }

  // Adds to the totals what the points of a pair of rows give in a chunk of the tiles of `count`
  // samples.
  template <int kPairIndex>
  void add_pair(const TileImage<C>& x, const TileImage<C>& y, const WeightPatch& patch,
                const Range& chunk, std::int64_t count, C* scratch, C* totals, bool starts) const {
    const std::int64_t per_sample = plan_.grid.per_sample();
    const std::int64_t x_channel = patch.group * g_.in_channels_per_group() +
                                   (plan_.lanes_are_inputs ? patch.first_lane : patch.first_row);
    const std::int64_t y_channel = patch.group * g_.out_channels_per_group() +
                                   (plan_.lanes_are_inputs ? patch.first_row : patch.first_lane);
    C *v = scratch + scratch_.v, *d = scratch + scratch_.d, *m = scratch + scratch_.m;
    bool is_first = true;
    for (std::int64_t n = 0; n < count; n += plan_.samples) {
      const std::int64_t more = smaller(plan_.samples, count - n) - 1;
      const Range tiles{n * per_sample + chunk.first, (n + more) * per_sample + chunk.last};
      const std::int64_t strips = ceil_divide(tiles.last - tiles.first, plan_.strip);
      for (std::int64_t s = 0; s < strips; ++s) {
        const Range strip = part_of(tiles, strips, s);
        if (plan_.lanes_are_inputs) {
          transform_strip<InputTile, kOutputs, kPairIndex>(
              x, plan_.grid, strip, x_channel, patch.lanes, d, plan_.d_point(), plan_.blocks.full);
          transform_strip<OutputTile, kOutputs, kPairIndex>(
              y, plan_.grid, strip, y_channel, patch.rows, v, plan_.v_point(), plan_.v_step());
        } else {
          transform_strip<InputTile, kOutputs, kPairIndex>(
              x, plan_.grid, strip, x_channel, patch.rows, v, plan_.v_point(), plan_.v_step());
          transform_strip<OutputTile, kOutputs, kPairIndex>(
              y, plan_.grid, strip, y_channel, patch.lanes, d, plan_.d_point(), plan_.blocks.full);
        }
        multiply(patch, v, d, strip.last - strip.first, m, is_first);
        is_first = false;
      }
    }
    fold<kPairIndex>(patch, m, totals, starts);
  }

  // M (+)= V^T D at each of the points, by blocks of tiles whose sums are added.
  void multiply(const WeightPatch& patch, const C* v, const C* d, std::int64_t tiles, C* m,
                bool starts) const {
    const std::int64_t full = plan_.blocks.full;
    const RowTiles row_tiles(patch.rows, 6, true);
    const std::int64_t blocks = ceil_divide(tiles, plan_.terms);
    const int vectors = static_cast<int>(ceil_divide(patch.lanes, kLanes<C>));
    for (std::int64_t step = 0; step < Plan::kPoints * blocks; ++step) {
      const std::int64_t point = step / blocks;
      const Range block = part_of({0, tiles}, blocks, step % blocks);
      const C* block_v = v + point * plan_.v_point() + block.first * plan_.v_step();
      const C* block_d = d + point * plan_.d_point() + block.first * full;
      for (int first = 0; first < vectors; first += kTileVectors) {
        const int rest = vectors - first < kTileVectors ? vectors - first : kTileVectors;
        visit_vectors(rest, [&](auto count) {
          constexpr int V = decltype(count)::value;
          for (std::int64_t i = 0; i < row_tiles.count; ++i) {
            const std::int64_t row = row_tiles.first(i);
            multiply_rows<V>(row_tiles.rows(i), block_v + row, block_d + first * kLanes<C>,
                             block.last - block.first,
                             m + point * plan_.m_point() + row * full + first * kLanes<C>,
                             starts && block.first == 0);
          }
        });
      }
    }
  }

  template <int V>
  void multiply_rows(std::int64_t rows, const C* v, const C* d, std::int64_t tiles, C* m,
                     bool starts) const {
    const std::int64_t v_step = plan_.v_step(), full = plan_.blocks.full;
    switch (rows) {
      case 6:
        return WinogradWeightTile<C, 6, V>::run(v, v_step, d, full, tiles, m, full, starts);
      case 5:
        return WinogradWeightTile<C, 5, V>::run(v, v_step, d, full, tiles, m, full, starts);
      case 4:
        return WinogradWeightTile<C, 4, V>::run(v, v_step, d, full, tiles, m, full, starts);
      case 3:
        return WinogradWeightTile<C, 3, V>::run(v, v_step, d, full, tiles, m, full, starts);
      case 2:
        return WinogradWeightTile<C, 2, V>::run(v, v_step, d, full, tiles, m, full, starts);
      default:
        return WinogradWeightTile<C, 1, V>::run(v, v_step, d, full, tiles, m, full, starts);
    }
  }

  // totals (+)= the part of G^T M G that the points of a pair of rows give.
  template <int kPairIndex>
  void fold(const WeightPatch& patch, const C* m, C* totals, bool starts) const {
    const std::int64_t full = plan_.blocks.full, point = plan_.m_point();
    for (std::int64_t row = 0; row < patch.rows; ++row, m += full, totals += 9 * full) {
      for (std::int64_t lane = 0; lane < patch.lanes; lane += kLanes<C>) {
        Vector<C> pair[2][3];
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          Vector<C> points[Plan::kTile];
#pragma GCC unroll 6
          for (int j = 0; j < Plan::kTile; ++j) {
            points[j] = load(m + (i * Plan::kTile + j) * point + lane);
          }
          Filter<C, kOutputs, 3>::transform_weight_gradient(points, pair[i]);
        }
#pragma GCC unroll 3
        for (int kw = 0; kw < 3; ++kw) {
          Vector<C> g[3];
          Filter<C, kOutputs, 3>::template weight_gradient_of_pair<kPairIndex>(pair[0][kw],
                                                                               pair[1][kw], g);
#pragma GCC unroll 3
          for (int kh = 0; kh < 3; ++kh) {
            C* at = totals + (kh * 3 + kw) * full + lane;
            store(at, starts ? g[kh] : load(at) + g[kh]);
          }
        }
      }
    }
  }

  const Problem& problem_;
  const Geometry& g_;
  const Buffers& buffers_;
  const Workspace& workspace_;
  const Plan plan_;
  const Shared shared_;
  const Scratch scratch_;
  const WeightStore<T> store_;
};

template <class T>
using Winograd2WeightKernel = WinogradWeightKernel<T, 2>;
template <class T>
using Winograd4WeightKernel = WinogradWeightKernel<T, 4>;
