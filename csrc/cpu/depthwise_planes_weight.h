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

  // The taps of a tile, and how many of them exist.
  struct Taps {
    std::int64_t row, column;
    int rows, columns;
  };

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
        const Taps taps{tap_rows_.first(i), tap_columns_.first(j),
                        static_cast<int>(tap_rows_.size(i)),
                        static_cast<int>(tap_columns_.size(j))};
        if (g_.width.stride == 1 && pattern_.stride == 1) {
          fill_taps_by_size(item, taps);
        } else if (g_.width.stride == 2 && g_.width.dilation == 1) {
          fill_strided_by_size(item, taps);
        } else {
          fill_taps<StridedRows<kLargest, kLargest, false>>(item, taps);
        }
      }
    }
  }

  // The smallest tile that has them. Sums of taps that do not exist are not stored.
  void fill_taps_by_size(const Item& item, const Taps& taps) const {
    if constexpr (kLargest == 5) {
      if (taps.rows == 5) return fill_taps_by_columns<5>(item, taps);
      if (taps.rows == 4) return fill_taps_by_columns<4>(item, taps);
    } else if (taps.rows == 2) {
      return fill_taps_by_columns<2>(item, taps);
    }
    fill_taps_by_columns<3>(item, taps);
  }
  template <int KR>
  void fill_taps_by_columns(const Item& item, const Taps& taps) const {
    if constexpr (kLargest == 5) {
      if (taps.columns == 5) return fill_taps<UnitRows<KR, 5>>(item, taps);
      if (taps.columns == 4) return fill_taps<UnitRows<KR, 4>>(item, taps);
    } else if (taps.columns == 2) {
      return fill_taps<UnitRows<KR, 2>>(item, taps);
    }
    fill_taps<UnitRows<KR, 3>>(item, taps);
  }
  void fill_strided_by_size(const Item& item, const Taps& taps) const {
    if (taps.rows <= 3 && taps.columns <= 3) return fill_taps<StridedRows<3, 3, true>>(item, taps);
    fill_taps<StridedRows<kLargest, kLargest, true>>(item, taps);
  }

  template <class Rows>
  [[gnu::noinline]] void fill_taps(const Item& item, const Taps& taps) const {
    constexpr int KR = Rows::kTapRows, KC = Rows::kTapColumns;
    const ImageStrides xs = problem_.x_strides(), ys = problem_.y_strides();
    Rows rows(*this, taps, 0);
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
          rows.add(sums, x + n * xs.sample, y + n * ys.sample);
      }
      sums.finish();
      store_taps(sums.block, oc, taps);
    }
  }

  template <int KR, int KC>
  HANDCONV_INLINE void store_taps(const Tile<C, KR, KC>& tile, std::int64_t oc,
                                  const Taps& taps) const {
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

  // Source columns of x that a vector of columns of y reads through a tap.
  std::int64_t source_column(std::int64_t column, std::int64_t tap) const {
    return g_.width.input_position(column, tap);
  }

  // Stride 1: down the columns [column, column + kLanes) of x, with the last rows of y at hand.
  template <int KR, int KC>
  struct UnitRows {
    static constexpr int kTapRows = KR, kTapColumns = KC;
    std::int64_t column;  // the first

    UnitRows(const DepthwisePlanesWeightKernel& kernel, const Taps& taps, std::int64_t column)
        : kernel(kernel), taps(taps) {
      move_to(column);
    }
    void move_to(std::int64_t first) {
      column = first;
      const Geometry& g = kernel.g_;
      exist = mask_between<C>(0, g.width.output - column);
      for (int c = 0; c < KC; ++c) {
        const std::int64_t start = kernel.source_column(column, taps.column + c);
        masks[c] = mask_between<C>(-start, g.width.input - start);
      }
    }

    HANDCONV_INLINE void add(PlaneSums<C, KR, KC>& sums, const T* x, const T* y) const {
      const Geometry& g = kernel.g_;
      const RowPattern& pattern = kernel.pattern_;
      for (std::int64_t s = 0; s < pattern.sets; ++s) {
        const RowSet rows = pattern.set(s);
        const std::int64_t first = rows.source_first + taps.row * pattern.spacing;
        add_set(sums, x + first * g.width.input + kernel.source_column(column, taps.column),
                pattern.spacing * g.width.input, y + rows.filled_first * g.width.output + column,
                rows.filled_step * g.width.output, rows.count, rows_from(first, pattern.spacing),
                rows_until(first, pattern.spacing));
        sums.note_terms(rows.count);
      }
    }

   private:
    // Row q of x, q in [begin, end), meets rows q, q - 1, ... q - KR + 1 of the `count` rows of y.
    HANDCONV_INLINE void add_set(PlaneSums<C, KR, KC>& sums, const T* x, std::int64_t x_step,
                                 const T* y, std::int64_t y_step, std::int64_t count,
                                 std::int64_t begin, std::int64_t end) const {
      const auto exists = [count](std::int64_t row) { return 0 <= row && row < count; };
      if (end > count + KR - 1) end = count + KR - 1;
      Vector<C> window[KR];
#pragma GCC unroll 8
      for (int k = 0; k < KR; ++k) {
        const std::int64_t row = begin - 1 - k;
        window[k] = exists(row) ? load_masked(y + row * y_step, exist) : Vector<C>{};
      }
      const std::int64_t dilation = kernel.g_.width.dilation;
      const T *x_row = x + begin * x_step, *y_row = y + begin * y_step;
      for (std::int64_t q = begin; q < end; ++q, x_row += x_step, y_row += y_step) {
#pragma GCC unroll 8
        for (int k = KR - 1; k > 0; --k) window[k] = window[k - 1];
        if (KR - 1 <= q && q < count) {
          window[0] = load_masked(y_row, exist);
#pragma GCC unroll 8
          for (int c = 0; c < KC; ++c) {
            const Vector<C> pixels = load_masked(x_row + c * dilation, masks[c]);
#pragma GCC unroll 8
            for (int k = 0; k < KR; ++k)
              sums.block.sums[k][c] = fma(pixels, window[k], sums.block.sums[k][c]);
          }
        } else {
          if (q < count) window[0] = load_masked(y_row, exist);
#pragma GCC unroll 8
          for (int k = 0; k < KR; ++k) {
            if (!exists(q - k)) continue;
#pragma GCC unroll 8
            for (int c = 0; c < KC; ++c) {
              const Vector<C> pixels = load_masked(x_row + c * dilation, masks[c]);
              sums.block.sums[k][c] = fma(pixels, window[k], sums.block.sums[k][c]);
            }
          }
        }
      }
    }

    // Rows first + q * step lie inside x for q in [rows_from, rows_until).
    std::int64_t rows_from(std::int64_t first, std::int64_t step) const {
      return first >= 0 ? 0 : step == 1 ? -first : (step - 1 - first) / step;
    }
    std::int64_t rows_until(std::int64_t first, std::int64_t step) const {
      const std::int64_t rest = kernel.g_.height.input - first;
      return rest <= 0 ? 0 : step == 1 ? rest : ceil_divide(rest, step);
    }

    const DepthwisePlanesWeightKernel& kernel;
    const Taps& taps;
    Mask<C> exist, masks[KC];
  };

  // Any stride: every row of y by itself. kPaired: stride 2 along the row and no dilation, where
  // two taps share their loads.
  template <int KR, int KC, bool kPaired>
  struct StridedRows {
    static constexpr int kTapRows = KR, kTapColumns = KC;
    std::int64_t column;  // the first

    StridedRows(const DepthwisePlanesWeightKernel& kernel, const Taps& taps, std::int64_t column)
        : kernel(kernel), taps(taps) {
      move_to(column);
    }
    void move_to(std::int64_t first) {
      column = first;
      const AxisOf<std::int64_t>& width = kernel.g_.width;
      exist = mask_between<C>(0, width.output - column);
      for (int c = 0; c < KC; ++c) {
        const std::int64_t start = kernel.source_column(column, taps.column + c);
        if constexpr (kPaired) {
          masks[c] = {mask_between<C>(-start, width.input - start),
                      mask_between<C>(-start - kLanes<C>, width.input - start - kLanes<C>)};
        } else if (c < taps.columns) {
          const Range inside = outputs_inside(width, taps.column + c);
          masks[c].low = mask_between<C>(inside.first - column, inside.last - column);
        } else {
          masks[c].low = mask_between<C>(0, 0);
        }
      }
    }

    HANDCONV_INLINE void add(PlaneSums<C, KR, KC>& sums, const T* x, const T* y) const {
      const Geometry& g = kernel.g_;
      x += kernel.source_column(column, taps.column);
      y += column;
      for (std::int64_t row = 0; row < g.height.output; ++row, y += g.width.output) {
        const Vector<C> cotangent = load_masked(y, exist);
        std::int64_t h = g.height.input_position(row, taps.row);
#pragma GCC unroll 8
        for (int k = 0; k < KR; ++k, h += g.height.dilation) {
          if (k >= taps.rows || h < 0 || h >= g.height.input) continue;
          add_row(sums.block.sums[k], x + h * g.width.input, cotangent);
        }
      }
      sums.note_terms(g.height.output);
    }

   private:
    HANDCONV_INLINE void add_row(Vector<C> (&sums)[KC], const T* line, Vector<C> cotangent) const {
      if constexpr (kPaired) {
#pragma GCC unroll 4
        for (int c = 0; c < KC; c += 2) {
          const VectorPair<C> pixels = load_pairs(line + c, masks[c]);
          sums[c] = fma(pixels.even, cotangent, sums[c]);
          if (c + 1 < KC) sums[c + 1] = fma(pixels.odd, cotangent, sums[c + 1]);
        }
      } else {
#pragma GCC unroll 8
        for (int c = 0; c < KC; ++c) {
          const T* p = line + c * kernel.g_.width.dilation;
          sums[c] = fma(load_strided(p, kernel.g_.width.stride, masks[c].low), cotangent, sums[c]);
        }
      }
    }

    const DepthwisePlanesWeightKernel& kernel;
    const Taps& taps;
    Mask<C> exist;
    PairMask<C> masks[KC];
  };

  const Problem& problem_;
  const Geometry& g_;
  const Buffers& buffers_;
  const Workspace& workspace_;
  const AxisTaps rows_, columns_;
  const RowPattern pattern_;
  const EvenParts tap_rows_, tap_columns_;
};
