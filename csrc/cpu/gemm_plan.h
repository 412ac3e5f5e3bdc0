// How direct.gemm cuts a gather into blocks. What is multiplied is, for each pair of classes of
// the gather, the matrix of pixels by (tap, source channel), which is never built, with the matrix
// of (tap, source channel) by filled channel, the weight.
//
//     unit of pixels    a strip: at most kStripPixels pixels of the class grid of one sample
//     unit of channels  a chunk: at most kChunk filled channels of one group
//     unit of the sum   a block of about kDepth terms, whose sum is added to those before
//
// channels_last makes pixels the rows of the tile and filled channels its lanes; NCHW the other way
// round, so that both read and write vectors as they lie in memory.

// One block of either operand of an item: the columns of the sum [first, last).
struct DepthBlock {
  std::int64_t first, last;
  std::int64_t size() const { return last - first; }
};

// A pair of classes, and where its operands lie among those of all pairs.
struct GemmClass {
  const AxisClass* rows;
  const AxisClass* columns;
  std::int64_t pixels, taps, depth;
  std::int64_t block, blocks;  // terms of a block of the sum, and how many there are
  std::int64_t strips;         // of one sample
  std::int64_t weight_first;   // in elements of one filled channel
  std::int64_t image_first;    // in elements of a sample

  // Rows are padded by a vector, so that they do not all begin in the same set of the cache.
  template <class C>
  std::int64_t pitch() const {
    return (block + kLanes<C> - 1) / kLanes<C> * kLanes<C> + kLanes<C>;
  }
  DepthBlock depth_block(std::int64_t index) const {
    const std::int64_t first = index * block;
    return {first, first + block < depth ? first + block : depth};
  }
};

template <class C, bool kPixelsAreRows>
class GemmPlan {
 public:
  static constexpr std::int64_t kStripPixels = kPixelsAreRows ? 84 : 128;
  // Tried: 128, where a panel stays in L1 beside a tile of rows: totals cost more than that saves.
  static constexpr std::int64_t kDepth = kVectorBytes < 64 ? 384 : 256;
  static constexpr std::int64_t kChunk = 512;
  // An image of so few pixels is one strip where the weight outgrows L2: every strip reads it all.
  static constexpr std::int64_t kMostPixels = 256, kManyBytes = 1 << 20;

  explicit GemmPlan(const Gather& gather) : gather_(gather) {
    std::int64_t strips = 0;
    for_classes([&](const GemmClass& part) {
      strips += part.strips;
      if (part.strips > 1) images_are_shared_ = false;
      depth_of_all_ += part.blocks * weight_pitch(part);
      image_of_sample_ += part.blocks * image_block(part);
      if (part.blocks > 1) needs_totals_ = true;
    });
    const std::int64_t channels = gather.filled_channels;
    if (images_are_shared_) {
      constexpr std::int64_t kBytes = std::int64_t{8} << 20;
      const std::int64_t bytes =
          image_of_sample_ * gather.groups * static_cast<std::int64_t>(sizeof(C));
      samples_ = bytes * 8 <= kBytes ? 8 : bytes * 2 <= kBytes ? kBytes / bytes : 1;
      if (samples_ > gather.batch) samples_ = gather.batch;
      chunks_ = ceil_divide(channels_in_units(), units(64));
    } else {
      samples_ = gather.batch;
      chunks_ = ceil_divide(channels, kChunk);
      const std::int64_t wanted = ceil_divide(4, strips), most = ceil_divide(channels, 128);
      const std::int64_t enough = wanted < most ? wanted : most;
      if (chunks_ < enough) chunks_ = enough;
    }
    if (chunks_ > 1) chunks_ += chunks_ % 2;
    if (chunks_ > channels_in_units()) chunks_ = channels_in_units();
  }

  // With few pixels a weight is used few times: then the image is packed before, by all threads,
  // and a weight by the thread that is about to use it. Else the other way round.
  bool images_are_shared() const { return images_are_shared_; }
  std::int64_t samples_per_pass() const { return samples_; }
  std::int64_t chunks() const { return chunks_; }
  bool needs_totals() const { return needs_totals_; }

  // Filled channels [first, first + count) of chunk i: whole panels where they are lanes.
  std::int64_t chunk_first(std::int64_t i) const {
    const std::int64_t first = EvenSplit{channels_in_units(), chunks_}.first(i) * unit();
    return first < gather_.filled_channels ? first : gather_.filled_channels;
  }
  std::int64_t chunk_size(std::int64_t i) const { return chunk_first(i + 1) - chunk_first(i); }
  std::int64_t largest_chunk() const { return ceil_divide(channels_in_units(), chunks_) * unit(); }
  // Pixels [first, first + count) of strip i.
  static std::int64_t strip_first(const GemmClass& part, std::int64_t i) {
    if (kPixelsAreRows) return EvenSplit{part.pixels, part.strips}.first(i);
    const std::int64_t panels = ceil_divide(part.pixels, kPanelLanes<C>);
    const std::int64_t first = EvenSplit{panels, part.strips}.first(i) * kPanelLanes<C>;
    return first < part.pixels ? first : part.pixels;
  }

  // Elements of a packed block of the sum: of one strip, of `channels` filled channels.
  static std::int64_t image_block(const GemmClass& part) {
    return pixels_of_strip(part) * (kPixelsAreRows ? part.template pitch<C>() : part.block);
  }
  // Elements of a packed block of the sum for one filled channel.
  static std::int64_t weight_pitch(const GemmClass& part) {
    return kPixelsAreRows ? part.block : part.template pitch<C>();
  }
  std::int64_t padded_channels() const { return channels_in_units() * unit(); }

