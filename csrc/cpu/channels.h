// Lanes are channels, and a tile of pixels is filled at a time. Three kernels, which differ in what
// one tap does to a tile:
//
// - direct.channels: lanes are the filled channels of one group; a tap adds the outer product of
//   source channels and lanes. Reads channels_last images of float32 and float64 in place; other
//   layouts and types are converted to that first.
// - direct.grouped: lanes are the filled channels of several small groups, whose source channels
//   fit in one vector too; a tap adds, for each source channel of a group, the source permuted to
//   its group's lanes. channels_last, any type in place.
// - direct.depthwise: the same for groups of one channel, where nothing need be permuted.
//
// Bytes: the source once per block of lanes (64 in float32 under AVX-512), the packed weight once
// per run of pixels, from L2.

// For every source channel, its pixels times its lanes of the weight.
template <class T>
struct DenseTap {
  using C = Compute<T>;
  using Source = C;
  static constexpr bool kPermutes = false;

  static Gather prepare(const Problem& problem, const Buffers& buffers) {
    return Gather(problem, buffers);
  }
  static LaneBlocks<C> blocks(const Gather& gather) { return {gather.filled_channels}; }
  static bool packs(const Gather& gather) { return !is_pixel_image<T>(gather.source_strides); }

  template <int R, int V>
  HANDCONV_INLINE static void add(BlockedTile<C, R, V>& tile, const C* const (&pixels)[R],
                                  const C* weights, const LaneMap<C>& map) {
    constexpr std::int64_t kBlock = BlockedTile<C, R, V>::kTerms;
    const C* rows[R];
    for (std::int64_t s = 0; s < map.source_channels; s += kBlock) {
      const std::int64_t count =
          s + kBlock < map.source_channels ? kBlock : map.source_channels - s;
      for (int r = 0; r < R; ++r) rows[r] = pixels[r] + s;
      accumulate(tile.block, rows, 1, weights + s * V * kLanes<C>, V * kLanes<C>, count,
                 FullPanel<C>{});
      tile.note_terms(count);
    }
  }
};

// Lane by lane, the source times the weight.
template <class T>
struct DepthwiseTap {
  using C = Compute<T>;
  using Source = T;
  static constexpr bool kPermutes = false;

  static Gather prepare(const Problem& problem, const Buffers& buffers) {
    return Gather(problem, buffers).with_groups_as_channels();
  }
  static LaneBlocks<C> blocks(const Gather& gather) { return {gather.filled_channels}; }
  static bool packs(const Gather&) { return false; }

  template <int R, int V>
  HANDCONV_INLINE static void add(BlockedTile<C, R, V>& blocked, const T* const (&pixels)[R],
                                  const C* weights, const LaneMap<C>& map) {
    Tile<C, R, V>& tile = blocked.block;
    if (map.lanes == V * kLanes<C>) {
      add_lanes(tile, pixels, weights, FullPanel<T>{});
    } else {
      add_lanes(tile, pixels, weights,
                TailPanel<T>{mask_between<C>(0, map.lanes - (V - 1) * kLanes<C>)});
    }
  }

 private:
  template <int R, int V, class Load>
  HANDCONV_INLINE static void add_lanes(Tile<C, R, V>& tile, const T* const (&pixels)[R],
                                        const C* weights, Load load_source) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vector<C> weight = load(weights + v * kLanes<C>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        tile.sums[r][v] =
            fma(load_source(pixels[r] + v * kLanes<C>, v == V - 1), weight, tile.sums[r][v]);
      }
    }
  }
};

// For each source channel of a group, the source permuted to the lanes of its group, times the
// weight. As many groups to a vector as leave both their filled and their source channels inside
// it.
template <class T>
struct GroupedTap {
  using C = Compute<T>;
  using Source = T;
  static constexpr bool kPermutes = true;

  static Gather prepare(const Problem& problem, const Buffers& buffers) {
    return Gather(problem, buffers).with_groups_as_channels();
  }
  static LaneBlocks<C> blocks(const Gather& gather) {
    const std::int64_t larger = gather.group_channels > gather.source_channels
                                    ? gather.group_channels
                                    : gather.source_channels;
    return {gather.filled_channels, kLanes<C> / larger * gather.group_channels};
  }
  static bool packs(const Gather&) { return false; }

