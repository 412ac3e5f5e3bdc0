// The weight gradient of a window of one tap as a product of matrices:
//
//     w[oc, ic] = sum over n and pixels p of y[n, oc, p] * x[n, ic, p']
//
// where p' is p, or the pixel of x that a stride leads to. Lanes are the channels of one image and
// rows those of the other. An item is a patch of w over a chunk of the pixels of every sample.
// Block by block of kMostPackedTerms of the sum it packs its lanes, panels that fit L1, and
// multiplies each by all rows by the tile of gemm_weight_tile.h; rows are read where they lie, from
// L2, an element for 2 or 3 vectors. Packed are 16-bit ones, which converts them, and those that
// would be small parts of pixels far apart. There is more than one chunk only where patches are too
// few to share out: each then has totals of its own, which are added in order at the end.

template <class T>
class GemmWeightKernel {
 public:
  using C = Compute<T>;
  using Plan = GemmWeightPlan<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Plan plan(problem);
    const std::int64_t partials =
        plan.chunks > 1 ? plan.patches() * plan.chunks * plan.total_elements() : 0;
    return {bytes_of<C>(partials),
            bytes_of<C>(plan.panel_size() + plan.rows_size() + plan.total_elements())};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    GemmWeightKernel(problem, buffers, workspace).run_all();
  }

 private:
  GemmWeightKernel(const Problem& problem, const Buffers& buffers, const Workspace& workspace)
      : problem_(problem),
        g_(problem.geometry),
        buffers_(buffers),
        workspace_(workspace),
        plan_(problem),
        store_{true,         plan_.lanes_are_inputs, true, plan_.patch_lanes(), plan_.patch_rows(),
               plan_.chunks, plan_.total_elements()} {}

  void run_all() const {
    const std::int64_t cost =
        g_.batch * plan_.pixels / plan_.chunks * plan_.patch_rows() * plan_.patch_lanes();
    parallel_for(plan_.patches() * plan_.chunks, cost, [&](std::int64_t item, int thread) {
      run_item(item / plan_.chunks, item % plan_.chunks, workspace_.of_thread<C>(thread));
    });
    if (plan_.chunks == 1) return;
    constexpr std::int64_t kRows = 16;
    const std::int64_t pieces = ceil_divide(plan_.patch_rows(), kRows);
    parallel_for(plan_.patches() * pieces, kRows * plan_.patch_lanes() * plan_.chunks,
                 [&](std::int64_t item, int) {
                   const WeightPatch patch = plan_.patch(item / pieces);
                   const std::int64_t first = item % pieces * kRows;
                   store_.store_rows(g_, w(), patch, partial(item / pieces, 0),
                                     {first, smaller(first + kRows, patch.rows)});
                 });
  }

  T* w() const { return static_cast<T*>(buffers_.w); }
  C* partial(std::int64_t patch, std::int64_t chunk) const {
    return workspace_.shared<C>() + (patch * plan_.chunks + chunk) * plan_.total_elements();
  }

  // Where the sums of a patch are added up, and where they go after the last block.
  struct Totals {
    C* data;
    C* last;
    std::int64_t last_step;
    std::int64_t last_lanes;  // that exist there
  };

  void run_item(std::int64_t patch_index, std::int64_t chunk, C* scratch) const {
    const WeightPatch patch = plan_.patch(patch_index);
    C* const data = plan_.chunks > 1 ? partial(patch_index, chunk)
                                     : scratch + plan_.panel_size() + plan_.rows_size();
    const bool at_once = std::is_same_v<T, C> && plan_.lanes_are_inputs && plan_.chunks == 1;
    Totals totals{data, data, plan_.patch_lanes(), plan_.patch_lanes()};
    if (at_once) {
      totals.last = reinterpret_cast<C*>(store_.element(g_, w(), patch, 0));
      totals.last_step = plan_.lanes;
      totals.last_lanes = patch.lanes;
    }
    const Range pixels = part_of({0, plan_.pixels}, plan_.chunks, chunk);
    const std::int64_t of_sample = plan_.terms / plan_.samples;
    const std::int64_t parts = ceil_divide(pixels.last - pixels.first, of_sample);
    for (std::int64_t n = 0; n < g_.batch; n += plan_.samples) {
      const std::int64_t samples = smaller(plan_.samples, g_.batch - n);
      for (std::int64_t part = 0; part < parts; ++part) {
        const Range block = part_of(pixels, parts, part);
        pack(patch, n, samples, block, scratch);
        const bool is_last = n + samples == g_.batch && part == parts - 1;
        multiply(patch, n, samples, block, n + part == 0, is_last, totals, scratch);
      }
    }
    if (plan_.chunks == 1 && !at_once) store_.store_rows(g_, w(), patch, data, {0, patch.rows});
  }

  // Panels follow one another, each as wide as its vectors.
  static constexpr std::int64_t panel_count(std::int64_t vectors) {
    return ceil_divide(vectors, kPackedVectors);
  }

  void pack(const WeightPatch& patch, std::int64_t n, std::int64_t samples, const Range& block,
            C* scratch) const {
    const std::int64_t pixels = block.last - block.first, terms = samples * pixels;
    const std::int64_t vectors = ceil_divide(patch.lanes, kLanes<C>);
    for (std::int64_t s = 0; s < samples; ++s) {
      for (std::int64_t i = 0; !Plan::kPanelByPanel && i < panel_count(vectors); ++i) {
        const Range panel = part_of({0, vectors}, panel_count(vectors), i);
        pack_panel_of(patch, n + s, block, panel,
                      scratch + panel.first * kLanes<C> * terms +
                          s * pixels * (panel.last - panel.first) * kLanes<C>);
      }
      if (!plan_.rows_in_place()) {
        pack_row_tiles<T, kPackedRows>(
            window(!plan_.lanes_are_inputs, patch.group, n + s, block, patch.first_row),
            tiles_of(patch), plan_.tile_step(),
            scratch + plan_.panel_size() + s * pixels * kPackedRows);
      }
    }
  }

  // Of one sample.
  void pack_panel_of(const WeightPatch& patch, std::int64_t n, const Range& block,
                     const Range& panel, C* target) const {
    const std::int64_t first = panel.first * kLanes<C>, end = panel.last * kLanes<C>;
    pack_lanes(patch.group, n, block, patch.first_lane + first, smaller(end, patch.lanes) - first,
               end - first, target);
  }

  static RowTiles tiles_of(const WeightPatch& patch) {
    return RowTiles(patch.rows, kPackedRows, true);
  }

  // Pixel by pixel of x that adjoin, or row by row of y.
  void pack_lanes(std::int64_t group, std::int64_t n, const Range& block, std::int64_t channel,
                  std::int64_t channels, std::int64_t step, C* target) const {
    const std::int64_t columns = plan_.x_adjoins ? plan_.pixels : g_.width.output;
    for (std::int64_t p = block.first, end; p < block.last; p = end) {
      end = smaller(p / columns * columns + columns, block.last);
      pack_panel(window(plan_.lanes_are_inputs, group, n, {p, end}, channel), channels, step,
                 target + (p - block.first) * step);
    }
  }

  // Pixels of x or y, from a channel of the group on; those of x that pixels of a row of y meet.
  PixelWindow<T> window(bool of_x, std::int64_t group, std::int64_t n, const Range& pixels,
                        std::int64_t channel) const {
    const ImageStrides strides = of_x ? problem_.x_strides() : problem_.y_strides();
    const std::int64_t first =
        group * (of_x ? g_.in_channels_per_group() : g_.out_channels_per_group()) + channel;
    const T* data = static_cast<const T*>(of_x ? buffers_.x : buffers_.y);
    const std::int64_t count = pixels.last - pixels.first, width = g_.width.output;
    const std::int64_t column = strides.column * (of_x ? g_.width.stride : 1);
    const std::int64_t row = strides.row * (of_x ? g_.height.stride : 1);
    return {data + n * strides.sample + first * strides.channel + pixels.first / width * row +
                pixels.first % width * column,
            1,
            count,
            count * column,
            column,
            strides.channel};
  }

  // A panel stays in L1 while the rows pass. Tried: short panels packed before, which pass by a
  // tile of rows; up to 20 % slower.
  void multiply(const WeightPatch& patch, std::int64_t n, std::int64_t samples, const Range& block,
                bool is_first, bool is_last, const Totals& totals, C* scratch) const {
    const std::int64_t vectors = ceil_divide(patch.lanes, kLanes<C>);
    const std::int64_t terms = samples * (block.last - block.first);
    const RowTiles tiles = tiles_of(patch);
    C* const target = is_last ? totals.last : totals.data;
    const std::int64_t target_step = is_last ? totals.last_step : plan_.patch_lanes();
    const std::int64_t lanes = is_last ? totals.last_lanes : plan_.patch_lanes();
    const Rows rows = rows_of(patch, n, samples, block, scratch);
    for (std::int64_t i = 0; i < panel_count(vectors); ++i) {
      const Range panel = part_of({0, vectors}, panel_count(vectors), i);
      const std::int64_t lane = panel.first * kLanes<C>;
      for (std::int64_t s = 0; Plan::kPanelByPanel && s < samples; ++s) {
        pack_panel_of(
            patch, n + s, block, panel,
            scratch + s * (block.last - block.first) * (panel.last - panel.first) * kLanes<C>);
      }
      PackedTile<C> tile{rows.first,
                         rows.pitch,
                         rows.sample,
                         scratch + (Plan::kPanelByPanel ? 0 : lane * terms),
                         rows.samples,
                         terms / rows.samples,
                         nullptr,
                         plan_.patch_lanes(),
                         nullptr,
                         target_step,
                         mask_between<C>(0, lanes - (panel.last - 1) * kLanes<C>)};
      for (std::int64_t t = 0; t < tiles.count; ++t) {
        const std::int64_t first = tiles.first(t);
        tile.rows = rows.first + (plan_.rows_in_place() ? first * rows.channel : t * rows.channel);
        if (!is_first) tile.start = totals.data + first * plan_.patch_lanes() + lane;
        tile.target = target + first * target_step + lane;
        if (rows.adjoin) {
          multiply_packed<true>(tiles.rows(t), panel.last - panel.first, tile);
        } else {
          multiply_packed<false>(tiles.rows(t), panel.last - panel.first, tile);
        }
      }
    }
  }

  // The rows of a block as tiles read them; `channel`: from a row to the next one, or from tile to
  // tile where they are packed.
  struct Rows {
    const C* first;
    std::int64_t pitch, sample, samples, channel;
    bool adjoin;
  };
  Rows rows_of(const WeightPatch& patch, std::int64_t n, std::int64_t samples, const Range& block,
               const C* scratch) const {
    if constexpr (std::is_same_v<T, C>) {
      if (plan_.rows_in_place()) return rows_of_image(patch, n, samples, block);
    }
    return {scratch + plan_.panel_size(), kPackedRows, 0, 1, plan_.tile_step(), true};
  }
  Rows rows_of_image(const WeightPatch& patch, std::int64_t n, std::int64_t samples,
                     const Range& block) const {
    const bool of_x = !plan_.lanes_are_inputs;
    const ImageStrides strides = of_x ? problem_.x_strides() : problem_.y_strides();
    const bool adjoin = strides.channel == 1;
    return {window(of_x, patch.group, n, block, patch.first_row).first,
            adjoin ? strides.column : strides.channel,
            strides.sample,
            samples,
            strides.channel,
            adjoin};
  }

  const Problem& problem_;
  const Geometry& g_;
  const Buffers& buffers_;
  const Workspace& workspace_;
  const Plan plan_;
  const WeightStore<T> store_;
};
