// The register tile of the packed depwthwise kernel: 2 rows by P pixels by one vector of channels.
//
//     sums[r][p] += sum over taps of weights[q - r][t] * source[q][p + t]
//
// A line q of the packed source serves both rows, through the tap rows q and q - 1: 2 P
// multiply-adds for P + 2 loads, all of them aligned. 2 x 14 sums, 2 weights and a pixel use 31 of
// 32 registers.

constexpr int kPackedRows = 2;

// What the taps of a tile read. Steps are in elements.
template <class C>
struct PackedTaps {
  const C* source;          // that pixel 0 reads through the first tap of line 0
  std::int64_t line;        // to the next line
  std::int64_t step;        // from a tap of a line to the next
  const C* weights;         // of the first tap, from where [tap row][tap][lane] follow
  std::int64_t rows;        // of taps
  std::int64_t columns;     // taps of a row
  std::int64_t begin, end;  // the lines that exist, of the rows + 1 that two rows of pixels reach

  // In a plane so small that every pixel of the tile sees each of its columns, columns outside
  // need not be visited: those inside, and the first tap by which pixel 0 sees one. 0: not so.
  std::int64_t inner_columns, inner_first;
};

// One line for rows [First, Last) of the tile.
template <int First, int Last, class C, int P>
HANDCONV_INLINE void add_packed_line(Tile<C, kPackedRows, P>& tile, const PackedTaps<C>& taps,
                                     std::int64_t q) {
  constexpr int L = kLanes<C>;
  const std::int64_t weight_row = taps.columns * L;
  const C* pixels = taps.source + q * taps.line;
  const C* weights = taps.weights + (q - First) * weight_row;
  if (taps.inner_columns > 0) {
    pixels += taps.inner_first * L;
    weights += taps.inner_first * L;
    for (std::int64_t j = 0; j < taps.inner_columns; ++j, pixels += L, weights += L) {
      const Vector<C> pixel = load(pixels);
#pragma GCC unroll 2
      for (int r = First; r < Last; ++r) {
        const C* weight = weights - (r - First) * weight_row;
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
          tile.sums[r][p] = fma(pixel, load(weight - p * L), tile.sums[r][p]);
        }
      }
    }
    return;
  }
  for (std::int64_t t = 0; t < taps.columns; ++t, pixels += taps.step, weights += L) {
    Vector<C> weight[kPackedRows];
#pragma GCC unroll 2
    for (int r = First; r < Last; ++r) weight[r] = load(weights - (r - First) * weight_row);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const Vector<C> pixel = load(pixels + p * L);
#pragma GCC unroll 2
      for (int r = First; r < Last; ++r) {
        tile.sums[r][p] = fma(pixel, weight[r], tile.sums[r][p]);
      }
    }
  }
}

// Where the sums of a tile go.
template <class U>
struct PackedTarget {
  U* first;
  std::int64_t row, pixel;    // steps
  std::int64_t rows, pixels;  // that exist
};

// Fills a tile whose sums start at `start`; `totals` has room for them.
template <int P, class C, class U>
[[gnu::noinline]] void fill_packed_tile(const PackedTaps<C>& taps, const PackedTarget<U>& target,
                                        Vector<C> start, Mask<C> mask, C* totals) {
  PlaneSums<C, kPackedRows, P> tile(totals);
#pragma GCC unroll 2
  for (int r = 0; r < kPackedRows; ++r) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) tile.block.sums[r][p] = start;
  }
  // Row 0 has taps for lines [0, rows), row 1 for lines [1, rows + 1).
  std::int64_t q = taps.begin;
  if (target.rows == 1) {
    for (; q < smaller(taps.end, taps.rows); ++q) {
      add_packed_line<0, 1>(tile.block, taps, q);
      tile.note_terms(taps.columns);
    }
  } else {
    if (q == 0 && q < taps.end) add_packed_line<0, 1>(tile.block, taps, q++);
    for (; q < smaller(taps.end, taps.rows); ++q) {
      add_packed_line<0, 2>(tile.block, taps, q);
      tile.note_terms(taps.columns);
    }
    if (q < taps.end) add_packed_line<1, 2>(tile.block, taps, q);
  }
  tile.finish();
#pragma GCC unroll 2
  for (int r = 0; r < kPackedRows; ++r) {
    if (r >= target.rows) break;
    U* pixel = target.first + r * target.row;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p, pixel += target.pixel) {
      if (p >= target.pixels) break;
      store_masked(pixel, tile.block.sums[r][p], mask);
    }
  }
}
