// How a call of Winograd's algorithm is cut up: by the shape alone in everything that an element's
// bits depend on, which is how its sum over source channels is cut into chunks.

template <class C, class Tiles>
struct WinogradPlan {
  static constexpr int kPoints = Tiles::kPoints;
  // Vectors in a block of lanes: 64 channels of float32.
  static constexpr int kBlockVectors = 256 / kVectorBytes;
  static constexpr std::int64_t kPadding = 64 / static_cast<std::int64_t>(sizeof(C));

  TileGrid grid;
  std::int64_t groups, tiles;    // tiles of all samples
  std::int64_t sources;          // source channels per group
  std::int64_t chunks, chunk;    // sums over channels are made of so many sums of so many terms
  std::int64_t block_lanes;      // of a full block
  std::int64_t strip;            // tiles that are multiplied at a time
  std::int64_t strips_per_span;  // spans are whole samples: one, or several in one strip
  std::int64_t span;
  bool keeps_weights;  // transformed once and kept, or again for every strip

  explicit WinogradPlan(const Gather& gather)
      : grid{{gather.rows, Tiles::Rows::kOutputs}, {gather.columns, Tiles::Columns::kOutputs}},
        groups(gather.groups),
        tiles(gather.batch * grid.per_sample()),
        sources(gather.source_channels) {
    chunks = ceil_divide(sources, kMostChunk);
    chunk = round_up(ceil_divide(sources, chunks), kLanes<C>);
    chunks = ceil_divide(sources, chunk);
    const std::int64_t vectors = ceil_divide(gather.filled_channels, kLanes<C>);
    const std::int64_t blocks = ceil_divide(vectors, kBlockVectors);
    block_lanes = ceil_divide(vectors, blocks) * kLanes<C>;

    if (multiplies_once(blocks, vectors)) {
      keeps_weights = false;
      if (blocks < kItems) block_lanes = vectors / kItems * kLanes<C>;
      strips_per_span = 1;
      strip = span = tiles;
      return;
    }
    // Where U of all blocks does not stay in the second-level cache beside V and M of a strip, it
    // is kept if it would be transformed for many strips.
    const std::int64_t weight_bytes = groups * blocks * chunks * weight_elements() * kSize;
    keeps_weights =
        weight_bytes <= kCachedWeightBytes ||
        (weight_bytes <= kKeptWeightBytes && grid.per_sample() * m_tile_bytes() > 2 * kStripBytes);
    cut_into_strips(gather.batch, keeps_weights ? groups : groups * blocks);
  }

  LaneBlocks<C> blocks(std::int64_t filled_channels) const {
    return {filled_channels, block_lanes};
  }
  std::int64_t strips() const { return ceil_divide(tiles, span) * strips_per_span; }
  std::int64_t first_tile(std::int64_t index) const {
    return index / strips_per_span * span + index % strips_per_span * strip;
  }
  std::int64_t tile_count(std::int64_t index) const {
    const std::int64_t begin = index / strips_per_span * span;
    const std::int64_t end = begin + span < tiles ? begin + span : tiles;
    const std::int64_t rest = end - first_tile(index);
    return rest < strip ? rest : strip;
  }
  // Tiles of a strip that lie in one row, at most.
  std::int64_t longest_run() const { return smaller(strip, grid.columns.count()); }
  std::int64_t chunk_size(std::int64_t index) const {
    return smaller(sources - index * chunk, chunk);
  }

  // Steps and sizes, in elements. Points are a cache line further apart than their matrices are
  // large: see WeightPanels.
  std::int64_t v_tile_step() const { return Tiles::kSegments * chunk; }
  std::int64_t v_point_step() const { return strip * v_tile_step() + kPadding; }
  std::int64_t v_chunk() const { return kPoints * v_point_step(); }
  std::int64_t v_strip() const { return chunks * v_chunk(); }
  std::int64_t m_point_step() const { return strip * block_lanes + kPadding; }
  std::int64_t m_elements() const { return kPoints * m_point_step(); }
  std::int64_t weight_elements() const {
    return kPoints *
           WeightPanels<C>{v_tile_step(), static_cast<int>(block_lanes / kLanes<C>)}.point_step();
  }
  // Strips whose V lies in memory at a time, when it is shared by all blocks.
  std::int64_t strips_per_pass() const {
    const std::int64_t most = kPassBytes / (groups * v_strip() * kSize);
    return most < 2 ? 2 : most;
  }

 private:
  // All tiles lie in one strip and every thread has a block, so that each U is used by the thread
  // that transforms it and by no other.
  bool multiplies_once(std::int64_t blocks, std::int64_t vectors) const {
    const bool has_items = blocks >= kItems || vectors % (kItems * kTileVectors) == 0;
    return groups == 1 && has_items && tiles * (m_tile_bytes() + v_tile_bytes()) <= kStripBytes;
  }

  void cut_into_strips(std::int64_t batch, std::int64_t items) {
    const std::int64_t tile_bytes = m_tile_bytes() + (keeps_weights ? v_tile_bytes() : 0);
    const std::int64_t most = larger(kStripBytes / tile_bytes, 1);
    strips_per_span = larger(ceil_divide(grid.per_sample(), most), ceil_divide(kItems, items));
    if (strips_per_span > 1) {
      strips_per_span += strips_per_span % 2;
      strip = ceil_divide(grid.per_sample(), strips_per_span);
      if (grid.columns.dilation() > 1) strip = round_up(strip, grid.columns.count());
      strips_per_span = ceil_divide(grid.per_sample(), strip);
      span = grid.per_sample();
    } else {
      span = grid.per_sample() * smaller(most / grid.per_sample(), batch);
      strip = span;
    }
  }

  std::int64_t m_tile_bytes() const { return kPoints * kSize * block_lanes; }
  std::int64_t v_tile_bytes() const { return kPoints * kSize * chunks * v_tile_step(); }

  static constexpr std::int64_t kSize = sizeof(C);
  static constexpr std::int64_t kMostChunk = Tiles::kMostChunk;
  static constexpr std::int64_t kCachedWeightBytes = 640 << 10;
  static constexpr std::int64_t kKeptWeightBytes = 4 << 20;
  static constexpr std::int64_t kStripBytes = 512 << 10;
  static constexpr std::int64_t kPassBytes = 12 << 20;
  static constexpr std::int64_t kItems = 2;
};
