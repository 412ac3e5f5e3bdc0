// direct.depthwise.planes, weight gradient: groups with one input channel, contiguous (NCHW)
// images.
//
//     w[oc, kh, kw] = sum over n, i, j of y[n, oc, i, j] * x[n, c, i s + kh d - p, j s + kw d - p]
//
// Register tile: KR x KC taps, each a vector of partial sums whose lanes are columns of y. With
// stride 1 the last KR rows of y stay in registers too, so a row of x is loaded once for each of KC
// shifts and serves KR rows of taps: KR * KC multiply-adds for KC + 1 loads. Bytes: x and y once
// for every tile of taps, of which a kernel up to 5x5 has one and a larger one several, over planes
// that stay in cache.
//
// The walk goes down columns, which the processor foresees badly, so every row asks for the same
// row of what comes next: 1.1 to 1.7 times as fast where a batch comes from memory, as fast from
// caches (AVX2). Samples outermost, for planes of one sample to stay in the second-level cache,
// gained nothing.

// Lane i of the result is the sum of the lanes of vectors[i], always in the same order.
template <class C>
HANDCONV_INLINE Vector<C> sums_of_lanes(Vector<C> (&vectors)[kLanes<C>]) {
  constexpr std::make_integer_sequence<int, kLanes<C>> lanes;
#pragma GCC unroll 4
  for (int half = kLanes<C> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      vectors[i] = interleave(vectors[i], vectors[i + half], 0, lanes) +
                   interleave(vectors[i], vectors[i + half], 1, lanes);
    }
  }
  return vectors[0];
}

