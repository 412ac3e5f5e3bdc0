// Rows of y by rows of x in the weight gradient of depthwise_planes_weight.h: the multiply-adds
// that a tile of taps gets from one sample and one vector of columns of y.

// The taps of a tile, and how many of them exist.
struct DepthwiseTaps {
  std::int64_t row, column;
  int rows, columns;
};

// How many elements behind the rows at hand those lie that are walked next, which memory is asked
// for meanwhile.
struct RowsAhead {
  std::int64_t x, y;
};

struct TapsOfImage {
  const Geometry& geometry;
  const RowPattern& pattern;
  const DepthwiseTaps& taps;

  // The column of x that column `column` of y reads through a tap.
  std::int64_t source_column(std::int64_t column, std::int64_t tap) const {
    return geometry.width.input_position(column, tap);
  }
};

// Stride 1: down the columns [column, column + kLanes) of x, with the last rows of y at hand.
template <class T, int KR, int KC>
struct UnitRows {
  using C = Compute<T>;
  static constexpr int kTapRows = KR, kTapColumns = KC;
  std::int64_t column;  // the first

  UnitRows(const TapsOfImage& job, std::int64_t column) : job(job) { move_to(column); }
  void move_to(std::int64_t first) {
    column = first;
    const Geometry& g = job.geometry;
    exist = mask_between<C>(0, g.width.output - column);
    for (int c = 0; c < KC; ++c) {
      const std::int64_t start = job.source_column(column, job.taps.column + c);
      masks[c] = mask_between<C>(-start, g.width.input - start);
    }
  }

  HANDCONV_INLINE void add(PlaneSums<C, KR, KC>& sums, const T* x, const T* y,
                           const RowsAhead& ahead) const {
    const Geometry& g = job.geometry;
    const RowPattern& pattern = job.pattern;
    for (std::int64_t s = 0; s < pattern.sets; ++s) {
      const RowSet rows = pattern.set(s);
      const std::int64_t first = rows.source_first + job.taps.row * pattern.spacing;
      add_set(sums, x + first * g.width.input + job.source_column(column, job.taps.column),
              pattern.spacing * g.width.input, y + rows.filled_first * g.width.output + column,
              rows.filled_step * g.width.output, rows.count, rows_from(first, pattern.spacing),
              rows_until(first, pattern.spacing), ahead);
      sums.note_terms(rows.count);
    }
  }

 private:
  // Row q of x, q in [begin, end), meets rows q, q - 1, ... q - KR + 1 of the `count` rows of y.
  HANDCONV_INLINE void add_set(PlaneSums<C, KR, KC>& sums, const T* x, std::int64_t x_step,
                               const T* y, std::int64_t y_step, std::int64_t count,
                               std::int64_t begin, std::int64_t end, const RowsAhead& ahead) const {
    const auto exists = [count](std::int64_t row) { return 0 <= row && row < count; };
    if (end > count + KR - 1) end = count + KR - 1;
    Vector<C> window[KR];
#pragma GCC unroll 8
    for (int k = 0; k < KR; ++k) {
      const std::int64_t row = begin - 1 - k;
      window[k] = exists(row) ? load_masked(y + row * y_step, exist) : Vector<C>{};
    }
    const std::int64_t dilation = job.geometry.width.dilation;
    const T *x_row = x + begin * x_step, *y_row = y + begin * y_step;
    for (std::int64_t q = begin; q < end; ++q, x_row += x_step, y_row += y_step) {
      __builtin_prefetch(x_row + ahead.x);
      __builtin_prefetch(y_row + ahead.y);
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
    const std::int64_t rest = job.geometry.height.input - first;
    return rest <= 0 ? 0 : step == 1 ? rest : ceil_divide(rest, step);
  }

  const TapsOfImage job;
  Mask<C> exist, masks[KC];
};

// Any stride: every row of y by itself. kPaired: stride 2 along the row and no dilation, where
// two taps share their loads.
template <class T, int KR, int KC, bool kPaired>
struct StridedRows {
  using C = Compute<T>;
  static constexpr int kTapRows = KR, kTapColumns = KC;
  std::int64_t column;  // the first

  StridedRows(const TapsOfImage& job, std::int64_t column) : job(job) { move_to(column); }
  void move_to(std::int64_t first) {
    column = first;
    const AxisOf<std::int64_t>& width = job.geometry.width;
    exist = mask_between<C>(0, width.output - column);
    for (int c = 0; c < KC; ++c) {
      const std::int64_t start = job.source_column(column, job.taps.column + c);
      if constexpr (kPaired) {
        masks[c] = {mask_between<C>(-start, width.input - start),
                    mask_between<C>(-start - kLanes<C>, width.input - start - kLanes<C>)};
      } else if (c < job.taps.columns) {
        const Range inside = outputs_inside(width, job.taps.column + c);
        masks[c].low = mask_between<C>(inside.first - column, inside.last - column);
      } else {
        masks[c].low = mask_between<C>(0, 0);
      }
    }
  }

  HANDCONV_INLINE void add(PlaneSums<C, KR, KC>& sums, const T* x, const T* y,
                           const RowsAhead& ahead) const {
    const Geometry& g = job.geometry;
    x += job.source_column(column, job.taps.column);
    y += column;
    for (std::int64_t row = 0; row < g.height.output; ++row, y += g.width.output) {
      const Vector<C> cotangent = load_masked(y, exist);
      std::int64_t h = g.height.input_position(row, job.taps.row);
      __builtin_prefetch(y + ahead.y);
#pragma GCC unroll 8
      for (int k = 0; k < KR; ++k, h += g.height.dilation) {
        if (k >= job.taps.rows || h < 0 || h >= g.height.input) continue;
        const T* line = x + h * g.width.input;
        if (k < g.height.stride) {  // the rows of y before this one have not asked for it
          __builtin_prefetch(line + ahead.x);
          __builtin_prefetch(line + ahead.x + kLanes<C>);
        }
        add_row(sums.block.sums[k], line, cotangent);
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
        const T* p = line + c * job.geometry.width.dilation;
        sums[c] = fma(load_strided(p, job.geometry.width.stride, masks[c].low), cotangent, sums[c]);
      }
    }
  }

  const TapsOfImage job;
  Mask<C> exist;
  PairMask<C> masks[KC];
};
