// Kernels whose lanes are channels: a tile of pixels is filled at a time, tap by tap. What one tap
// does to a tile is what the families differ in: channels.h, grouped_channels.h,
// depthwise_channels.h.

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
