// How the weight gradient of gemm_weight.h is cut: patches of w over chunks of pixels, and the
// blocks of terms that are packed at a time.

template <class T>
struct GemmWeightPlan {
  using C = Compute<T>;
  // A panel is packed when its turn has come, into L1; or all are before, into a large L2.
  static constexpr bool kPanelByPanel = kVectorBytes < 64;

  explicit GemmWeightPlan(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
    x_adjoins = g.height.stride == 1 && g.width.stride == 1 && g.width.input == g.width.output;
    // Lanes in the order of w are stored without a transposition; and packing them puts pixels of x
    // side by side that lie apart.
    lanes_are_inputs = in >= 48 || in >= out || !x_adjoins;
    channels_adjoin = problem.layout == Layout::kNhwc;
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

  // Of a thread: the panels, the tiles of rows if they are packed, totals. Tiles end with slack for
  // vectors that reach past them, and begin in different sets of the cache.
  std::int64_t panel_size() const {
    return round_up(terms * (kPanelByPanel ? kPackedVectors * kLanes<C> : patch_lanes()), 16);
  }
  std::int64_t tile_step() const { return ((terms * kPackedRows / 16 + 3) | 1) * 16; }
  std::int64_t rows_size() const {
    return rows_in_place() ? 0 : ceil_divide(patch_rows(), kPackedRows) * tile_step();
  }

  // A tile of few rows takes but a part of each line of the cache from pixels that lie apart, and
  // again for every panel. Tried: packing rows of planes too; slower.
  bool rows_in_place() const {
    constexpr std::int64_t kFewPanels = 8, kPanelLanes = kPackedVectors * kLanes<C>;
    if (!std::is_same_v<T, C>) return false;
    return kVectorBytes == 64 || !channels_adjoin || patch_lanes() < kFewPanels * kPanelLanes;
  }

  bool x_adjoins;  // the pixels of x that all of y meet
  bool lanes_are_inputs;
  bool channels_adjoin;  // of both images
  std::int64_t lanes, rows, groups, pixels;
  std::int64_t lane_parts, row_parts, chunks;
  std::int64_t terms;    // of a block, at most
  std::int64_t samples;  // of a block: more than one where images are small

 private:
  std::int64_t vectors() const { return ceil_divide(lanes, kLanes<C>); }
  Range vectors_of(std::int64_t part) const { return part_of({0, vectors()}, lane_parts, part); }

  // Totals of a patch stay in L2, or near it where that is small: blocks of many terms meet them
  // seldom. Of few pixels, an item takes some of the lanes, which it alone packs, and streams all
  // rows; of many, which it had better read once, a chunk of them.
  void choose_patches() {
    constexpr std::int64_t kTotalBytes = (kPanelByPanel ? 512 : 256) << 10, kLaneBytes = 2048,
                           kFewestRows = 2 * kPackedRows;
    constexpr std::int64_t kFewestPixels = 512, kEnoughItems = 4;
    const std::int64_t bytes = lanes * static_cast<std::int64_t>(sizeof(C));
    lane_parts = ceil_divide(bytes, kLaneBytes);
    const std::int64_t most_rows =
        larger(kFewestRows, kTotalBytes / ceil_divide(bytes, lane_parts));
    row_parts = ceil_divide(rows, most_rows);
    chunks = smaller(ceil_divide(kEnoughItems, patches()), larger(1, pixels / kFewestPixels));
    while (patches() * chunks < kEnoughItems || patches() * chunks % 2 == 1) {
      if (vectors() >= 2 * lane_parts * kPackedVectors) {
        lane_parts *= 2;
      } else if (rows >= 2 * row_parts * kFewestRows) {
        row_parts *= 2;
      } else {
        break;
      }
    }
  }

  // The rows that each panel of a patch meets, and those panels if they are packed before, fit L2.
  void choose_blocks(std::int64_t batch) {
    constexpr std::int64_t kElement = sizeof(C), kBytes = (kPanelByPanel ? 400 : 448) << 10,
                           kFewestTerms = 96;
    const std::int64_t in_l2 = patch_rows() + (kPanelByPanel ? 0 : patch_lanes());
    const std::int64_t most =
        larger(kFewestTerms, smaller(kMostPackedTerms, kBytes / (in_l2 * kElement)));
    const std::int64_t of_chunk = ceil_divide(pixels, chunks);
    samples = larger(1, smaller(batch, most / of_chunk));
    terms = samples * smaller(of_chunk, most);
  }
};
