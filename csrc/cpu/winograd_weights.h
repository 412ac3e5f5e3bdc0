// The weight on its way into Winograd's space: squares of source channels by lanes are transposed
// out of w, whatever its memory order, and each window becomes one element of the matrix of each
// point.

// Where a panel of transformed weights lies: u[point][panel of vectors][source channel][lane].
template <class C>
struct WeightPanels {
  std::int64_t sources;  // source channels, the inner extent of the product
  int vectors;           // of lanes, all panels together

  int panel_vectors(int panel) const {
    const int rest = vectors - panel * kTileVectors;
    return rest < kTileVectors ? rest : kTileVectors;
  }
  int panels() const { return ceil_divide(vectors, kTileVectors); }
  std::int64_t panel(int index) const { return index * kTileVectors * kLanes<C> * sources; }
  // Points lie a cache line further apart than their matrices are large: what is written to all of
  // them at once would otherwise fall into the same set of the cache.
  std::int64_t point_step() const {
    return sources * vectors * kLanes<C> + 64 / static_cast<std::int64_t>(sizeof(C));
  }
};

template <class T, class Tiles>
class WinogradWeights {
 public:
  using C = Compute<T>;

  // `flips`: the window is read backwards, as the transposed convolution does.
  WinogradWeights(const Gather& gather, bool flips) : gather_(gather), flips_(flips) {}

  // Source channels from `first` on, each segment of all of them in turn, and `lanes` filled ones
  // from `filled` on.
  void transform(std::int64_t group, std::int64_t filled, std::int64_t lanes, std::int64_t first,
                 const WeightPanels<C>& panels, C* u) const {
    const T* w = static_cast<const T*>(gather_.w) + group * gather_.w_group +
                 filled * gather_.w_filled + first * gather_.w_source;
    alignas(64) C windows[kSources * kTaps * kLanes<C>] = {};
    for (int first_v = 0; first_v < panels.vectors; first_v += kVectorsOfLine) {
      const int panel = first_v / kTileVectors;
      const std::int64_t row = panels.panel_vectors(panel) * kLanes<C>;
      const std::int64_t sources = panels.sources / Tiles::kSegments;
      for (std::int64_t s = 0; s < sources; s += kSources) {
        const std::int64_t count = sources - s < kSources ? sources - s : kSources;
        for (int v = first_v; v < first_v + kVectorsOfLine && v < panels.vectors; ++v) {
          const std::int64_t rest = lanes - v * kLanes<C>;
          pack(w + v * kLanes<C> * gather_.w_filled + s * gather_.w_source,
               rest < kLanes<C> ? rest : kLanes<C>, count, windows);
          C* target = u + panels.panel(panel) + s * row + v % kTileVectors * kLanes<C>;
          for (std::int64_t i = 0; i < count; ++i) {
            for (int segment = 0; segment < Tiles::kSegments; ++segment) {
              transform_windows(windows + i * kTaps * kLanes<C>, segment,
                                target + (segment * sources + i) * row, panels.point_step());
            }
          }
        }
      }
    }
  }

 private:
  using Rows = typename Tiles::Rows;
  using Columns = typename Tiles::Columns;
  static constexpr int kTaps = Tiles::kTaps;
  static constexpr std::int64_t kSources = 16;  // source channels that are packed at a time
  static constexpr std::int64_t kLine = 64 / sizeof(T);
  // Vectors that share a line of the cache, in w and in U, follow each other.
  static constexpr int kVectorsOfLine = kVectorBytes < 32 ? 1 : 64 / kVectorBytes;

  // windows[source channel][tap][lane], from the w of the first lane and source channel on.
  void pack(const T* w, std::int64_t lanes, std::int64_t sources, C* windows) const {
    constexpr std::int64_t L = kLanes<C>;
    const Gather& g = gather_;
    if constexpr (kVectorBytes == 32) fetch_next_lanes(w, sources);
    const bool taps_adjoin = (g.w_column == 1 || Columns::kKernel == 1) &&
                             (g.w_row == Columns::kKernel || Rows::kKernel == 1);
    if (taps_adjoin && g.w_source == kTaps) {
      transpose_matrix(w, g.w_filled, lanes, sources * kTaps, windows, L);
    } else if (taps_adjoin && kTaps <= 5) {
      for (std::int64_t s = 0; s < sources; ++s) {
        pack_windows(w + s * g.w_source, lanes, windows + s * kTaps * L);
      }
    } else if (taps_adjoin && kVectorBytes == 32 && kTaps == kLanes<C> + 1 && lanes == kLanes<C>) {
      for (std::int64_t s = 0; s < sources; ++s)
        pack_full_windows(w + s * g.w_source, windows + s * kTaps * L);
    } else if (taps_adjoin) {
      for (std::int64_t s = 0; s < sources; ++s) {
        transpose_matrix(w + s * g.w_source, g.w_filled, lanes, kTaps, windows + s * kTaps * L, L);
      }
    } else {
      for (int tap = 0; tap < kTaps; ++tap) {
        pack_tap(w + offset_of(tap), lanes, sources, windows + tap * L);
      }
    }
  }

