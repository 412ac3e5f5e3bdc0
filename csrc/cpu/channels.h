// Lanes are channels, and a tile of pixels is filled at a time: two kernels that differ in what one tap does to a tile.
//
// direct.channels    lanes are the filled channels of a group; a tap adds the outer product of source channels and lanes. Reads
//                    channels_last images of float32 and float64 in place; other layouts and types are converted to that first.
// direct.depthwise   lanes are groups of one channel each; a tap adds an elementwise product. channels_last only, any type in place.
//
// Bytes: the source once per block of lanes (64 in float32 under AVX-512), the packed weight once per run of pixels, from L2.

template <class C>
class LaneWorkspace {
 public:
  LaneWorkspace(const Gather& gather, bool packs_source)
      : gather_(gather), blocks_{gather.filled_channels} {
    const std::int64_t image = gather.groups * gather.source_channels * gather.source_area();
    const std::int64_t budget = kPackedBytes / static_cast<std::int64_t>(sizeof(C)) / image;
    samples_per_pass_ = !packs_source || budget > gather.batch ? gather.batch : budget < 1 ? 1 : budget;
    bias_offset_ = gather.groups * group_weights();
    zeros_offset_ = bias_offset_ + gather.groups * blocks_.padded_channels();
    const std::int64_t zeros = LaneBlocks<C>::kFull;
    zeros_count_ = gather.source_channels > zeros ? gather.source_channels : zeros;
    images_offset_ = round_up(zeros_offset_ + zeros_count_);
    total_ = images_offset_ + (packs_source ? samples_per_pass_ * image : 0);
    output_block_ = kPixelsPerRun * LaneBlocks<C>::kFull;
  }

  WorkspaceSize size(bool unpacks_output) const {
    const auto bytes = [](std::int64_t elements) { return static_cast<std::size_t>(elements) * sizeof(C); };
    return {bytes(total_), unpacks_output ? bytes(output_block_) : 0};
  }

  LaneBlocks<C> blocks() const { return blocks_; }
  std::int64_t samples_per_pass() const { return samples_per_pass_; }

  // [tap row][tap column][source channel][lane]
  std::int64_t weights(std::int64_t group, std::int64_t block) const {
    return group * group_weights() + blocks_.first(block) * gather_.kernel_area() * gather_.source_channels;
  }
  std::int64_t bias(std::int64_t group, std::int64_t block) const {
    return bias_offset_ + group * blocks_.padded_channels() + blocks_.first(block);
  }
  std::int64_t zeros() const { return zeros_offset_; }
  std::int64_t zeros_count() const { return zeros_count_; }
  std::int64_t images() const { return images_offset_; }

 private:
  // Converted source images that exist at a time, in bytes; at least one sample.
  static constexpr std::int64_t kPackedBytes = std::int64_t{32} << 20;

  static std::int64_t round_up(std::int64_t elements) { return (elements + 15) / 16 * 16; }
  std::int64_t group_weights() const {
    return blocks_.padded_channels() * gather_.kernel_area() * gather_.source_channels;
  }

  const Gather& gather_;
  LaneBlocks<C> blocks_;
  std::int64_t samples_per_pass_, bias_offset_, zeros_offset_, zeros_count_, images_offset_, total_, output_block_;
};

// Packs w and the bias of every block; lanes past the last channel are zero.
template <class T>
inline void pack_weights(const Gather& gather, const LaneWorkspace<Compute<T>>& plan, Compute<T>* scratch) {
  using C = Compute<T>;
  const auto* w = static_cast<const T*>(gather.w);
  const auto* bias = static_cast<const T*>(gather.bias);
  const LaneBlocks<C> blocks = plan.blocks();
  constexpr std::int64_t kSources = 16;  // source channels per item
  const std::int64_t slices = (gather.source_channels + kSources - 1) / kSources;
  const std::int64_t taps = gather.kernel_area();
  parallel_for(gather.groups * blocks.count() * slices, kSources * taps * LaneBlocks<C>::kFull,
               [&](std::int64_t item, int) {
                 const std::int64_t slice = item % slices, block = item / slices % blocks.count();
                 const std::int64_t group = item / slices / blocks.count();
                 const std::int64_t lanes = blocks.size(block), padded = blocks.padded_size(block);
                 const std::int64_t s1 = (slice + 1) * kSources < gather.source_channels ? (slice + 1) * kSources
                                                                                         : gather.source_channels;
                 const T* from = w + group * gather.w_group + blocks.first(block) * gather.w_filled;
                 C* to = scratch + plan.weights(group, block);
                 for (std::int64_t s = slice * kSources; s < s1; ++s) {
                   for (std::int64_t tap = 0; tap < taps; ++tap) {
                     const T* element = from + s * gather.w_source + tap / gather.columns.kernel_size * gather.w_row +
                                        tap % gather.columns.kernel_size * gather.w_column;
                     C* panel = to + (tap * gather.source_channels + s) * padded;
                     for (std::int64_t lane = 0; lane < lanes; ++lane) {
                       panel[lane] = to_compute(element[lane * gather.w_filled]);
                     }
                     for (std::int64_t lane = lanes; lane < padded; ++lane) panel[lane] = 0;
                   }
                 }
                 if (slice > 0) return;
                 C* block_bias = scratch + plan.bias(group, block);
                 for (std::int64_t lane = 0; lane < padded; ++lane) {
                   const std::int64_t channel = group * gather.filled_channels + blocks.first(block) + lane;
                   block_bias[lane] = bias && lane < lanes ? to_compute(bias[channel]) : C(0);
                 }
               });
  C* zeros = scratch + plan.zeros();
  for (std::int64_t i = 0; i < plan.zeros_count(); ++i) zeros[i] = 0;
}

