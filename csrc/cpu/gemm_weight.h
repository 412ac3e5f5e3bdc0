// The weight gradient of a window of one tap as a product of matrices:
//
//     w[oc, ic] = sum over n and pixels p of y[n, oc, p] * x[n, ic, p]
//
// Lanes are the channels of one image and rows those of the other. An item is a patch of w over a
// chunk of the pixels of every sample; it packs both images block by block (L2), term after term,
// and multiplies them by the tile of gemm_weight_tile.h: each element of the panel, from L2, for 8
// rows, and each of the rows, in L1, for 3 vectors. Sums are added block by block, 256 terms or so
// each. There is more than one chunk only where patches are too few to share out: each then has
// totals of its own, which are added in order at the end.

template <class C>
struct GemmWeightPlan {
  static constexpr std::int64_t kMostTerms = 256, kFewestTerms = 96;

  explicit GemmWeightPlan(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
    // Lanes in the order of w are stored without a transposition.
    lanes_are_inputs = in >= 48 || in >= out;
    lanes = lanes_are_inputs ? in : out;
    rows = lanes_are_inputs ? out : in;
    groups = g.groups;
    pixels = g.output_area();
    choose_patches();
    choose_blocks(g.batch);
  }

  std::int64_t patches() const { return groups * lane_parts * row_parts; }
  WeightPatch patch(std::int64_t index) const {
    const Range of_lanes = vectors_of(index % lane_parts);
    const Range of_rows = part_of({0, rows}, row_parts, index / lane_parts % row_parts);
    const std::int64_t first = of_lanes.first * kLanes<C>;
    return {index / lane_parts / row_parts, first,
            smaller(of_lanes.last * kLanes<C>, lanes) - first, of_rows.first,
            of_rows.last - of_rows.first};
  }
  std::int64_t patch_rows() const { return ceil_divide(rows, row_parts); }
  std::int64_t patch_lanes() const { return ceil_divide(vectors(), lane_parts) * kLanes<C>; }
  std::int64_t total_elements() const { return patch_rows() * patch_lanes(); }

  // Of a thread: the panels, the tiles of rows, totals. Tiles end with slack for vectors that reach
  // past them, and begin in different sets of the cache.
  std::int64_t panel_size() const { return round_up(terms * patch_lanes(), 16); }
  std::int64_t tile_step() const { return ((terms * kPackedRows / 16 + 3) | 1) * 16; }
  std::int64_t rows_size() const { return ceil_divide(patch_rows(), kPackedRows) * tile_step(); }

  bool lanes_are_inputs;
  std::int64_t lanes, rows, groups, pixels;
  std::int64_t lane_parts, row_parts, chunks;
  std::int64_t terms;    // of a block, at most
  std::int64_t samples;  // of a block: more than one where images are small

 private:
  std::int64_t vectors() const { return ceil_divide(lanes, kLanes<C>); }
  Range vectors_of(std::int64_t part) const { return part_of({0, vectors()}, lane_parts, part); }

  // Totals of a patch stay in L2; each split packs the other operand once more.
  void choose_patches() {
    constexpr std::int64_t kTotalBytes = 256 << 10, kLaneBytes = 2048,
                           kFewestRows = 2 * kPackedRows;
    constexpr std::int64_t kFewestPixels = 256, kEnoughItems = 4;
    const std::int64_t bytes = lanes * static_cast<std::int64_t>(sizeof(C));
    lane_parts = ceil_divide(bytes, kLaneBytes);
    const std::int64_t most_rows =
        larger(kFewestRows, kTotalBytes / ceil_divide(bytes, lane_parts));
    row_parts = ceil_divide(rows, most_rows);
    chunks = smaller(ceil_divide(kEnoughItems, patches()), larger(1, pixels / kFewestPixels));
    while ((patches() * chunks < kEnoughItems || patches() * chunks % 2 == 1) &&
           rows >= 2 * row_parts * kFewestRows) {
      row_parts *= 2;
    }
  }