template <class T>
class DepthwisePlanesWeightKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem&) {
    return {0, static_cast<std::size_t>(kLargest * kLargest) * kVectorBytes};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    DepthwisePlanesWeightKernel(problem, buffers, workspace).run_all();
  }

 private:
  // Taps of a tile along an axis: 5 x 5 sums and 5 rows of y just fit in 32 registers.
  static constexpr int kSmallest = kVectorBytes == 64 ? 3 : 2;
  static constexpr int kLargest = kVectorBytes == 64 ? 5 : 3;

  DepthwisePlanesWeightKernel(const Problem& problem, const Buffers& buffers,
                              const Workspace& workspace)
      : problem_(problem),
        g_(problem.geometry),
        buffers_(buffers),
        workspace_(workspace),
        rows_(g_.height, Slot::kOutput),
        columns_(g_.width, Slot::kOutput),
        pattern_(rows_.classes()[0]),
        tap_rows_(g_.height.kernel, kLargest),
        tap_columns_(g_.width.kernel, kLargest) {}

  // Channels [first, last) of y.
  struct Item {
    std::int64_t first, last;
    C* totals;
  };

  void run_all() const {
    constexpr std::int64_t kItemCost = 1 << 15;
    const std::int64_t cost = g_.output_area() * g_.kernel_area();
    const std::int64_t planes = kItemCost / cost + 1;
    parallel_for(ceil_divide(g_.out_channels, planes), planes * cost * g_.batch,
                 [&](std::int64_t index, int thread) {
                   const std::int64_t first = index * planes, rest = g_.out_channels - first;
                   fill_channels({first, first + (rest < planes ? rest : planes),
                                  workspace_.of_thread<C>(thread)});
                 });
  }

  void fill_channels(const Item& item) const {
    for (std::int64_t i = 0; i < tap_rows_.count; ++i) {
      for (std::int64_t j = 0; j < tap_columns_.count; ++j) {
        const DepthwiseTaps taps{tap_rows_.first(i), tap_columns_.first(j),
                                 static_cast<int>(tap_rows_.size(i)),
                                 static_cast<int>(tap_columns_.size(j))};
        if (g_.width.stride == 1 && pattern_.stride == 1) {
          fill_taps_by_size(item, taps);
        } else if (g_.width.stride == 2 && g_.width.dilation == 1) {
          fill_strided_by_size(item, taps);
        } else {
          fill_taps<StridedRows<T, kLargest, kLargest, false>>(item, taps);
        }
      }
    }
  }

  // The smallest tile that has them. Sums of taps that do not exist are not stored.
  void fill_taps_by_size(const Item& item, const DepthwiseTaps& taps) const {
    if constexpr (kLargest == 5) {
      if (taps.rows == 5) return fill_taps_by_columns<5>(item, taps);
      if (taps.rows == 4) return fill_taps_by_columns<4>(item, taps);
    } else if (taps.rows == 2) {
      return fill_taps_by_columns<2>(item, taps);
    }
    fill_taps_by_columns<3>(item, taps);
  }
  template <int KR>
  void fill_taps_by_columns(const Item& item, const DepthwiseTaps& taps) const {
    if constexpr (kLargest == 5) {
      if (taps.columns == 5) return fill_taps<UnitRows<T, KR, 5>>(item, taps);
      if (taps.columns == 4) return fill_taps<UnitRows<T, KR, 4>>(item, taps);
    } else if (taps.columns == 2) {
      return fill_taps<UnitRows<T, KR, 2>>(item, taps);
    }
    fill_taps<UnitRows<T, KR, 3>>(item, taps);
  }
  void fill_strided_by_size(const Item& item, const DepthwiseTaps& taps) const {
    if (taps.rows <= 3 && taps.columns <= 3)
      return fill_taps<StridedRows<T, 3, 3, true>>(item, taps);
    fill_taps<StridedRows<T, kLargest, kLargest, true>>(item, taps);
  }

  template <class Rows>
  [[gnu::noinline]] void fill_taps(const Item& item, const DepthwiseTaps& taps) const {
    constexpr int KR = Rows::kTapRows, KC = Rows::kTapColumns;
    const ImageStrides xs = problem_.x_strides(), ys = problem_.y_strides();
    Rows rows({g_, pattern_, taps}, 0);
    for (std::int64_t oc = item.first; oc < item.last; ++oc) {
      const T* x =
          static_cast<const T*>(buffers_.x) + oc / g_.out_channels_per_group() * xs.channel;
      const T* y = static_cast<const T*>(buffers_.y) + oc * ys.channel;
      PlaneSums<C, KR, KC> sums(item.totals);
#pragma GCC unroll 8
      for (int r = 0; r < KR; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < KC; ++c) sums.block.sums[r][c] = Vector<C>{};
      }
      for (std::int64_t column = 0; column < g_.width.output; column += kLanes<C>) {
        if (column != rows.column) rows.move_to(column);
        for (std::int64_t n = 0; n < g_.batch; ++n)
          rows.add(sums, x + n * xs.sample, y + n * ys.sample, rows_ahead(n, column));
      }
      sums.finish();
      store_taps(sums.block, oc, taps);
    }
  }

  // Of the next sample, the next columns or the next channel.
  RowsAhead rows_ahead(std::int64_t n, std::int64_t column) const {
    const ImageStrides xs = problem_.x_strides(), ys = problem_.y_strides();
    if (n + 1 < g_.batch) return {xs.sample, ys.sample};
    const RowsAhead back{-n * xs.sample, -n * ys.sample};
    constexpr std::int64_t L = kLanes<C>;
    if (column + L < g_.width.output) return {back.x + L * g_.width.stride, back.y + L};
    return {back.x + xs.channel - column * g_.width.stride, back.y + ys.channel - column};
  }

  template <int KR, int KC>
  HANDCONV_INLINE void store_taps(const Tile<C, KR, KC>& tile, std::int64_t oc,
                                  const DepthwiseTaps& taps) const {
    constexpr int L = kLanes<C>, kCount = KR * KC;
    C sums[round_up(kCount, L)];
#pragma GCC unroll 16
    for (int first = 0; first < kCount; first += L) {
      Vector<C> vectors[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        const int tap = first + i < kCount ? first + i : 0;
        vectors[i] = first + i < kCount ? tile.sums[tap / KC][tap % KC] : Vector<C>{};
      }
      store(sums + first, sums_of_lanes<C>(vectors));
    }
    T* w = weight_element<T>(problem_, buffers_, oc, 0, taps.row, taps.column);
    for (int r = 0; r < taps.rows; ++r) {
      for (int c = 0; c < taps.columns; ++c) {
        w[r * problem_.w_strides.row + c * problem_.w_strides.column] =
            from_compute<T>(sums[r * KC + c]);
      }
    }
  }

  const Problem& problem_;
  const Geometry& g_;
  const Buffers& buffers_;
  const Workspace& workspace_;
  const AxisTaps rows_, columns_;
  const RowPattern pattern_;
  const EvenParts tap_rows_, tap_columns_;
};