  // Of the shared workspace, in elements: bias, then one operand.
  std::int64_t shared_size() const { return bias_size() + operand_size(); }
  std::int64_t bias_size() const {
    return gather_.groups * ceil_divide(gather_.filled_channels, kPanelLanes<C>) * kPanelLanes<C>;
  }
  // Of one group; classes follow each other.
  std::int64_t weights_of_group() const { return depth_of_all_ * padded_channels(); }
  std::int64_t image_of_sample() const { return image_of_sample_; }
  // Of each thread's workspace: the operand that it packs, totals, a tile.
  std::int64_t thread_operand() const {
    std::int64_t largest = 0;
    for_classes([&](const GemmClass& part) {
      const std::int64_t size =
          images_are_shared_ ? weight_pitch(part) * largest_chunk() : image_block(part);
      if (size > largest) largest = size;
    });
    return largest;
  }
  std::int64_t totals_size() const {
    if (!needs_totals_) return 0;
    std::int64_t pixels = 0;
    for_classes([&](const GemmClass& part) { pixels = larger(pixels, pixels_of_strip(part)); });
    const std::int64_t rows = kPixelsAreRows ? pixels : largest_chunk();
    const std::int64_t lanes = kPixelsAreRows ? largest_chunk() : pixels;
    const std::int64_t panels = ceil_divide(lanes, kPanelLanes<C>);
    return totals_samples() * ceil_divide(rows, kGemmRows) * panels * kTileSize;
  }
  std::int64_t totals_samples() const { return images_are_shared_ ? samples_ : 1; }
  static constexpr std::int64_t kTileSize = kGemmRows * kPanelLanes<C>;

  // body(class, index, thread) for index in [0, count(class)) of every class, in one go. Classes
  // take turns, so that neighbouring items are of all costs.
  template <class Count, class Body>
  void parallel_for_classes(std::int64_t cost, const Count& count, const Body& body) const {
    std::int64_t classes = 0, most = 0;
    for_classes([&](const GemmClass& part) {
      ++classes;
      if (count(part) > most) most = count(part);
    });
    parallel_for(most * classes, cost / classes, [&](std::int64_t item, int thread) {
      std::int64_t number = 0;
      for_classes([&](const GemmClass& part) {
        if (number++ == item % classes && item / classes < count(part))
          body(part, item / classes, thread);
      });
    });
  }

  // visit(GemmClass) for every pair of classes.
  template <class Visit>
  void for_classes(const Visit& visit) const {
    std::int64_t weight = 0, image = 0;
    for (const AxisClass& rows : gather_.rows.classes()) {
      for (const AxisClass& columns : gather_.columns.classes()) {
        GemmClass part = make_class(rows, columns);
        part.weight_first = weight;
        part.image_first = image;
        visit(part);
        weight += part.blocks * weight_pitch(part);
        image += part.blocks * image_block(part);
      }
    }
  }

 private:
  // Filled channels are dealt out in whole panels where they are lanes.
  static constexpr std::int64_t unit() { return kPixelsAreRows ? kPanelLanes<C> : 1; }
  static std::int64_t units(std::int64_t channels) { return ceil_divide(channels, unit()); }
  std::int64_t channels_in_units() const { return units(gather_.filled_channels); }

  // At most, and whole panels where they are lanes.
  static std::int64_t pixels_of_strip(const GemmClass& part) {
    if (kPixelsAreRows) return ceil_divide(part.pixels, part.strips);
    const std::int64_t panels = ceil_divide(part.pixels, kPanelLanes<C>);
    return ceil_divide(panels, part.strips) * kPanelLanes<C>;
  }

  GemmClass make_class(const AxisClass& rows, const AxisClass& columns) const {
    const std::int64_t pixels = rows.count * columns.count;
    const std::int64_t taps = rows.taps.count * columns.taps.count;
    // Where pixels are lanes, blocks end between source channels, else anywhere.
    const std::int64_t grain = kPixelsAreRows || taps == 0 ? 1 : taps;
    const std::int64_t depth = taps * gather_.source_channels, grains = depth / grain;
    const std::int64_t grains_of_block = kDepth / grain < 1 ? 1 : kDepth / grain;
    const std::int64_t wanted = ceil_divide(grains, grains_of_block);
    const std::int64_t of_block = grains == 0 ? 0 : ceil_divide(grains, wanted);
    const std::int64_t block = of_block * grain;
    const bool is_one = pixels <= kMostPixels &&
                        (depth == 0 || depth * gather_.filled_channels >=
                                           kManyBytes / static_cast<std::int64_t>(sizeof(C)));
    std::int64_t strips = is_one ? 1 : ceil_divide(pixels, kStripPixels);
    if (strips > 1) {
      strips = ceil_divide(strips, 4) * 4;
      const std::int64_t panels = ceil_divide(pixels, kPanelLanes<C>);
      if (!kPixelsAreRows && strips > panels) strips = panels;
    }
    return {
        &rows,  &columns, pixels, taps, depth, block, block == 0 ? 1 : ceil_divide(depth, block),
        strips, 0,        0};
  }

  const Gather& gather_;
  bool images_are_shared_ = true, needs_totals_ = false;
  std::int64_t samples_ = 1, chunks_ = 1;
  std::int64_t depth_of_all_ = 0, image_of_sample_ = 0;

  std::int64_t operand_size() const {
    return images_are_shared_ ? samples_ * gather_.groups * image_of_sample_
                              : gather_.groups * weights_of_group();
  }
};
