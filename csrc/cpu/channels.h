// Lanes are channels, and a tile of pixels is filled at a time. Three kernels, which differ in what one tap does to a tile:
//
// direct.channels    Lanes are the filled channels of one group; a tap adds the outer product of source channels and lanes. Reads
//                    channels_last images of float32 and float64 in place; other layouts and types are converted to that first.
// direct.grouped     Lanes are the filled channels of several small groups, whose source channels fit in one vector too; a tap adds,
//                    for each source channel of a group, the source permuted to its group's lanes. channels_last, any type in place.
// direct.depthwise   The same for groups of one channel, where nothing need be permuted.
//
// Bytes: the source once per block of lanes (64 in float32 under AVX-512), the packed weight once per run of pixels, from L2.

// What the lanes of a block are.
template <class C>
struct LaneMap {
  std::int64_t lanes;           // filled channels in the block
  std::int64_t source_lanes;    // source channels that they read
  std::int64_t source_channels; // per group
  const LaneIndex<C>* sources;  // [source channel of a group][lane]: which of the source lanes it reads; grouped only
};

// The workspace of one call, in elements of C.
template <class C>
class LaneWorkspace {
 public:
  LaneWorkspace(const Gather& gather, LaneBlocks<C> blocks, bool packs_source, bool permutes)
      : gather_(gather), blocks_(blocks) {
    const std::int64_t image = gather.groups * gather.source_channels * gather.source_area();
    samples_per_pass_ = packs_source ? samples_within_budget<C>(gather.batch, image) : gather.batch;
    bias_offset_ = gather.groups * group_weights();
    zeros_offset_ = bias_offset_ + gather.groups * blocks_.padded_channels();
    const std::int64_t zeros = LaneBlocks<C>::kLargest;
    zeros_count_ = gather.source_channels > zeros ? gather.source_channels : zeros;
    indices_offset_ = zeros_offset_ + zeros_count_;
    images_offset_ = round_up(indices_offset_ + (permutes ? gather.source_channels * kLanes<C> : 0));
    total_ = images_offset_ + (packs_source ? samples_per_pass_ * image : 0);
  }

  WorkspaceSize size(bool unpacks_output) const {
    const auto bytes = [](std::int64_t elements) { return static_cast<std::size_t>(elements) * sizeof(C); };
    return {bytes(total_), unpacks_output ? bytes(kPixelsPerRun * LaneBlocks<C>::kLargest) : 0};
  }

  const LaneBlocks<C>& blocks() const { return blocks_; }
  std::int64_t samples_per_pass() const { return samples_per_pass_; }

  // [tap row][tap column][source channel][lane]
  std::int64_t weights(std::int64_t group, std::int64_t block) const {
    return group * group_weights() + blocks_.padded_first(block) * gather_.kernel_area() * gather_.source_channels;
  }
  std::int64_t bias(std::int64_t group, std::int64_t block) const {
    return bias_offset_ + group * blocks_.padded_channels() + blocks_.padded_first(block);
  }
  std::int64_t zeros() const { return zeros_offset_; }
  std::int64_t zeros_count() const { return zeros_count_; }
  std::int64_t indices() const { return indices_offset_; }
  std::int64_t images() const { return images_offset_; }

 private:
  static std::int64_t round_up(std::int64_t elements) { return (elements + 15) / 16 * 16; }
  std::int64_t group_weights() const {
    return blocks_.padded_channels() * gather_.kernel_area() * gather_.source_channels;
  }

  const Gather& gather_;
  LaneBlocks<C> blocks_;
  std::int64_t samples_per_pass_, bias_offset_, zeros_offset_, zeros_count_, indices_offset_, images_offset_, total_;
};

// The lanes of one block as they lie in w: those of one group are w_filled apart, and groups of one channel w_group.
struct WeightLanes {
  std::int64_t count, padded;  // padded lanes are never stored, so that what they hold does not matter
  bool even;
  std::int64_t step;  // if even
};