// Writes a run that was computed as [pixel][lane] into channel planes.
template <class T>
inline void store_planes(const Gather& gather, const PixelRun& run, const Compute<T>* block, std::int64_t padded,
                         std::int64_t lanes, T* target) {
  const ImageStrides& strides = gather.filled_strides;
  const bool adjacent = run.columns->step == 1 && run.rows->step == 1;
  for (std::int64_t lane = 0; lane < lanes; ++lane) {
    T* plane = target + lane * strides.channel;
    for (std::int64_t p = 0; p < run.count; ++p) {
      const std::int64_t at = adjacent ? run.first + p : filled_offset(run, strides, run.first + p);
      plane[at] = from_compute<T>(block[p * padded + lane]);
    }
  }
}

// What one tap adds to a tile in direct.channels: for every source channel, its pixels times its lanes of the weight.
template <class T>
struct DenseTap {
  using Source = Compute<T>;

  static Gather prepare(const Problem& problem, const Buffers& buffers) { return Gather(problem, buffers); }
  static bool packs(const Gather& gather) { return !is_pixel_image<T>(gather.source_strides); }
  static std::int64_t first_source(const Gather& gather, std::int64_t group, std::int64_t) {
    return group * gather.source_channels;
  }

  template <int R, int V>
  static void add(Tile<Compute<T>, R, V>& tile, const Source* const (&pixels)[R], const Compute<T>* weights,
                  std::int64_t source_channels, std::int64_t) {
    constexpr std::int64_t kPadded = V * kLanes<Compute<T>>;
    accumulate(tile, pixels, 1, weights, kPadded, source_channels, FullPanel<Compute<T>>{});
  }
};

// What one tap adds to a tile in direct.depthwise: lane by lane, the source times the weight. The groups are the lanes of one block
// structure, as if they were the filled channels of a single group.
template <class T>
struct DepthwiseTap {
  using Source = T;

  static Gather prepare(const Problem& problem, const Buffers& buffers) {
    return Gather(problem, buffers).with_groups_as_channels();
  }
  static bool packs(const Gather&) { return false; }
  static std::int64_t first_source(const Gather&, std::int64_t, std::int64_t first_lane) { return first_lane; }

  template <int R, int V>
  static void add(Tile<Compute<T>, R, V>& tile, const T* const (&pixels)[R], const Compute<T>* weights, std::int64_t,
                  std::int64_t lanes) {
    using C = Compute<T>;
    if (lanes == V * kLanes<C>) {
      add_lanes(tile, pixels, weights, [](const T* p, bool) { return load(p); });
    } else {
      const auto tail = mask_between<C>(0, lanes - (V - 1) * kLanes<C>);
      add_lanes(tile, pixels, weights, [=](const T* p, bool is_last) { return is_last ? load_masked(p, tail) : load(p); });
    }
  }

 private:
  template <int R, int V, class Load>
  static inline __attribute__((always_inline)) void add_lanes(Tile<Compute<T>, R, V>& tile, const T* const (&pixels)[R],
                                                              const Compute<T>* weights, Load load_source) {
    using C = Compute<T>;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vector<C> weight = load(weights + v * kLanes<C>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        tile.sums[r][v] = fma(load_source(pixels[r] + v * kLanes<C>, v == V - 1), weight, tile.sums[r][v]);
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
    return LaneWorkspace<C>(gather, InnerTap::packs(gather)).size(gather.filled_strides.channel != 1);
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather = InnerTap::prepare(problem, buffers);
    PixelKernel(gather, workspace).run_all();
  }

 private:
  PixelKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather), plan_(gather, InnerTap::packs(gather)), workspace_(workspace), scratch_(workspace.shared<C>()) {}

