// direct.depthwise.channels: lanes are channels, each a group of its own; a tap adds the source
// times the weight, lane by lane. channels_last, any type in place.

// Lane by lane, the source times the weight.
template <class T>
struct DepthwiseTap {
  using C = Compute<T>;
  using Source = T;
  static constexpr bool kPermutes = false;

  static Gather prepare(const Problem& problem, const Buffers& buffers) {
    return Gather(problem, buffers).with_groups_as_channels();
  }
  static LaneBlocks<C> blocks(const Gather& gather) { return {gather.filled_channels}; }
  static bool packs(const Gather&) { return false; }

  template <int R, int V>
  HANDCONV_INLINE static void add(BlockedTile<C, R, V>& blocked, const T* const (&pixels)[R],
                                  const C* weights, const LaneMap<C>& map) {
    Tile<C, R, V>& tile = blocked.block;
    if (map.lanes == V * kLanes<C>) {
      add_lanes(tile, pixels, weights, FullPanel<T>{});
    } else {
      add_lanes(tile, pixels, weights,
                TailPanel<T>{mask_between<C>(0, map.lanes - (V - 1) * kLanes<C>)});
    }
  }

 private:
  template <int R, int V, class Load>
  HANDCONV_INLINE static void add_lanes(Tile<C, R, V>& tile, const T* const (&pixels)[R],
                                        const C* weights, Load load_source) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vector<C> weight = load(weights + v * kLanes<C>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        tile.sums[r][v] =
            fma(load_source(pixels[r] + v * kLanes<C>, v == V - 1), weight, tile.sums[r][v]);
      }
    }
  }
};

template <class T>
using DepthwiseChannelsKernel = PixelKernel<T, DepthwiseTap>;