template <class C>
inline WeightLanes weight_lanes(const Gather& gather, const LaneBlocks<C>& blocks, std::int64_t block) {
  const std::int64_t count = blocks.size(block);
  return {count, blocks.padded_size(block), gather.group_channels == 1 || count <= gather.group_channels,
          gather.group_channels == 1 ? gather.w_group : gather.w_filled};
}

// A lane's source channels and taps follow each other in w, as in a contiguous weight of the forward slot: squares of lanes by those
// are transposed in registers. `w` is the block's first lane.
template <class T>
inline void pack_runs(const Gather& gather, const WeightLanes& lanes, const T* w, std::int64_t first,
                      std::int64_t last, Compute<T>* panels) {
  using C = Compute<T>;
  constexpr std::int64_t L = kLanes<C>;
  const std::int64_t taps = gather.kernel_area();
  for (std::int64_t lane = 0; lane < lanes.count; lane += L) {
    std::int64_t s = first, tap = 0;
    for (std::int64_t k = first * taps; k < last * taps; k += L) {
      const auto mask = mask_between<C>(0, last * taps - k);
      Vector<C> square[L];
      for (std::int64_t i = 0; i < L; ++i) {
        square[i] = lane + i < lanes.count ? load_masked(w + (lane + i) * lanes.step + k, mask) : Vector<C>{};
      }
      transpose<C>(square);
      for (std::int64_t i = 0; i < L && k + i < last * taps; ++i) {
        store(panels + (tap * gather.source_channels + s) * lanes.padded + lane, square[i]);
        if (++tap == taps) {
          tap = 0;
          ++s;
        }
      }
    }
  }
}

// Packs the weights of the source channels [first, last) of one block of lanes: panels[tap][source channel][lane].
template <class T>
inline void pack_slice(const Gather& gather, std::int64_t group, const LaneBlocks<Compute<T>>& blocks,
                       std::int64_t block, std::int64_t first, std::int64_t last, Compute<T>* panels) {
  const WeightLanes lanes = weight_lanes(gather, blocks, block);
  const std::int64_t origin = gather.weight_offset(group, blocks.first(block)), width = gather.columns.kernel_size;
  const T* w = static_cast<const T*>(gather.w) + origin;
  if (lanes.even && gather.w_column == 1 && gather.w_row == width && gather.w_source == gather.kernel_area()) {
    return pack_runs(gather, lanes, w, first, last, panels);
  }
  for (std::int64_t kh = 0; kh < gather.rows.kernel_size; ++kh) {
    for (std::int64_t kw = 0; kw < width; ++kw) {
      const T* tap = w + kh * gather.w_row + kw * gather.w_column;
      Compute<T>* panel = panels + (kh * width + kw) * gather.source_channels * lanes.padded;
      if (lanes.even && gather.w_source == 1) {
        transpose_matrix(tap + first, lanes.step, lanes.count, last - first, panel + first * lanes.padded,
                         lanes.padded);
        continue;
      }
      for (std::int64_t s = first; s < last; ++s) {
        for (std::int64_t lane = 0; lane < lanes.count; ++lane) {
          const std::int64_t offset = lanes.even ? lane * lanes.step
                                                 : gather.weight_offset(group, blocks.first(block) + lane) - origin;
          panel[s * lanes.padded + lane] = to_compute(tap[offset + s * gather.w_source]);
        }
      }
    }
  }
}

template <class T>
inline void pack_bias(const Gather& gather, std::int64_t group, const LaneBlocks<Compute<T>>& blocks,
                      std::int64_t block, Compute<T>* packed) {
  const auto* bias = static_cast<const T*>(gather.bias);
  const std::int64_t first = group * gather.filled_channels + blocks.first(block);
  for (std::int64_t lane = 0; lane < blocks.padded_size(block); ++lane) {
    packed[lane] = bias && lane < blocks.size(block) ? to_compute(bias[first + lane]) : Compute<T>(0);
  }
}