  void choose_blocks(std::int64_t batch) {
    constexpr std::int64_t kBytes = 448 << 10;
    const std::int64_t term_bytes =
        (patch_lanes() + patch_rows()) * static_cast<std::int64_t>(sizeof(C));
    const std::int64_t most = larger(kFewestTerms, smaller(kMostTerms, kBytes / term_bytes));
    const std::int64_t of_chunk = ceil_divide(pixels, chunks);
    samples = larger(1, smaller(batch, most / of_chunk));
    terms = samples * smaller(of_chunk, most);
  }
};

template <class T>
class GemmWeightKernel {
 public:
  using C = Compute<T>;
  using Plan = GemmWeightPlan<C>;

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
        multiply(patch, samples * (block.last - block.first), n + part == 0, is_last, totals,
                 scratch);
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
    const RowTiles tiles(patch.rows, kPackedRows, true);
    for (std::int64_t s = 0; s < samples; ++s) {
      for (std::int64_t i = 0; i < panel_count(vectors); ++i) {
        const Range panel = part_of({0, vectors}, panel_count(vectors), i);
        const std::int64_t first = panel.first * kLanes<C>, end = panel.last * kLanes<C>;
        pack_panel(
            window(plan_.lanes_are_inputs, patch.group, n + s, block, patch.first_lane + first),
            smaller(end, patch.lanes) - first, end - first,
            scratch + first * terms + s * pixels * (end - first));
      }
      pack_row_tiles<T, kPackedRows>(
          window(!plan_.lanes_are_inputs, patch.group, n + s, block, patch.first_row), tiles,
          plan_.tile_step(), scratch + plan_.panel_size() + s * pixels * kPackedRows);
    }
  }

  // Pixels of x or y, from a channel of the group on.
  PixelWindow<T> window(bool of_x, std::int64_t group, std::int64_t n, const Range& pixels,
                        std::int64_t channel) const {
    const ImageStrides strides = of_x ? problem_.x_strides() : problem_.y_strides();
    const std::int64_t first =
        group * (of_x ? g_.in_channels_per_group() : g_.out_channels_per_group()) + channel;
    const T* data = static_cast<const T*>(of_x ? buffers_.x : buffers_.y);
    const std::int64_t count = pixels.last - pixels.first;
    return {data + n * strides.sample + first * strides.channel + pixels.first * strides.column,
            1,
            count,
            count * strides.column,
            strides.column,
            strides.channel};
  }

  void multiply(const WeightPatch& patch, std::int64_t terms, bool is_first, bool is_last,
                const Totals& totals, const C* scratch) const {
    const std::int64_t vectors = ceil_divide(patch.lanes, kLanes<C>);
    const RowTiles tiles(patch.rows, kPackedRows, true);
    C* const target = is_last ? totals.last : totals.data;
    const std::int64_t target_step = is_last ? totals.last_step : plan_.patch_lanes();
    const std::int64_t lanes = is_last ? totals.last_lanes : plan_.patch_lanes();
    // A tile of rows stays in L1 while the panels pass.
    for (std::int64_t t = 0; t < tiles.count; ++t) {
      for (std::int64_t i = 0; i < panel_count(vectors); ++i) {
        const Range panel = part_of({0, vectors}, panel_count(vectors), i);
        const std::int64_t lane = panel.first * kLanes<C>;
        const std::int64_t start = tiles.first(t) * plan_.patch_lanes() + lane;
        multiply_packed(
            tiles.rows(t), panel.last - panel.first,
            PackedTile<C>{scratch + plan_.panel_size() + t * plan_.tile_step(),
                          scratch + lane * terms, terms, is_first ? nullptr : totals.data + start,
                          plan_.patch_lanes(), target + tiles.first(t) * target_step + lane,
                          target_step, mask_between<C>(0, lanes - (panel.last - 1) * kLanes<C>)});
      }
    }
  }

  const Problem& problem_;
  const Geometry& g_;
  const Buffers& buffers_;
  const Workspace& workspace_;
  const Plan plan_;
  const WeightStore<T> store_;
};