  // One by one: a square of vectors would be nearly empty.
  void pack_windows(const T* w, std::int64_t lanes, C* windows) const {
    for (std::int64_t lane = 0; lane < lanes; ++lane, w += gather_.w_filled) {
#pragma GCC unroll 5
      for (int tap = 0; tap < kTaps; ++tap) windows[tap * kLanes<C> + lane] = to_compute(w[tap]);
    }
  }

  // What is read of the next lanes lies in pieces too far apart for the processor to foresee.
  void fetch_next_lanes(const T* w, std::int64_t sources) const {
    const Gather& g = gather_;
    const bool by_sources = g.w_source > g.w_filled;  // lanes, or their windows, adjoin
    const std::int64_t rows = by_sources ? sources : kLanes<C>;
    const std::int64_t row = by_sources ? g.w_source : g.w_filled;
    const std::int64_t elements = kTaps * (by_sources ? kLanes<C> : sources);
    const T* next = w + kVectorsOfLine * kLanes<C> * g.w_filled;
    for (std::int64_t i = 0; i < rows; ++i, next += row) {
      if (g.w_column == 1) {
        for (std::int64_t at = 0; at < elements; at += kLine) __builtin_prefetch(next + at, 0, 2);
      } else {
        for (int tap = 0; tap < kTaps; ++tap) __builtin_prefetch(next + offset_of(tap), 0, 2);
      }
    }
  }
  std::int64_t offset_of(int tap) const {
    return tap / Columns::kKernel * gather_.w_row + tap % Columns::kKernel * gather_.w_column;
  }

  // Windows of a tap more than a vector has lanes: a second square of vectors would be nearly
  // empty.
  void pack_full_windows(const T* w, C* windows) const {
    constexpr std::int64_t L = kLanes<C>;
    const std::int64_t step = gather_.w_filled;
    Vector<C> square[L], last{};
#pragma GCC unroll 8
    for (std::int64_t i = 0; i < L; ++i) {
      square[i] = load(w + i * step);
      last[i] = to_compute(w[i * step + L]);
    }
    transpose<C>(square);
#pragma GCC unroll 8
    for (std::int64_t i = 0; i < L; ++i) store(windows + i * L, square[i]);
    store(windows + L * L, last);
  }

  void pack_tap(const T* w, std::int64_t lanes, std::int64_t sources, C* windows) const {
    constexpr std::int64_t kStep = kTaps * kLanes<C>;
    if (gather_.w_filled == 1) {
      const auto mask = mask_between<C>(0, lanes);
      for (std::int64_t s = 0; s < sources; ++s) {
        store(windows + s * kStep, load_masked(w + s * gather_.w_source, mask));
      }
    } else if (gather_.w_source == 1) {
      transpose_matrix(w, gather_.w_filled, lanes, sources, windows, kStep);
    } else {
      for (std::int64_t s = 0; s < sources; ++s) {
        for (std::int64_t lane = 0; lane < lanes; ++lane) {
          windows[s * kStep + lane] = to_compute(w[s * gather_.w_source + lane * gather_.w_filled]);
        }
      }
    }
  }

  // One segment of a window for each lane: G g G^T.
  HANDCONV_INLINE void transform_windows(const C* windows, int segment, C* u,
                                         std::int64_t point_step) const {
    const int first_row = Tiles::first_row(segment), first_column = Tiles::first_column(segment);
    Vector<C> columns[Columns::kTaps][Rows::kPoints];
#pragma GCC unroll 5
    for (int kw = 0; kw < Columns::kTaps; ++kw) {
      Vector<C> g[Rows::kTaps];
#pragma GCC unroll 5
      for (int kh = 0; kh < Rows::kTaps; ++kh) {
        g[kh] = tap_of(windows, first_row + kh, first_column + kw);
      }
      Filter<C, Rows::kOutputs, Rows::kTaps>::transform_weight(g, columns[kw]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < Rows::kPoints; ++i) {
      Vector<C> g[Columns::kTaps], row[Columns::kPoints];
#pragma GCC unroll 5
      for (int kw = 0; kw < Columns::kTaps; ++kw) g[kw] = columns[kw][i];
      Filter<C, Columns::kOutputs, Columns::kTaps>::transform_weight(g, row);
#pragma GCC unroll 6
      for (int j = 0; j < Columns::kPoints; ++j) {
        store(u + (i * Columns::kPoints + j) * point_step, row[j]);
      }
    }
  }

  // Zero behind the last tap.
  HANDCONV_INLINE Vector<C> tap_of(const C* windows, int kh, int kw) const {
    if (kh >= Rows::kKernel || kw >= Columns::kKernel) return Vector<C>{};
    const int tap = kh * Columns::kKernel + kw;
    return load(windows + (flips_ ? kTaps - 1 - tap : tap) * kLanes<C>);
  }

  const Gather& gather_;
  bool flips_;
};