// Packs w and the bias of every block; lanes past the last channel are zero.
template <class T>
inline void pack_weights(const Gather& gather, const LaneWorkspace<Compute<T>>& plan, Compute<T>* scratch) {
  using C = Compute<T>;
  const LaneBlocks<C>& blocks = plan.blocks();
  constexpr std::int64_t kSources = 16;  // source channels per item
  const std::int64_t slices = (gather.source_channels + kSources - 1) / kSources;
  const std::int64_t cost = kSources * gather.kernel_area() * blocks.full;
  parallel_for(gather.groups * blocks.count() * slices, cost, [&](std::int64_t item, int) {
    const std::int64_t first = item % slices * kSources, block = item / slices % blocks.count();
    const std::int64_t group = item / slices / blocks.count();
    const std::int64_t last = first + kSources < gather.source_channels ? first + kSources : gather.source_channels;
    pack_slice<T>(gather, group, blocks, block, first, last, scratch + plan.weights(group, block));
    if (first == 0) pack_bias<T>(gather, group, blocks, block, scratch + plan.bias(group, block));
  });
  C* zeros = scratch + plan.zeros();
  for (std::int64_t i = 0; i < plan.zeros_count(); ++i) zeros[i] = 0;
}

// Writes a run that was computed as [pixel][lane] into channel planes.
template <class T>
inline void store_planes(const Gather& gather, const PixelRun& run, const Compute<T>* block, std::int64_t padded,
                         std::int64_t lanes, T* target) {
  const ImageStrides& strides = gather.filled_strides;
  if (run.columns->step == 1 && run.rows->step == 1) {
    return transpose_matrix(block, padded, run.count, lanes, target + run.first, strides.channel);
  }
  for (std::int64_t p = 0; p < run.count; ++p) {
    T* pixel = target + filled_offset(run, strides, run.first + p);
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      pixel[lane * strides.channel] = from_compute<T>(block[p * padded + lane]);
    }
  }
}

// For every source channel, its pixels times its lanes of the weight.
template <class T>
struct DenseTap {
  using C = Compute<T>;
  using Source = C;
  static constexpr bool kPermutes = false;

  static Gather prepare(const Problem& problem, const Buffers& buffers) { return Gather(problem, buffers); }
  static LaneBlocks<C> blocks(const Gather& gather) { return {gather.filled_channels}; }
  static bool packs(const Gather& gather) { return !is_pixel_image<T>(gather.source_strides); }

