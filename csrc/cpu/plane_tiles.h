// The register tiles of the kernels whose lanes are pixels. What they read was laid out by
// PaddedPlanes: no edges, no strides, all in C.
//
// F filled channels by V vectors of positions, up to 24 vectors of sums of the 32 registers of
// AVX-512 and 12 of 16: a load of the source serves F multiply-adds, a weight V.

constexpr int kMostTileChannels = kVectorBytes == 64 ? 8 : 4;

// The most vectors of positions of a tile of that many channels.
constexpr int most_tile_vectors(int channels) {
  constexpr int kSums = kVectorBytes == 64 ? 24 : 12;
  return channels < 3 ? (kVectorBytes == 64 ? 8 : 4) : kSums / channels;
}

// How `channels` are cut into tiles: full ones, then what the rest needs, in powers of two; padded
// where that fills most of a tile.
inline std::int64_t tile_channels(std::int64_t rest) {
  if (rest >= kMostTileChannels - 1) return kMostTileChannels;
  return rest >= 3 ? 4 : rest;
}
inline std::int64_t padded_channels(std::int64_t channels) {
  std::int64_t padded = 0;
  while (padded < channels) padded += tile_channels(channels - padded);
  return padded;
}

// visit(VectorCount<F>{}) with F = tile_channels(...).
template <class Visit>
HANDCONV_INLINE void visit_tile_channels(std::int64_t channels, const Visit& visit) {
  if constexpr (kMostTileChannels == 8) {
    if (channels == 8) return visit(VectorCount<8>{});
  }
  if (channels == 4) return visit(VectorCount<4>{});
  if (channels == 2) return visit(VectorCount<2>{});
  visit(VectorCount<1>{});
}

// One step of a sum: a source channel through a tap, at a constant offset from every position.
// `weights` holds [step][F]; `planes` the sums, F lines of positions.
template <class C>
struct PlaneSums {
  const C* source;
  const std::int64_t* offsets;
  std::int64_t steps;
  const C* weights;
  C* planes;
  std::int64_t plane_step;
  const C* bias;  // of the F channels; null adds to what is there
};

template <class C, int F, int V>
[[gnu::noinline]] void add_plane_tile(const PlaneSums<C>& sums) {
  Vector<C> tile[F][V];
#pragma GCC unroll 8
  for (int f = 0; f < F; ++f) {
    const Vector<C> start = broadcast(sums.bias ? sums.bias[f] : C(0));
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) tile[f][v] = start;
  }
  const C* weights = sums.weights;
  const C* const source = sums.source;
  const std::int64_t* const end = sums.offsets + sums.steps;
  for (const std::int64_t* offset = sums.offsets; offset != end; ++offset, weights += F) {
    const C* p = source + *offset;
    Vector<C> pixels[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) pixels[v] = load(p + v * kLanes<C>);
#pragma GCC unroll 8
    for (int f = 0; f < F; ++f) {
      const Vector<C> weight = broadcast(weights[f]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) tile[f][v] = fma(pixels[v], weight, tile[f][v]);
    }
  }
  C* plane = sums.planes;
  const std::int64_t step = sums.plane_step;
  if (sums.bias) {
#pragma GCC unroll 8
    for (int f = 0; f < F; ++f, plane += step) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) store(plane + v * kLanes<C>, tile[f][v]);
    }
  } else {
#pragma GCC unroll 8
    for (int f = 0; f < F; ++f, plane += step) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        C* p = plane + v * kLanes<C>;
        store(p, load(p) + tile[f][v]);
      }
    }
  }
}

template <class C, int F, int V>
void add_plane_vectors(PlaneSums<C> sums, std::int64_t vectors) {
  if constexpr (V == 1) {
    add_plane_tile<C, F, 1>(sums);
  } else if (vectors == V) {
    add_plane_tile<C, F, V>(sums);
  } else {
    add_plane_vectors<C, F, V - 1>(sums, vectors);
  }
}

// All of `vectors` vectors of positions, in tiles of even size: a small one would wait for its own
// sums.
template <class C, int F>
void add_plane_sums(PlaneSums<C> sums, std::int64_t vectors) {
  constexpr int kMost = most_tile_vectors(F);
  std::int64_t tiles = ceil_divide(vectors, kMost);
  for (; tiles > 0; --tiles) {
    const std::int64_t width = ceil_divide(vectors, tiles);
    add_plane_vectors<C, F, kMost>(sums, width);
    sums.source += width * kLanes<C>;
    sums.planes += width * kLanes<C>;
    vectors -= width;
  }
}

