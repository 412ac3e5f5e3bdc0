// direct.gemm: the gather as a product of two matrices that are packed block by block, into memory
// that stays in L1 and L2, and multiplied by the tile of gemm_tile.h.
//
//     filled[pixel, f] = bias[f] + sum over k = (tap, source channel) of image[pixel, k] w[k, f]
//
// Bytes per multiply-add of a strip of P pixels by F channels, packing included: about 4 / F for
// the image and 4 / P for the weight, both from L2. Sums are added block by block, 256 terms or
// so each, which keeps rounding from growing with the number of terms.

template <class T, bool kPixelsAreRows>
class GemmKernel {
 public:
  using C = Compute<T>;
  using Plan = GemmPlan<C, kPixelsAreRows>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    const Plan plan(gather);
    return {bytes_of<C>(plan.shared_size()),
            bytes_of<C>(plan.thread_operand() + plan.totals_size() + 2 * Plan::kTileSize)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    GemmKernel(gather, workspace).run_all();
  }

 private:
  static constexpr std::int64_t kLanesOfPanel = kPanelLanes<C>;

  // What one item fills: a chunk of channels of a group, in one strip of pixels of each of
  // `samples` samples.
  struct Item {
    std::int64_t group, sample, samples, strip, channel, channels;
  };
  // The memory of a thread.
  struct Scratch {
    C *operand, *totals, *start, *tile;
  };

  GemmKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather),
        plan_(gather),
        workspace_(workspace),
        output_(gather, workspace.shared<C>(), plan_.bias_size() / gather.groups),
        shared_(workspace.shared<C>() + plan_.bias_size()) {
    for (int r = 0; r < kGemmRows; ++r) {
      channel_offsets_[r] = r * gather.filled_strides.channel;
      tile_offsets_[r] = r * kLanesOfPanel;
    }
  }

  void run_all() {
    output_.pack_bias();
    if (!plan_.images_are_shared() && !weight_in_place()) pack_weights();
    for (std::int64_t n = 0; n < gather_.batch; n += plan_.samples_per_pass()) {
      const std::int64_t rest = gather_.batch - n;
      const std::int64_t count = rest < plan_.samples_per_pass() ? rest : plan_.samples_per_pass();
      if (plan_.images_are_shared()) pack_images(n, count);
      run_samples(n, count);
    }
  }

  bool weight_in_place() const { return !kPixelsAreRows && weight_rows_in_place<T>(gather_); }

  void pack_weights() {
    constexpr std::int64_t kUnit = kPixelsAreRows ? kLanesOfPanel : 16;
    const std::int64_t units = ceil_divide(gather_.filled_channels, kUnit);
    const auto count = [&](const GemmClass& part) { return gather_.groups * part.blocks * units; };
    plan_.parallel_for_classes(packing_cost(gather_.filled_channels, kUnit), count,
                               [&](const GemmClass& part, std::int64_t item, int) {
                                 const std::int64_t block = item % part.blocks,
                                                    first = item / part.blocks % units * kUnit;
                                 const std::int64_t group = item / part.blocks / units;
                                 const std::int64_t rest = gather_.filled_channels - first;
                                 pack_weight(part, group, first, rest < kUnit ? rest : kUnit, block,
                                             shared_weight(part, group, first, block));
                               });
  }

  // Of one block of the sum for as many channels or pixels, out of `exist`.
  std::int64_t packing_cost(std::int64_t exist, std::int64_t count) const {
    const std::int64_t depth = gather_.cost_per_element();
    return (exist < count ? exist : count) * (depth < Plan::kDepth ? depth : Plan::kDepth);
  }

  C* shared_weight(const GemmClass& part, std::int64_t group, std::int64_t channel,
                   std::int64_t block) const {
    const std::int64_t pitch = Plan::weight_pitch(part);
    return shared_ + group * plan_.weights_of_group() +
           (part.weight_first + block * pitch) * plan_.padded_channels() + channel * pitch;
  }

  void pack_weight(const GemmClass& part, std::int64_t group, std::int64_t channel,
                   std::int64_t channels, std::int64_t block, C* packed) const {
    const GemmWeight<T> weight(gather_, part, group);
    if constexpr (kPixelsAreRows) {
      weight.pack_lanes(channel, channels, part.depth_block(block), packed);
    } else {
      weight.pack_rows(channel, channels, part.depth_block(block), part.template pitch<C>(),
                       packed);
    }
  }

  void pack_images(std::int64_t first, std::int64_t count) {
    const auto items = [&](const GemmClass& part) { return count * gather_.groups * part.blocks; };
    plan_.parallel_for_classes(packing_cost(gather_.filled_area(), Plan::kStripPixels), items,
                               [&](const GemmClass& part, std::int64_t item, int) {
                                 const std::int64_t block = item % part.blocks,
                                                    group = item / part.blocks % gather_.groups;
                                 const std::int64_t n = item / part.blocks / gather_.groups;
                                 const StripPixels pixels(part, gather_.filled_strides, 0,
                                                          part.pixels);
                                 bool inside[StripPixels::kMost];
                                 pack_image(part, pixels, group, first + n, block,
                                            shared_image(part, group, n, block), inside);
                               });
  }

  // `n` counts from the first sample of the pass.
  C* shared_image(const GemmClass& part, std::int64_t group, std::int64_t n,
                  std::int64_t block) const {
    return shared_ + (n * gather_.groups + group) * plan_.image_of_sample() + part.image_first +
           block * Plan::image_block(part);
  }

  void pack_image(const GemmClass& part, const StripPixels& pixels, std::int64_t group,
                  std::int64_t n, std::int64_t block, C* packed, bool* inside) const {
    const DepthBlock depth = part.depth_block(block);
    if (depth.size() == 0) return;
    if constexpr (kPixelsAreRows) {
      pack_pixel_rows(part, source_image<T>(gather_, group, n), pixels, depth,
                      part.template pitch<C>(), packed, inside);
    } else {
      pack_pixel_lanes(part, source_image<T>(gather_, group, n), pixels, depth, packed);
    }
  }

  // Whether the image is its own packed operand: pixels by channels, seen through one tap.
  bool in_place(const GemmClass& part) const {
    if (!kPixelsAreRows || !std::is_same_v<T, C> || plan_.images_are_shared()) return false;
    return !rows_of_tile_collide<C>(gather_.source_strides.column) &&
           covers_image(part, source_image<T>(gather_, 0, 0));
  }
  const C* image_in_place(const Item& item, std::int64_t pixel, std::int64_t channel) const {
    if constexpr (std::is_same_v<T, C>) {
      return source_image<T>(gather_, item.group, item.sample).data +
             pixel * gather_.source_strides.column + channel;
    }
    return nullptr;
  }

  void run_samples(std::int64_t first, std::int64_t count) {
    const std::int64_t chunks = plan_.chunks(), together = plan_.images_are_shared() ? count : 1;
    const std::int64_t passes = count / together;
    const auto items = [&](const GemmClass& part) {
      return passes * gather_.groups * chunks * part.strips;
    };
    const std::int64_t area = gather_.filled_area();
    const std::int64_t cost = ceil_divide(gather_.filled_channels, chunks) *
                              (area < Plan::kStripPixels ? area : Plan::kStripPixels) *
                              gather_.cost_per_element() * together;
    plan_.parallel_for_classes(
        cost, items, [&](const GemmClass& part, std::int64_t item, int thread) {
          const std::int64_t strip = item % part.strips, chunk = item / part.strips % chunks;
          const std::int64_t group = item / part.strips / chunks % gather_.groups;
          const std::int64_t n = item / part.strips / chunks / gather_.groups;
          const Item what{group, first + n * together,     together,
                          strip, plan_.chunk_first(chunk), plan_.chunk_size(chunk)};
          C* memory = workspace_.of_thread<C>(thread);
          const Scratch scratch{memory, memory + plan_.thread_operand() + 2 * Plan::kTileSize,
                                memory + plan_.thread_operand(),
                                memory + plan_.thread_operand() + Plan::kTileSize};
          if (what.channels > 0) run_item(part, what, first, scratch);
        });
  }

  void run_item(const GemmClass& part, const Item& item, std::int64_t first_of_pass,
                const Scratch& scratch) const {
    const std::int64_t p0 = Plan::strip_first(part, item.strip);
    const StripPixels pixels(part, gather_.filled_strides, p0,
                             Plan::strip_first(part, item.strip + 1) - p0);
    if (pixels.count == 0) return;
    bool inside[StripPixels::kMost];
    for (bool& pixel : inside) pixel = true;
    for (std::int64_t block = 0; block < part.blocks; ++block) {
      const C* weight = weight_operand(part, item, block, scratch.operand);
      for (std::int64_t i = 0; i < item.samples; ++i) {
        const C* image = scratch.operand;
        if (plan_.images_are_shared()) {
          image = shared_image(part, item.group, item.sample + i - first_of_pass, block);
        } else if (in_place(part)) {
          image = image_in_place(item, p0, part.depth_block(block).first);
        } else {
          pack_image(part, pixels, item.group, item.sample, block, scratch.operand, inside);
        }
        multiply_block(part, item, pixels, inside, item.sample + i, block, image, weight,
                       scratch.totals + i * (plan_.totals_size() / plan_.totals_samples()),
                       scratch);
      }
    }
  }

  // Rows or panels of a block of the sum for the channels of an item.
  const C* weight_operand(const GemmClass& part, const Item& item, std::int64_t block,
                          C* scratch) const {
    if constexpr (std::is_same_v<T, C>) {
      if (weight_in_place()) {
        return static_cast<const T*>(gather_.w) + item.group * gather_.w_group +
               item.channel * gather_.w_filled + part.depth_block(block).first;
      }
    }
    if (!plan_.images_are_shared()) return shared_weight(part, item.group, item.channel, block);
    pack_weight(part, item.group, item.channel, item.channels, block, scratch);
    return scratch;
  }

  // The product of one block of the sum, added to `totals` or stored.
  void multiply_block(const GemmClass& part, const Item& item, const StripPixels& pixels,
                      const bool* inside, std::int64_t n, std::int64_t block, const C* image,
                      const C* weight, C* totals, const Scratch& scratch) const {
    const std::int64_t rows = kPixelsAreRows ? pixels.count : item.channels;
    const std::int64_t lanes = kPixelsAreRows ? item.channels : pixels.count;
    const RowTiles tiles(rows, kGemmRows, true);
    const std::int64_t panels = ceil_divide(lanes, kLanesOfPanel);
    const std::int64_t pitch = in_place(part)      ? gather_.source_strides.column
                               : weight_in_place() ? gather_.w_filled
                                                   : part.template pitch<C>();
    bool sees_image[StripPixels::kMost];
    for (std::int64_t tile = 0; kPixelsAreRows && tile < tiles.count; ++tile)
      sees_image[tile] = any_of(inside + tiles.first(tile), tiles.rows(tile));
    const C* row_operand = kPixelsAreRows ? image : weight;
    const C* lane_operand = kPixelsAreRows ? weight : image;
    const auto visit = [&](std::int64_t tile, std::int64_t panel) {
      const std::int64_t r0 = tiles.first(tile), l0 = panel * kLanesOfPanel;
      TileJob<C> job{row_operand + r0 * pitch,
                     pitch,
                     lane_operand + panel * part.block * kLanesOfPanel,
                     part.depth_block(block).size(),
                     nullptr,
                     0,
                     nullptr,
                     nullptr,
                     {}};
      if (kPixelsAreRows && !sees_image[tile]) {
        if (block > 0 && block < part.blocks - 1) return;
        job.depth = 0;
      }
      const std::int64_t rest = lanes - l0;
      run_tile(part, item, pixels, n, block, job, r0, tiles.rows(tile), l0,
               rest < kLanesOfPanel ? rest : kLanesOfPanel,
               totals + (tile * panels + panel) * Plan::kTileSize, scratch);
    };
    // A tile of rows stays in L1 while panels pass from L2; or else each panel is read once. The
    // channels of a tile of 16 registers are so few that they had better be what passes. Tried for
    // pixels as rows: 4 to 19 % slower.
    constexpr std::int64_t kBytes = 256 << 10;
    constexpr bool kPanelsStay = !kPixelsAreRows && kVectorBytes < 64;
    if (!kPanelsStay && (!kPixelsAreRows || panels * part.block * kLanesOfPanel <=
                                                kBytes / static_cast<std::int64_t>(sizeof(C)))) {
      for (std::int64_t tile = 0; tile < tiles.count; ++tile)
        for (std::int64_t panel = 0; panel < panels; ++panel) visit(tile, panel);
    } else {
      for (std::int64_t panel = 0; panel < panels; ++panel)
        for (std::int64_t tile = 0; tile < tiles.count; ++tile) visit(tile, panel);
    }
  }

  void run_tile(const GemmClass& part, const Item& item, const StripPixels& pixels, std::int64_t n,
                std::int64_t block, TileJob<C>& job, std::int64_t r0, std::int64_t rows,
                std::int64_t l0, std::int64_t lanes, C* totals, const Scratch& scratch) const {
    if (block > 0) {
      job.start = totals;
      job.start_pitch = kLanesOfPanel;
    } else if (gather_.bias) {
      output_.start_with_bias(item.group, item.channel, r0, rows, l0, scratch.start, job);
    }
    T* filled =
        static_cast<T*>(gather_.filled) + n * gather_.filled_strides.sample +
        (gather_.filled_channels * item.group + item.channel) * gather_.filled_strides.channel;
    const bool is_last = block == part.blocks - 1;
    if constexpr (std::is_same_v<T, C>) {
      if (is_last && output_.lanes_adjoin(part)) {
        job.target =
            kPixelsAreRows ? filled + l0 : filled + r0 * channel_offsets_[1] + pixels.target[l0];
        job.offsets = kPixelsAreRows ? pixels.target + r0 : channel_offsets_;
        return multiply(static_cast<int>(rows), lanes, job);
      }
    }
    C* tile = is_last ? scratch.tile : totals;
    job.target = tile;
    job.offsets = tile_offsets_;
    multiply(static_cast<int>(rows), lanes, job);
    if (is_last) output_.store_tile(part, pixels, tile, r0, rows, l0, lanes, filled);
  }

  const Gather& gather_;
  Plan plan_;
  const Workspace& workspace_;
  const GemmOutput<T, kPixelsAreRows> output_;
  C* shared_;
  // Of the rows of a tile that is stored as channels, and of one in scratch.
  std::int64_t channel_offsets_[kGemmRows], tile_offsets_[kGemmRows];
};