  // Sums and sources of every pixel have a register each.
  template <int R, int V>
  HANDCONV_INLINE static void add(BlockedTile<C, R, V>& blocked, const T* const (&pixels)[R],
                                  const C* weights, const LaneMap<C>& map) {
    static_assert(V == 1);
    Tile<C, R, V>& tile = blocked.block;
    const auto mask = mask_between<C>(0, map.source_lanes);
    Vector<C> sources[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) sources[r] = load_masked(pixels[r], mask);
    for (std::int64_t s = 0; s < map.source_channels; ++s) {
      const Vector<C> weight = load(weights + s * kLanes<C>);
      const LaneIndex<C>* index = map.sources + s * kLanes<C>;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
        tile.sums[r][0] = fma(permute(sources[r], index), weight, tile.sums[r][0]);
    }
  }

  static void write_sources(const Gather& gather, LaneIndex<C>* sources) {
    for (std::int64_t s = 0; s < gather.source_channels; ++s) {
      for (std::int64_t lane = 0; lane < kLanes<C>; ++lane) {
        const std::int64_t source = lane / gather.group_channels * gather.source_channels + s;
        sources[s * kLanes<C> + lane] = static_cast<LaneIndex<C>>(source < kLanes<C> ? source : 0);
      }
    }
  }
};

