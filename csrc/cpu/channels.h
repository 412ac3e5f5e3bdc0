// direct.channels: lanes are the filled channels of one group; a tap adds the outer product of
// source channels and lanes. Reads channels_last images of float32 and float64 in place; other
// layouts and types are converted to that first.
//
// Bytes: the source once per block of lanes (64 in float32 under AVX-512), the packed weight once
// per run of pixels, from L2.

template <class T>
class ChannelsKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    return plan_for(gather).size(gather.filled_strides.channel != 1);
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    ChannelsKernel(gather, workspace).run_all();
  }

 private:
  ChannelsKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather),
        plan_(plan_for(gather)),
        workspace_(workspace),
        scratch_(workspace.shared<C>()) {}

  static LaneWorkspace<C> plan_for(const Gather& gather) {
    return {gather, {gather.filled_channels}, packs(gather)};
  }

  static bool packs(const Gather& gather) { return !is_pixel_image<T>(gather.source_strides); }

  void run_all() {
    pack_weights<T>(gather_, plan_, scratch_);
    for (std::int64_t n = 0; n < gather_.batch; n += plan_.samples_per_pass()) {
      const std::int64_t rest = gather_.batch - n;
      run_samples(n, rest < plan_.samples_per_pass() ? rest : plan_.samples_per_pass());
    }
  }

  void run_samples(std::int64_t first, std::int64_t count) {
    const PixelImage<C> image = source_image(first, count);
    const LaneBlocks<C>& blocks = plan_.blocks();
    const std::int64_t runs = count_runs(gather_);
    const std::int64_t cost = kPixelsPerRun * blocks.full * gather_.cost_per_element();
    parallel_for(
        gather_.groups * blocks.count() * count * runs, cost, [&](std::int64_t item, int thread) {
          // Blocks outermost: the weight of one stays in L2 while a thread walks over the pixels.
          const PixelRun run = find_run(gather_, item % runs);
          const std::int64_t n = item / runs % count, block = item / runs / count % blocks.count();
          const std::int64_t group = item / runs / count / blocks.count();
          const C* pixels = image.data + n * image.sample + group * gather_.source_channels;
          visit_vectors(blocks.vectors(block), [&](auto vectors) {
            fill_run<decltype(vectors)::value>(run, image, pixels, first + n, group, block, thread);
          });
        });
  }

  PixelImage<C> source_image(std::int64_t first, std::int64_t count) const {
    const auto* source = static_cast<const T*>(gather_.source);
    const ImageStrides& strides = gather_.source_strides;
    if constexpr (std::is_same_v<T, C>) {
      if (!packs(gather_)) {
        return {source + first * strides.sample, strides.sample, strides.row, strides.column};
      }
    }
    const std::int64_t channels = gather_.groups * gather_.source_channels;
    C* images = scratch_ + plan_.images();
    pack_samples(source, strides, channels, gather_.source_area(), first, count, images);
    return {images, channels * gather_.source_area(), channels * gather_.columns.source_size,
            channels};
  }

  template <int V>
  void fill_run(const PixelRun& run, const PixelImage<C>& image, const C* pixels, std::int64_t n,
                std::int64_t group, std::int64_t block, int thread) const {
    constexpr int R = kTileRows<V>;
    constexpr std::int64_t kPadded = V * kLanes<C>;
    const std::int64_t lanes = plan_.blocks().size(block);
    const std::int64_t channel = group * gather_.filled_channels + plan_.blocks().first(block);
    T* target = static_cast<T*>(gather_.filled) + n * gather_.filled_strides.sample +
                channel * gather_.filled_strides.channel;
    const bool to_planes = gather_.filled_strides.channel != 1;
    C* output_block = workspace_.of_thread<C>(thread);

    PixelCursor cursor(run);
    for (std::int64_t first = 0; first < run.count; first += R) {
      BlockedTile<C, R, V> tile;
      tile.start(scratch_ + plan_.bias(group, block));
      TilePixels<C, R> tile_pixels(cursor, image, pixels, gather_.filled_strides,
                                   gather_.rows.source_size, gather_.columns.source_size, zeros());
      add_taps(tile, tile_pixels, run, scratch_ + plan_.weights(group, block));
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
  HANDCONV_INLINE void add_taps(BlockedTile<C, R, V>& tile, TilePixels<C, R>& tile_pixels,
                                const PixelRun& run, const C* weights) const {
    const std::int64_t tap_weights = gather_.source_channels * V * kLanes<C>;
    const C* pixels[R];
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
        add_tap(tile, pixels, weights + tap * tap_weights);
      }
    }
  }

  // For every source channel, its pixels times its lanes of the weight.
  template <int R, int V>
  HANDCONV_INLINE void add_tap(BlockedTile<C, R, V>& tile, const C* const (&pixels)[R],
                               const C* weights) const {
    constexpr std::int64_t kBlock = BlockedTile<C, R, V>::kTerms;
    const std::int64_t channels = gather_.source_channels;
    const C* rows[R];
    for (std::int64_t s = 0; s < channels; s += kBlock) {
      const std::int64_t count = s + kBlock < channels ? kBlock : channels - s;
      for (int r = 0; r < R; ++r) rows[r] = pixels[r] + s;
      accumulate(tile.block, rows, 1, weights + s * V * kLanes<C>, V * kLanes<C>, count,
                 FullPanel<C>{});
      tile.note_terms(count);
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

  const C* zeros() const { return scratch_ + plan_.zeros(); }

  const Gather& gather_;
  LaneWorkspace<C> plan_;
  const Workspace& workspace_;
  C* scratch_;
};
