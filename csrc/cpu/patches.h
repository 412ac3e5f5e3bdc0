// direct.patches: the input gradient of windows that lie side by side, which is also the transposed
// convolution that enlarges images. No two windows meet in x, so every element of x has one tap:
//
//     x[n, c, oh KH + kh, ow KW + kw] = bias[c] + sum over oc of y[n, oc, oh, ow] w[oc, c, kh, kw]
//
// a product of the pixels of y, the rows of the tile of gemm_tile.h, with the elements (c, kh, kw)
// of a patch, its lanes. Lanes follow each other as they do in x: runs of kw in NCHW, of (kw, c) in
// channels_last.
//
// Bytes: the packed weight once per strip of pixels, from L2; y once per chunk of lanes, of which
// there are at most 4; x once.

// Neighbouring lanes of a panel that adjoin in x.
struct PatchRun {
  std::int64_t lane, count;
  std::int64_t target;  // of the first, from the first element of the patch
};

// The lanes of a patch: where they lie in w and in x.
class PatchLanes {
 public:
  PatchLanes(const Gather& gather, bool channels_are_adjacent)
      : gather_(gather), channels_are_adjacent_(channels_are_adjacent) {}

  std::int64_t count() const { return gather_.filled_channels * gather_.kernel_area(); }

  struct Lane {
    std::int64_t channel, weight, target;
  };
  Lane lane(std::int64_t index) const {
    const std::int64_t width = gather_.columns.kernel_size, height = gather_.rows.kernel_size;
    std::int64_t channel, row, column;
    if (channels_are_adjacent_) {
      channel = index % gather_.filled_channels;
      column = index / gather_.filled_channels % width;
      row = index / gather_.filled_channels / width;
    } else {
      column = index % width;
      row = index / width % height;
      channel = index / width / height;
    }
    const ImageStrides& x = gather_.filled_strides;
    return {channel, channel * gather_.w_filled + row * gather_.w_row + column * gather_.w_column,
            channel * x.channel + row * x.row + column * x.column};
  }

 private:
  const Gather& gather_;
  bool channels_are_adjacent_;
};