// The lanes of a vector of positions that take part, for products of what else lies in the others.
template <class C>
struct LaneBitsOf {
  typedef LaneIndex<C> type __attribute__((vector_size(kVectorBytes)));
};
template <class C>
using LaneBits = typename LaneBitsOf<C>::type;

template <class C>
HANDCONV_INLINE Vector<C> keep_lanes(Vector<C> vector, LaneBits<C> lanes) {
  return reinterpret_cast<Vector<C>>(reinterpret_cast<LaneBits<C>>(vector) & lanes);
}

// Products of F channels of y with S of x, each through a tap, summed over positions lane by lane.
// Positions of y lie [vector][F]; x is read at constant offsets from them. A block is some samples.
template <class C>
struct PlaneProducts {
  const C* x;
  const std::int64_t* offsets;
  const C* y;
  const LaneIndex<C>* lanes;  // [vector]: that are positions
  std::int64_t vectors, samples, x_sample, y_sample;
  C* totals;  // [F][steps] vectors
  std::int64_t total_step;
};

template <class C, int F, int S>
[[gnu::noinline]] void add_plane_products(const PlaneProducts<C>& products) {
  constexpr std::int64_t L = kLanes<C>;
  Vector<C> tile[F][S]{};
  const C* x[S];
#pragma GCC unroll 8
  for (int s = 0; s < S; ++s) x[s] = products.x + products.offsets[s];
  const C* samples_y = products.y;
  for (std::int64_t n = 0; n < products.samples; ++n) {
    const C* y = samples_y;
    for (std::int64_t i = 0; i < products.vectors * L; i += L, y += F * L) {
      LaneBits<C> lanes;
      std::memcpy(&lanes, products.lanes + i, sizeof lanes);
      if constexpr (F > S) {
        Vector<C> pixels[S];
#pragma GCC unroll 8
        for (int s = 0; s < S; ++s) pixels[s] = keep_lanes<C>(load(x[s] + i), lanes);
#pragma GCC unroll 8
        for (int f = 0; f < F; ++f) {
          const Vector<C> cotangents = in_register(load(y + f * L));
#pragma GCC unroll 8
          for (int s = 0; s < S; ++s) tile[f][s] = fma(pixels[s], cotangents, tile[f][s]);
        }
      } else {
        Vector<C> cotangents[F];
#pragma GCC unroll 8
        for (int f = 0; f < F; ++f) cotangents[f] = load(y + f * L);
#pragma GCC unroll 8
        for (int s = 0; s < S; ++s) {
          const Vector<C> pixels = keep_lanes<C>(load(x[s] + i), lanes);
#pragma GCC unroll 8
          for (int f = 0; f < F; ++f) tile[f][s] = fma(pixels, cotangents[f], tile[f][s]);
        }
      }
    }
    samples_y += products.y_sample;
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) x[s] += products.x_sample;
  }
#pragma GCC unroll 8
  for (int f = 0; f < F; ++f) {
    C* total = products.totals + f * products.total_step;
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) store(total + s * L, load(total + s * L) + tile[f][s]);
  }
}

template <class C, int F, int S>
void add_plane_steps(const PlaneProducts<C>& products, std::int64_t steps) {
  if constexpr (S == 1) {
    add_plane_products<C, F, 1>(products);
  } else if (steps == S) {
    add_plane_products<C, F, S>(products);
  } else {
    add_plane_steps<C, F, S - 1>(products, steps);
  }
}

template <class C, int F>
void add_all_plane_steps(PlaneProducts<C> products, std::int64_t steps) {
  constexpr int kMost = most_tile_vectors(F) > 6 ? 6 : most_tile_vectors(F);
  for (std::int64_t tiles = ceil_divide(steps, kMost); tiles > 0; --tiles) {
    const std::int64_t width = ceil_divide(steps, tiles);
    add_plane_steps<C, F, kMost>(products, width);
    products.offsets += width;
    products.totals += width * kLanes<C>;
    steps -= width;
  }
}

// All of them, some vectors at a time: of more the sums would round worse than those of F.conv2d.
template <class C, int F>
void add_all_plane_products(PlaneProducts<C> products, std::int64_t steps) {
  constexpr std::int64_t kMostVectors = 128;
  const std::int64_t all = products.vectors, parts = ceil_divide(all, kMostVectors);
  for (std::int64_t part = 0; part < parts; ++part) {
    const Range vectors = part_of({0, all}, parts, part);
    products.vectors = vectors.last - vectors.first;
    add_all_plane_steps<C, F>(products, steps);
    products.x += products.vectors * kLanes<C>;
    products.y += products.vectors * F * kLanes<C>;
    products.lanes += products.vectors * kLanes<C>;
  }
}