  void run_all() {
    pack_weights<T>(gather_, plan_, scratch_);
    for (std::int64_t n = 0; n < gather_.batch; n += plan_.samples_per_pass()) {
      const std::int64_t rest = gather_.batch - n;
      run_samples(n, rest < plan_.samples_per_pass() ? rest : plan_.samples_per_pass());
    }
  }

  void run_samples(std::int64_t first, std::int64_t count) {
    const PixelImage<Source> image = source_image(first, count);
    const std::int64_t runs = count_runs(gather_), blocks = plan_.blocks().count();
    const std::int64_t items = gather_.groups * blocks * count * runs;
    const std::int64_t cost = kPixelsPerRun * LaneBlocks<C>::kFull * gather_.cost_per_element();
    parallel_for(items, cost, [&](std::int64_t item, int thread) {
      // Blocks outermost: the weight of one stays in L2 while a thread walks over the pixels.
      const PixelRun run = find_run(gather_, item % runs);
      const std::int64_t n = item / runs % count, block = item / runs / count % blocks;
      const std::int64_t group = item / runs / count / blocks;
      const Source* pixels = image.data + n * image.sample + InnerTap::first_source(gather_, group, plan_.blocks().first(block));
      visit_vectors(plan_.blocks().vectors(block), [&](auto vectors) {
        fill_run<decltype(vectors)::value>(run, image, pixels, first + n, group, block, thread);
      });
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
    return packed_image(source, first, count);
  }

  PixelImage<Source> packed_image(const T* source, std::int64_t first, std::int64_t count) const {
    const ImageStrides& strides = gather_.source_strides;
    const std::int64_t channels = gather_.groups * gather_.source_channels;
    C* images = scratch_ + plan_.images();
    pack_samples(source, strides, channels, gather_.source_area(), first, count, images);
    return {reinterpret_cast<const Source*>(images), channels * gather_.source_area(), channels * gather_.columns.source_size, channels};
  }

  template <int V>
  void fill_run(const PixelRun& run, const PixelImage<Source>& image, const Source* pixels, std::int64_t n, std::int64_t group,
                std::int64_t block, int thread) const {
    constexpr int R = kTileRows<V>;
    constexpr std::int64_t kPadded = V * kLanes<C>;
    const std::int64_t lanes = plan_.blocks().size(block);
    const std::int64_t channel = group * gather_.filled_channels + plan_.blocks().first(block);
    T* target = static_cast<T*>(gather_.filled) + n * gather_.filled_strides.sample +
                channel * gather_.filled_strides.channel;
    const bool to_planes = gather_.filled_strides.channel != 1;
    C* output_block = workspace_.of_thread<C>(thread);

    for (std::int64_t first = run.first; first < run.first + run.count; first += R) {
      Tile<C, R, V> tile;
      tile.start(scratch_ + plan_.bias(group, block));
      TilePixels<Source, R> tile_pixels(run, first, pixels, image.row, image.column, gather_.rows.source_size,
                                        gather_.columns.source_size, zeros());
      add_taps(tile, tile_pixels, run, scratch_ + plan_.weights(group, block), lanes);
      if (to_planes) {
        store_block<R, V>(tile, output_block + (first - run.first) * kPadded);
      } else {
        store_pixels<T>(tile, run, gather_.filled_strides, first, lanes, target);
      }
    }
    if (to_planes) store_planes<T>(gather_, run, output_block, kPadded, lanes, target);
  }

  template <int R, int V>
  void add_taps(Tile<C, R, V>& tile, TilePixels<Source, R>& tile_pixels, const PixelRun& run, const C* weights, std::int64_t lanes) const {
    constexpr std::int64_t kPadded = V * kLanes<C>;
    const Source* pixels[R];
    for (const Tap& row : run.rows->taps) {
      if (!tile_pixels.enter_row(row)) continue;
      for (const Tap& column : run.columns->taps) {
        if (!tile_pixels.enter_column(column, pixels)) continue;
        const std::int64_t tap = row.kernel * gather_.columns.kernel_size + column.kernel;
        InnerTap::add(tile, pixels, weights + tap * gather_.source_channels * kPadded, gather_.source_channels, lanes);
      }
    }
  }

  template <int R, int V>
  static void store_block(const Tile<C, R, V>& tile, C* block) {
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) store(block + (r * V + v) * kLanes<C>, tile.sums[r][v]);
    }
  }

  const Source* zeros() const { return reinterpret_cast<const Source*>(scratch_ + plan_.zeros()); }

  const Gather& gather_;
  LaneWorkspace<C> plan_;
  const Workspace& workspace_;
  C* scratch_;
};

template <class T>
using ChannelsKernel = PixelKernel<T, DenseTap>;
template <class T>
using DepthwiseKernel = PixelKernel<T, DepthwiseTap>;