template <class T>
class PatchesKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    const PatchesKernel kernel(gather, problem.layout);
    return {bytes_of<C>(kernel.images_offset() + kernel.images_size()),
            bytes_of<C>(kTile + kLanes<C>)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    PatchesKernel(gather, problem.layout).run_all(workspace);
  }

 private:
  static constexpr std::int64_t kPanel = kPanelLanes<C>;
  static constexpr std::int64_t kTile = kGemmRows * kPanel;
  static constexpr std::int64_t kStripPixels = 6 * kGemmRows;
  // Terms that are added up before they meet the sum of those before, so that rounding does not
  // grow with their number.
  static constexpr std::int64_t kDepth = 256;

  PatchesKernel(const Gather& gather, Layout layout)
      : gather_(gather), lanes_(gather, layout == Layout::kNhwc) {}

  std::int64_t panels() const { return ceil_divide(lanes_.count(), kPanel); }
  std::int64_t chunks() const { return larger(1, smaller(4, lanes_.count() / (4 * kPanel))); }
  // The shared workspace: [panel][oc][lane], the bias of every lane, images as pixels.
  std::int64_t bias_offset() const { return panels() * gather_.source_channels * kPanel; }
  std::int64_t images_offset() const { return bias_offset() + panels() * kPanel; }
  std::int64_t image_size() const { return gather_.source_channels * gather_.source_area(); }
  std::int64_t samples_per_pass() const {
    return converts() ? samples_within_budget<C>(gather_.batch, image_size()) : gather_.batch;
  }
  std::int64_t images_size() const { return converts() ? samples_per_pass() * image_size() : 0; }
  bool converts() const { return !is_pixel_image<T>(gather_.source_strides); }

  void run_all(const Workspace& workspace) const {
    C* shared = workspace.shared<C>();
    pack_weights(shared);
    const auto* source = static_cast<const T*>(gather_.source);
    for (std::int64_t n = 0; n < gather_.batch; n += samples_per_pass()) {
      const std::int64_t count = smaller(samples_per_pass(), gather_.batch - n);
      const PixelImage<C> image =
          as_pixel_image<T>(source + n * gather_.source_strides.sample, gather_.source_strides,
                            count, gather_.source_channels, gather_.rows.source_size,
                            gather_.columns.source_size, shared + images_offset());
      run_samples(image, n, count, workspace);
    }
  }

  void pack_weights(C* shared) const {
    const std::int64_t depth = gather_.source_channels;
    parallel_for(panels(), depth * kPanel, [&](std::int64_t panel, int) {
      const std::int64_t count = smaller(kPanel, lanes_.count() - panel * kPanel);
      std::int64_t from[kPanel];
      C* bias = shared + bias_offset() + panel * kPanel;
      bool adjoin = true;
      for (std::int64_t i = 0; i < kPanel; ++i) {
        const PatchLanes::Lane lane = lanes_.lane(panel * kPanel + smaller(i, count - 1));
        from[i] = lane.weight;
        bias[i] = gather_.bias ? to_compute(static_cast<const T*>(gather_.bias)[lane.channel]) : 0;
        adjoin = adjoin && (i >= count || from[i] == from[0] + i);
      }
      const T* w = static_cast<const T*>(gather_.w);
      C* packed = shared + panel * depth * kPanel;
      for (std::int64_t s = 0; s < depth; ++s, w += gather_.w_source, packed += kPanel) {
        if (adjoin) {
          for (std::int64_t i = 0; i < kPanel; i += kLanes<C>)
            store(packed + i, load_masked(w + from[0] + i, mask_between<C>(0, count - i)));
        } else {
          for (std::int64_t i = 0; i < kPanel; ++i) packed[i] = to_compute(w[from[i]]);
        }
      }
    });
  }

  void run_samples(const PixelImage<C>& image, std::int64_t first, std::int64_t count,
                   const Workspace& workspace) const {
    const std::int64_t area = gather_.source_area();
    const EvenSplit strips{area, ceil_divide(area, kStripPixels)}, chunks{panels(), this->chunks()};
    const std::int64_t cost =
        kStripPixels * lanes_.count() / chunks.parts * gather_.source_channels;
    parallel_for(count * chunks.parts * strips.parts, cost, [&](std::int64_t item, int thread) {
      const std::int64_t strip = item % strips.parts, chunk = item / strips.parts % chunks.parts,
                         n = item / strips.parts / chunks.parts;
      const Strip pixels{image.data + n * image.sample, first + n, strips.first(strip),
                         strips.size(strip)};
      for (std::int64_t i = 0; i < chunks.size(chunk); ++i)
        fill_panel(pixels, chunks.first(chunk) + i, workspace, thread);
    });
  }

  // Pixels [first, first + count) of the sample `n` of y, whose data is pixels by channels.
  struct Strip {
    const C* data;
    std::int64_t n, first, count;
  };

  void fill_panel(const Strip& strip, std::int64_t panel, const Workspace& workspace,
                  int thread) const {
    PatchRun runs[kPanel];
    const std::int64_t run_count = find_runs(panel, runs);
    const EvenSplit tiles{strip.count, ceil_divide(strip.count, kGemmRows)};
    for (std::int64_t i = 0; i < tiles.parts; ++i) {
      std::int64_t targets[kGemmRows];
      const std::int64_t first = strip.first + tiles.first(i);
      find_patches(strip.n, first, tiles.size(i), targets);
      fill_tile(strip.data + first * gather_.source_channels, tiles.size(i), panel, targets, runs,
                run_count, workspace.shared<C>(), workspace.of_thread<C>(thread));
    }
  }

  std::int64_t find_runs(std::int64_t panel, PatchRun* runs) const {
    const std::int64_t count = smaller(kPanel, lanes_.count() - panel * kPanel);
    std::int64_t found = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t target = lanes_.lane(panel * kPanel + i).target;
      if (found > 0 && target == runs[found - 1].target + runs[found - 1].count) {
        ++runs[found - 1].count;
      } else {
        runs[found++] = {i, 1, target};
      }
    }
    return found;
  }

  // Where the patches of `count` pixels of y begin in x.
  void find_patches(std::int64_t n, std::int64_t first, std::int64_t count,
                    std::int64_t* targets) const {
    const ImageStrides& x = gather_.filled_strides;
    for (std::int64_t r = 0; r < count; ++r) {
      const std::int64_t oh = (first + r) / gather_.columns.source_size,
                         ow = (first + r) % gather_.columns.source_size;
      targets[r] = n * x.sample + oh * gather_.rows.kernel_size * x.row +
                   ow * gather_.columns.kernel_size * x.column;
    }
  }

  void fill_tile(const C* pixels, std::int64_t rows, std::int64_t panel,
                 const std::int64_t* targets, const PatchRun* runs, std::int64_t run_count,
                 const C* shared, C* tile) const {
    const std::int64_t depth = gather_.source_channels;
    std::int64_t in_tile[kGemmRows];
    for (std::int64_t r = 0; r < kGemmRows; ++r) in_tile[r] = r * kPanel;
    T* x = static_cast<T*>(gather_.filled);
    TileJob<C> job{pixels,
                   depth,
                   shared + panel * depth * kPanel,
                   0,
                   gather_.bias ? shared + bias_offset() + panel * kPanel : nullptr,
                   0,
                   tile,
                   in_tile,
                   {}};
    const std::int64_t lanes = smaller(kPanel, lanes_.count() - panel * kPanel);
    for (std::int64_t first = 0; first < depth; first += kDepth) {
      job.depth = smaller(kDepth, depth - first);
      if constexpr (std::is_same_v<T, C>) {
        if (first + kDepth >= depth && run_count == 1) {
          job.target = x + runs[0].target;
          job.offsets = targets;
        }
      }
      multiply(static_cast<int>(rows), lanes, job);
      job.rows += kDepth;
      job.panel += kDepth * kPanel;
      job.start = tile;
      job.start_pitch = kPanel;
    }
    if (job.target == tile) store_runs(tile, rows, x, targets, runs, run_count);
  }

  static void store_runs(const C* tile, std::int64_t rows, T* x, const std::int64_t* targets,
                         const PatchRun* runs, std::int64_t run_count) {
    for (std::int64_t r = 0; r < rows; ++r, tile += kPanel) {
      for (std::int64_t i = 0; i < run_count; ++i) {
        const PatchRun& run = runs[i];
        T* to = x + targets[r] + run.target;
        for (std::int64_t k = 0; k < run.count; k += kLanes<C>)
          store_masked(to + k, load(tile + run.lane + k), mask_between<C>(0, run.count - k));
      }
    }
  }

  const Gather& gather_;
  PatchLanes lanes_;
};
