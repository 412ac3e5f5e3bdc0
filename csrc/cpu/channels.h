// direct.channels: lanes are the filled channels of one group; a tap adds the outer product of
// source channels and lanes. Reads channels_last images of float32 and float64 in place; other
// layouts and types are converted to that first.
//
// Bytes: the source once per block of lanes (64 in float32 under AVX-512), the packed weight once
// per run of pixels, from L2.

// For every source channel, its pixels times its lanes of the weight.
template <class T>
struct DenseTap {
  using C = Compute<T>;
  using Source = C;
  static constexpr bool kPermutes = false;

  static Gather prepare(const Problem& problem, const Buffers& buffers) {
    return Gather(problem, buffers);
  }
  static LaneBlocks<C> blocks(const Gather& gather) { return {gather.filled_channels}; }
  static bool packs(const Gather& gather) { return !is_pixel_image<T>(gather.source_strides); }

  template <int R, int V>
  HANDCONV_INLINE static void add(BlockedTile<C, R, V>& tile, const C* const (&pixels)[R],
                                  const C* weights, const LaneMap<C>& map) {
    constexpr std::int64_t kBlock = BlockedTile<C, R, V>::kTerms;
    const C* rows[R];
    for (std::int64_t s = 0; s < map.source_channels; s += kBlock) {
      const std::int64_t count =
          s + kBlock < map.source_channels ? kBlock : map.source_channels - s;
      for (int r = 0; r < R; ++r) rows[r] = pixels[r] + s;
      accumulate(tile.block, rows, 1, weights + s * V * kLanes<C>, V * kLanes<C>, count,
                 FullPanel<C>{});
      tile.note_terms(count);
    }
  }
};

template <class T>
using ChannelsKernel = PixelKernel<T, DenseTap>;