template <class T, template <class> class TapOf>
class PixelKernel {
 public:
  using C = Compute<T>;
  using InnerTap = TapOf<T>;
  using Source = typename InnerTap::Source;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather = InnerTap::prepare(problem, {});
    return plan_for(gather).size(gather.filled_strides.channel != 1);
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather = InnerTap::prepare(problem, buffers);
    PixelKernel(gather, workspace).run_all();
  }

 private:
  PixelKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather),
        plan_(plan_for(gather)),
        workspace_(workspace),
        scratch_(workspace.shared<C>()) {}

  static LaneWorkspace<C> plan_for(const Gather& gather) {
    return {gather, InnerTap::blocks(gather), InnerTap::packs(gather), InnerTap::kPermutes};
  }

  void run_all() {
    pack_weights<T>(gather_, plan_, scratch_);
    if constexpr (InnerTap::kPermutes) InnerTap::write_sources(gather_, indices());
    for (std::int64_t n = 0; n < gather_.batch; n += plan_.samples_per_pass()) {
      const std::int64_t rest = gather_.batch - n;
      run_samples(n, rest < plan_.samples_per_pass() ? rest : plan_.samples_per_pass());
    }
  }

  void run_samples(std::int64_t first, std::int64_t count) {
    const PixelImage<Source> image = source_image(first, count);
    const LaneBlocks<C>& blocks = plan_.blocks();
    const std::int64_t runs = count_runs(gather_);
    const std::int64_t cost = kPixelsPerRun * blocks.full * gather_.cost_per_element();
    parallel_for(
        gather_.groups * blocks.count() * count * runs, cost, [&](std::int64_t item, int thread) {
          // Blocks outermost: the weight of one stays in L2 while a thread walks over the pixels.
          const PixelRun run = find_run(gather_, item % runs);
          const std::int64_t n = item / runs % count, block = item / runs / count % blocks.count();
          const std::int64_t group = item / runs / count / blocks.count();
          const Source* pixels =
              image.data + n * image.sample + gather_.first_source(group, blocks.first(block));
          if constexpr (InnerTap::kPermutes) {
            fill_run<1>(run, image, pixels, first + n, group, block, thread);
          } else {
            visit_vectors(blocks.vectors(block), [&](auto vectors) {
              fill_run<decltype(vectors)::value>(run, image, pixels, first + n, group, block,
                                                 thread);
            });
          }
        });
  }

  PixelImage<Source> source_image(std::int64_t first, std::int64_t count) const {
    const auto* source = static_cast<const T*>(gather_.source);
    const ImageStrides& strides = gather_.source_strides;
    if constexpr (std::is_same_v<T, Source>) {
      if (!InnerTap::packs(gather_)) {
        return {source + first * strides.sample, strides.sample, strides.row, strides.column};
      }
    }
    const std::int64_t channels = gather_.groups * gather_.source_channels;
    auto* images = reinterpret_cast<Source*>(scratch_ + plan_.images());
    if constexpr (std::is_same_v<Source, C>) {
      pack_samples(source, strides, channels, gather_.source_area(), first, count, images);
    }
    return {images, channels * gather_.source_area(), channels * gather_.columns.source_size,
            channels};
  }

  template <int V>
  void fill_run(const PixelRun& run, const PixelImage<Source>& image, const Source* pixels,
                std::int64_t n, std::int64_t group, std::int64_t block, int thread) const {
    constexpr int R = kTileRows<V>;
    constexpr std::int64_t kPadded = V * kLanes<C>;
    const std::int64_t lanes = plan_.blocks().size(block);
    const LaneMap<C> map{lanes, lanes / gather_.group_channels * gather_.source_channels,
                         gather_.source_channels, indices()};
    const std::int64_t channel = group * gather_.filled_channels + plan_.blocks().first(block);
    T* target = static_cast<T*>(gather_.filled) + n * gather_.filled_strides.sample +
                channel * gather_.filled_strides.channel;
    const bool to_planes = gather_.filled_strides.channel != 1;
    C* output_block = workspace_.of_thread<C>(thread);

    PixelCursor cursor(run);
    for (std::int64_t first = 0; first < run.count; first += R) {
      BlockedTile<C, R, V> tile;
      tile.start(scratch_ + plan_.bias(group, block));
      TilePixels<Source, R> tile_pixels(cursor, image, pixels, gather_.filled_strides,
                                        gather_.rows.source_size, gather_.columns.source_size,
                                        zeros());
      add_taps(tile, tile_pixels, run, scratch_ + plan_.weights(group, block), map);
      tile.finish();
      if (to_planes) {
        store_block(tile.block, output_block + first * kPadded);
      } else {
        store_pixels<T>(tile.block, tile_pixels, lanes, target);
      }
    }
    if (to_planes) store_planes<T>(gather_, run, output_block, kPadded, lanes, target);
  }

  template <int R, int V>
  HANDCONV_INLINE void add_taps(BlockedTile<C, R, V>& tile, TilePixels<Source, R>& tile_pixels,
                                const PixelRun& run, const C* weights,
                                const LaneMap<C>& map) const {
    const std::int64_t tap_weights = gather_.source_channels * V * kLanes<C>;
    const Source* pixels[R];
    const bool interior = tile_pixels.is_interior(run);
    for (const Tap& row : run.rows->taps) {
      if (!interior && !tile_pixels.enter_row(row)) continue;
      for (const Tap& column : run.columns->taps) {
        if (interior) {
          tile_pixels.find_inside(row, column, pixels);
        } else if (!tile_pixels.enter_column(column, pixels)) {
          continue;
        }
        const std::int64_t tap = row.kernel * gather_.columns.kernel_size + column.kernel;
        InnerTap::add(tile, pixels, weights + tap * tap_weights, map);
      }
    }
  }

  template <int R, int V>
  HANDCONV_INLINE static void store_block(const Tile<C, R, V>& tile, C* block) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(block + (r * V + v) * kLanes<C>, tile.sums[r][v]);
    }
  }

  const Source* zeros() const { return reinterpret_cast<const Source*>(scratch_ + plan_.zeros()); }
  LaneIndex<C>* indices() const {
    return reinterpret_cast<LaneIndex<C>*>(scratch_ + plan_.indices());
  }

  const Gather& gather_;
  LaneWorkspace<C> plan_;
  const Workspace& workspace_;
  C* scratch_;
};

template <class T>
using ChannelsKernel = PixelKernel<T, DenseTap>;
template <class T>
using DepthwiseKernel = PixelKernel<T, DepthwiseTap>;
template <class T>
using GroupedKernel = PixelKernel<T, GroupedTap>;
