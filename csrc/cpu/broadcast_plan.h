// How direct.broadcast cuts its work, by the shape of a sample alone, and what it needs of memory.
template <class C>
struct BroadcastPlan {
  static constexpr std::int64_t L = kLanes<C>, P = kBroadcastPixels;
  static constexpr std::int64_t kBlock = 2;  // vectors of a block of filled channels, at most

  explicit BroadcastPlan(const Gather& gather)
      : gather(gather), rows_reach(gather.rows), columns_reach(gather.columns) {
    constexpr std::int64_t kBytes = 48 << 10, kEnoughItems = 16, kSmallImage = 400;
    const std::int64_t whole = columns_reach.count / P * P, rest = columns_reach.count - whole;
    const std::int64_t columns = whole + (rest > P / 2 ? P : rest > 0 ? P / 2 : 0);
    pitch = round_up(columns ? columns_reach.elements(columns) : 1, L);
    row_elements = gather.source_channels * pitch;
    const std::int64_t fit = kBytes / (row_elements * static_cast<std::int64_t>(sizeof(C)));
    const std::int64_t halo = rows_reach.last - rows_reach.first + 1;
    const std::int64_t fewest = larger(2, 2 * (halo - 1) / rows_reach.step);
    const std::int64_t total = larger(1, rows_reach.count);
    rows = larger((fit - halo) / rows_reach.step + 1, fewest);
    rows = smaller(rows, larger(fewest, ceil_divide(total * gather.groups, kEnoughItems)));
    rows = round_up(ceil_divide(total, ceil_divide(total, rows)), 2);
    strips = ceil_divide(rows_reach.count, rows);
    vectors = ceil_divide(gather.filled_channels, L);
    blocks = ceil_divide(vectors, kBlock);
    threads_pack = gather.filled_area() <= kSmallImage;
  }

  std::int64_t block_vectors(std::int64_t block) const {
    return smaller(kBlock, vectors - block * kBlock);
  }
  // Of a vector of filled channels.
  std::int64_t weights() const { return gather.kernel_area() * gather.source_channels * L; }
  std::int64_t group_weights() const { return vectors * weights(); }
  // Weights and biases.
  std::int64_t group_elements() const { return group_weights() + vectors * L; }
  std::size_t shared_bytes() const {
    const std::int64_t elements = threads_pack ? 0 : gather.groups * group_elements();
    return static_cast<std::size_t>(elements) * sizeof(C) +
           static_cast<std::size_t>(kBlock * gather.kernel_area()) *
               (sizeof(TapPlace) + sizeof(std::int64_t));
  }
  std::int64_t source_elements() const { return rows_reach.elements(rows) * row_elements; }
  // Source, sums, and with threads_pack a group's weight and its number.
  std::int64_t thread_elements() const {
    return source_elements() + P * kBlock * L + (threads_pack ? group_elements() + L : 0);
  }

  const Gather& gather;
  const AxisReach rows_reach, columns_reach;
  std::int64_t pitch, row_elements;  // of a line in scratch, and of the lines of all channels
  std::int64_t rows, strips;         // of every class, of an item
  std::int64_t vectors, blocks;      // of the filled channels of a group
  bool threads_pack;
};
