// direct.grouped.channels: lanes are the filled channels of several small groups, whose source
// channels fit in one vector too; a tap adds, for each source channel of a group, the source
// permuted to its group's lanes. channels_last, any type in place.

// For each source channel of a group, the source permuted to the lanes of its group, times the
// weight. As many groups to a vector as leave both their filled and their source channels inside
// it.
template <class T>
struct GroupedTap {
  using C = Compute<T>;
  using Source = T;
  static constexpr bool kPermutes = true;

  static Gather prepare(const Problem& problem, const Buffers& buffers) {
    return Gather(problem, buffers).with_groups_as_channels();
  }
  static LaneBlocks<C> blocks(const Gather& gather) {
    const std::int64_t larger = gather.group_channels > gather.source_channels
                                    ? gather.group_channels
                                    : gather.source_channels;
    return {gather.filled_channels, kLanes<C> / larger * gather.group_channels};
  }
  static bool packs(const Gather&) { return false; }

  // Sums and sources of every pixel have a register each.
  template <int R, int V>
  HANDCONV_INLINE static void add(BlockedTile<C, R, V>& blocked, const T* const (&pixels)[R],
                                  const C* weights, const LaneMap<C>& map) {
    static_assert(V == 1);
    Tile<C, R, V>& tile = blocked.block;
    const auto mask = mask_between<C>(0, map.source_lanes);
    Vector<C> sources[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) sources[r] = load_masked(pixels[r], mask);
    for (std::int64_t s = 0; s < map.source_channels; ++s) {
      const Vector<C> weight = load(weights + s * kLanes<C>);
      const LaneIndex<C>* index = map.sources + s * kLanes<C>;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
        tile.sums[r][0] = fma(permute(sources[r], index), weight, tile.sums[r][0]);
    }
  }

  static void write_sources(const Gather& gather, LaneIndex<C>* sources) {
    for (std::int64_t s = 0; s < gather.source_channels; ++s) {
      for (std::int64_t lane = 0; lane < kLanes<C>; ++lane) {
        const std::int64_t source = lane / gather.group_channels * gather.source_channels + s;
        sources[s * kLanes<C> + lane] = static_cast<LaneIndex<C>>(source < kLanes<C> ? source : 0);
      }
    }
  }
};

template <class T>
using GroupedChannelsKernel = PixelKernel<T, GroupedTap>;