  template <int R, int V>
  static void add(BlockedTile<C, R, V>& tile, const C* const (&pixels)[R], const C* weights, const LaneMap<C>& map) {
    constexpr std::int64_t kBlock = BlockedTile<C, R, V>::kTerms;
    const C* rows[R];
    for (std::int64_t s = 0; s < map.source_channels; s += kBlock) {
      const std::int64_t count = s + kBlock < map.source_channels ? kBlock : map.source_channels - s;
      for (int r = 0; r < R; ++r) rows[r] = pixels[r] + s;
      accumulate(tile.block, rows, 1, weights + s * V * kLanes<C>, V * kLanes<C>, count, FullPanel<C>{});
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
  static void add(BlockedTile<C, R, V>& blocked, const T* const (&pixels)[R], const C* weights,
                  const LaneMap<C>& map) {
    Tile<C, R, V>& tile = blocked.block;
    if (map.lanes == V * kLanes<C>) {
      add_lanes(tile, pixels, weights, [](const T* p, bool) { return load(p); });
    } else {
      const auto tail = mask_between<C>(0, map.lanes - (V - 1) * kLanes<C>);
      add_lanes(tile, pixels, weights, [=](const T* p, bool is_last) { return is_last ? load_masked(p, tail) : load(p); });
    }
  }

 private:
  template <int R, int V, class Load>
  static inline __attribute__((always_inline)) void add_lanes(Tile<C, R, V>& tile, const T* const (&pixels)[R],
                                                              const C* weights, Load load_source) {
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

// For each source channel of a group, the source permuted to the lanes of its group, times the weight. As many groups to a vector as
// leave both their filled and their source channels inside it.
template <class T>
struct GroupedTap {
  using C = Compute<T>;
  using Source = T;
  static constexpr bool kPermutes = true;

  static Gather prepare(const Problem& problem, const Buffers& buffers) {
    return Gather(problem, buffers).with_groups_as_channels();
  }
  static LaneBlocks<C> blocks(const Gather& gather) {
    const std::int64_t larger = gather.group_channels > gather.source_channels ? gather.group_channels : gather.source_channels;
    return {gather.filled_channels, kLanes<C> / larger * gather.group_channels};
  }
  static bool packs(const Gather&) { return false; }

  // Sums and sources of every pixel have a register each.
  template <int R, int V>
  static void add(BlockedTile<C, R, V>& blocked, const T* const (&pixels)[R], const C* weights,
                  const LaneMap<C>& map) {
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
      for (int r = 0; r < R; ++r) tile.sums[r][0] = fma(permute(sources[r], index), weight, tile.sums[r][0]);
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
      : gather_(gather), plan_(plan_for(gather)), workspace_(workspace), scratch_(workspace.shared<C>()) {}

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
    parallel_for(gather_.groups * blocks.count() * count * runs, cost, [&](std::int64_t item, int thread) {
      // Blocks outermost: the weight of one stays in L2 while a thread walks over the pixels.
      const PixelRun run = find_run(gather_, item % runs);
      const std::int64_t n = item / runs % count, block = item / runs / count % blocks.count();
      const std::int64_t group = item / runs / count / blocks.count();
      const Source* pixels = image.data + n * image.sample + gather_.first_source(group, blocks.first(block));
      if constexpr (InnerTap::kPermutes) {
        fill_run<1>(run, image, pixels, first + n, group, block, thread);
      } else {
        visit_vectors(blocks.vectors(block), [&](auto vectors) {
          fill_run<decltype(vectors)::value>(run, image, pixels, first + n, group, block, thread);
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
    return {images, channels * gather_.source_area(), channels * gather_.columns.source_size, channels};
  }

  template <int V>
  void fill_run(const PixelRun& run, const PixelImage<Source>& image, const Source* pixels, std::int64_t n,
                std::int64_t group, std::int64_t block, int thread) const {
    constexpr int R = kTileRows<V>;
    constexpr std::int64_t kPadded = V * kLanes<C>;
    const std::int64_t lanes = plan_.blocks().size(block);
    const LaneMap<C> map{lanes, lanes / gather_.group_channels * gather_.source_channels, gather_.source_channels,
                         indices()};
    const std::int64_t channel = group * gather_.filled_channels + plan_.blocks().first(block);
    T* target = static_cast<T*>(gather_.filled) + n * gather_.filled_strides.sample +
                channel * gather_.filled_strides.channel;
    const bool to_planes = gather_.filled_strides.channel != 1;
    C* output_block = workspace_.of_thread<C>(thread);

    for (std::int64_t first = run.first; first < run.first + run.count; first += R) {
      BlockedTile<C, R, V> tile;
      tile.start(scratch_ + plan_.bias(group, block));
      TilePixels<Source, R> tile_pixels(run, first, pixels, image.row, image.column, gather_.rows.source_size,
                                        gather_.columns.source_size, zeros());
      add_taps(tile, tile_pixels, run, scratch_ + plan_.weights(group, block), map);
      tile.finish();
      if (to_planes) {
        store_block(tile.block, output_block + (first - run.first) * kPadded);
      } else {
        store_pixels<T>(tile.block, run, gather_.filled_strides, first, lanes, target);
      }
    }
    if (to_planes) store_planes<T>(gather_, run, output_block, kPadded, lanes, target);
  }

  template <int R, int V>
  void add_taps(BlockedTile<C, R, V>& tile, TilePixels<Source, R>& tile_pixels, const PixelRun& run, const C* weights,
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
  static void store_block(const Tile<C, R, V>& tile, C* block) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(block + (r * V + v) * kLanes<C>, tile.sums[r][v]);
    }
  }

  const Source* zeros() const { return reinterpret_cast<const Source*>(scratch_ + plan_.zeros()); }
  LaneIndex<C>* indices() const { return reinterpret_cast<LaneIndex<C>*>(scratch_ + plan_.indices()); }

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
