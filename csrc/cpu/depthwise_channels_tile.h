// The register tiles of direct.depthwise.channels: P pixels of a row by V vectors of channels. A
// row of the image is cut into tiles of 7 and 8 pixels, with one of 4 where those would stay half
// empty; a row of one pixel takes more vectors instead. A row of the kernel is walked in runs of up
// to 3 taps (depthwise_columns.h): P + 2 loads of source pixels serve 3 P multiply-adds; through
// dilated taps the pixels of a tile lie apart, or each tap loads for itself. The vectors of a pixel
// are innermost, which keeps few pages in flight. Tried: non-temporal stores, slower; a row by few
// channels at a time, half as fast; 2 rows by 7 pixels by one vector, slower by up to 15%.

template <class T>
struct DepthwiseChannelsTile {
  using C = Compute<T>;

  static constexpr int kMostPixels = 8;  // of a tile
  // Of those of a tile that lie apart, for the loads that they share to be worth it.
  static constexpr int kFewestPixels = 3;
  static constexpr int kVectors = kVectorBytes == 64 ? 2 : 1, kVectorsOfPixel = 4;
  static constexpr int kMaxTaps = 3;  // of a run; more serve windows that direct.packed takes
  static constexpr std::int64_t L = kLanes<C>;

  // How many pixels the next tile of a row has, of which `rest` are left: every pixel by which the
  // rest exceeds a multiple of 7 makes an 8 of a 7.
  static constexpr int pixels_of_tile(std::int64_t rest) {
    if (rest <= 1) return 1;
    if (rest <= 4) return 4;
    if (rest < 8) return 7;
    const std::int64_t sevens = rest / 7, excess = rest % 7;
    return excess > 4 || (excess > 0 && excess <= sevens) ? 8 : 7;
  }

  // A run of taps of one row of the kernel, as a row of tiles goes through it.
  struct Step {
    const T* line;  // the column that the first pixel of the row reads, channel 0
    std::int64_t weight, weight_step;  // of the first tap, and from one to the next
    std::uint32_t inside;              // which columns of the largest tile lie inside
    std::int32_t taps;
  };

  // Where a tile lies, and how it is filled: the same for every vector of channels.
  struct Spot {
    int pixels;                 // of the tile
    std::int64_t pixel_count;   // of those, that exist
    T* filled;                  // its first pixel
    std::int64_t filled_pixel;  // from one to the next
    Span<Step> steps;
    std::int64_t source;         // from the lines of the steps to those of the tile
    std::int64_t unit;           // between columns of the source
    std::int64_t block_weights;  // from the weight of a vector to that of the next
    bool is_interior;            // every column that a tile of `pixels` reads lies inside
    PixelsAhead<T> source_ahead, filled_ahead;  // what the next tile reads and writes
  };

  // Fills the pixels of a tile by V vectors, into elements of type U from `filled` on.
  template <int P, int V, bool kChecked, class Load, class U>
  [[gnu::noinline]] static void fill(const Spot& spot, std::int64_t source_channel,
                                     const C* weights, const Vector<C> (&start)[V], Load load_pixel,
                                     U* filled, Mask<C> mask) {
    BlockedTile<C, P, V> tile;
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) tile.block.sums[p][v] = start[v];
    }
    source_channel += spot.source;
    for (const Step& step : spot.steps) {
      add_taps<kChecked>(tile.block, spot, step, source_channel, weights, load_pixel);
      tile.note_terms(step.taps);
    }
    tile.finish();
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      if (p >= spot.pixel_count) break;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        store_masked(pixel_at(filled + v * L, p, spot.filled_pixel), tile.block.sums[p][v], mask);
      }
    }
  }

  // Fills the pixels of a tile by `count` vectors of full lanes, whose sums need no blocks, from
  // channel `lane` on. A call for every vector takes as long as the multiply-adds of a small
  // window.
  template <int P, bool kChecked>
  [[gnu::noinline]] static void fill_vectors(const Spot& spot, std::int64_t lane,
                                             std::int64_t count, const C* weights, const T* bias) {
    const Spot here = spot;
    T* filled = here.filled + lane;
    FetchAhead<T, 0> source_ahead(here.source_ahead, lane, count);
    FetchAhead<T, 1> filled_ahead(here.filled_ahead, lane, count);
    for (lane += here.source; count > 0; --count, lane += L, weights += here.block_weights) {
      Tile<C, P, 1> tile;
      const Vector<C> start = bias ? load(bias) : Vector<C>{};
      if (bias) bias += L;
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) tile.sums[p][0] = start;
      for (const Step& step : here.steps)
        add_taps<kChecked>(tile, here, step, lane, weights, FullLanes<T>{});
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        if (p >= here.pixel_count) break;
        store(pixel_at(filled, p, here.filled_pixel), tile.sums[p][0]);
      }
      if constexpr (kFetchesAhead) {
        source_ahead.step();
        filled_ahead.step();
      }
      filled += L;
    }
  }

 private:
  // Those of a step, of which there are kMaxTaps at most.
  template <bool kChecked, int P, int V, class Load>
  HANDCONV_INLINE static void add_taps(Tile<C, P, V>& tile, const Spot& spot, const Step& step,
                                       std::int64_t channel, const C* weights, Load load_pixel) {
    switch (step.taps) {
      case 1:
        return add_step<1, kChecked>(tile, spot, step, channel, weights, load_pixel);
      case 2:
        return add_step<2, kChecked>(tile, spot, step, channel, weights, load_pixel);
      default:
        return add_step<kMaxTaps, kChecked>(tile, spot, step, channel, weights, load_pixel);
    }
  }

  // K taps, which read K + P - 1 columns of a line.
  template <int K, bool kChecked, int P, int V, class Load>
  HANDCONV_INLINE static void add_step(Tile<C, P, V>& tile, const Spot& spot, const Step& step,
                                       std::int64_t channel, const C* weights, Load load_pixel) {
    const T* line = step.line + channel;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v, line += L, weights += spot.block_weights) {
      Vector<C> weight[K];
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) weight[k] = load(weights + step.weight + k * step.weight_step);
#pragma GCC unroll 16
      for (int j = 0; j < P + K - 1; ++j) {
        // The same for all lanes and rarely mispredicted; a path of its own for pixels at the edge
        // costs more, and so does a jump for every column that lies inside.
        if (kChecked && __builtin_expect(!(step.inside >> j & 1), 0)) continue;
        Vector<C> pixel = load_pixel(pixel_at(line, j, spot.unit));
        if (K > 1) pixel = in_register(pixel);
#pragma GCC unroll 4
        for (int k = 0; k < K; ++k) {
          const int p = j - k;
          if (p < 0 || p >= P) continue;
          tile.sums[p][v] = fma(pixel, weight[k], tile.sums[p][v]);
        }
      }
    }
  }

  // line + i * unit from multiples of unit that several pixels share and that addresses scale.
  template <class U>
  HANDCONV_INLINE static U* pixel_at(U* line, int i, std::int64_t unit) {
    U* base = i < 5 ? line : line + 5 * unit;
    const int rest = i % 5;
    return rest == 3 ? base + 3 * unit : base + rest * unit;
  }
};
