// How direct.depthwise.channels cuts its work, and what lies where in the workspace.

template <class T>
struct DepthwiseChannelsPlan {
  using C = Compute<T>;
  using PixelTile = DepthwiseChannelsTile<T>;

  static constexpr std::int64_t kStripRows = 2;    // of each class, that make an item
  static constexpr std::size_t kHeaderBytes = 64;  // of a thread's workspace
  static constexpr std::int64_t L = kLanes<C>;

  DepthwiseChannelsPlan(const Problem& problem, const Buffers& buffers)
      : gather(problem, buffers),
        out_channels(problem.geometry.out_channels),
        multiplier(problem.geometry.out_channels_per_group()),
        adds_lanes(problem.slot == Slot::kInput && multiplier > 1),
        block_vectors(adds_lanes ? multiplier : 1) {
    const std::int64_t filled = gather.groups * gather.filled_channels;
    blocks = ceil_divide(filled, L);
    strips = ceil_divide(gather.rows.classes()[0].count, kStripRows);
    // The weight of a chunk stays in the L1 cache, and there are items enough for many threads.
    constexpr std::int64_t kChunkBytes = 24 << 10, kItems = 16, kPackedBytes = 64 << 10;
    const std::int64_t bytes = blocks * block_weights() * static_cast<std::int64_t>(sizeof(C));
    // Rows of the source that strips share should still lie in the L2 cache when the next strip
    // comes: if they are too long for that, an item takes fewer channels of more of them.
    constexpr std::int64_t kWindowBytes = 4096 << 10;
    const std::int64_t window = window_bytes();
    packs_all = bytes <= kPackedBytes && window <= kWindowBytes;
    chunks = ceil_divide(bytes, kChunkBytes);
    if (window > kWindowBytes) chunks = larger(chunks, ceil_divide(window, kWindowBytes / 2));
    while (chunks * strips < kItems) chunks *= 2;
    tile_blocks = gather.columns.filled_size == 1 ? PixelTile::kVectorsOfPixel : 1;
    chunks = smaller(chunks, ceil_divide(blocks, tile_blocks));
    const AxisClass &row = gather.rows.classes()[0], &column = gather.columns.classes()[0];
    fetches_ahead = kFetchesAhead && come_from_memory<T>(gather.elements()) &&
                    row.source_step * column.source_step <= kFetchedSteps &&
                    row.step * column.step <= kFetchedSteps;
  }

  // Of the source rows that a strip reads.
  std::int64_t window_bytes() const {
    const AxisClass& rows = gather.rows.classes()[0];
    const std::int64_t taps = rows.taps.count;
    if (taps == 0) return 0;
    const std::int64_t reach = rows.taps[taps - 1].offset - rows.taps[0].offset;
    return (larger(reach, -reach) + kStripRows * rows.source_step) * gather.source_strides.row *
           static_cast<std::int64_t>(sizeof(T));
  }
  std::int64_t block_weights() const { return block_vectors * gather.kernel_area() * L; }
  std::int64_t chunk_first(std::int64_t chunk) const {
    return smaller(blocks, round_up(blocks * chunk / chunks, tile_blocks));
  }
  std::int64_t packed_blocks() const {
    return packs_all ? blocks : round_up(ceil_divide(blocks, chunks), tile_blocks);
  }

  WorkspaceSize size() const {
    const std::int64_t sums = adds_lanes ? PixelTile::kMostPixels * block_vectors * L : 0;
    return {static_cast<std::size_t>(runs_offset() + run_bytes()),
            kHeaderBytes + static_cast<std::size_t>(step_bytes()) +
                sizeof(C) * static_cast<std::size_t>(packed_blocks() * block_weights() + sums)};
  }
  std::int64_t runs_offset() const {
    return gather.columns.classes().count * static_cast<std::int64_t>(sizeof(ColumnPlan));
  }
  std::int64_t run_bytes() const {
    return gather.columns.kernel_size * static_cast<std::int64_t>(sizeof(TapRun));
  }
  std::int64_t step_bytes() const {
    return (gather.kernel_area() * static_cast<std::int64_t>(sizeof(typename PixelTile::Step)) +
            63) /
           64 * 64;
  }

  Gather gather;
  std::int64_t out_channels, multiplier;
  bool adds_lanes;
  std::int64_t block_vectors;  // of lanes that make one vector of filled channels
  std::int64_t blocks, strips, chunks;
  std::int64_t tile_blocks;  // that a tile takes at once, at most
  bool fetches_ahead;        // tiles ask for what the next one reads and writes
  bool packs_all;            // a thread packs the whole weight, once
};
