// The register tile of the packed depthwise kernel: R rows by P pixels by one vector of channels.
//
//     sums[r][p] += sum over taps of weights[q - r][t] * source[q][p + t]
//
// A line q of the packed source serves all rows, through the tap rows q, q - 1, ..., and a pixel
// stays in its register for P taps: R P multiply-adds for R + 1 loads, all of them aligned. 3 x 7
// sums, 7 pixels and 3 weights use 31 of 32 registers. With 16, pixels are loaded for every tap.

constexpr int kPackedRows = kVectorBytes == 64 ? 3 : 2;

// What the taps of a tile read. Steps are in elements.
template <class C>
struct PackedTaps {
  const C* source;            // that pixel 0 reads through tap 0 of line 0
  std::int64_t line;          // to the next line
  std::int64_t step;          // from a tap of a line to the next
  const C* weights;           // of the first tap, from where [tap row][tap][lane] follow
  std::int64_t rows;          // of taps
  std::int64_t columns;       // taps of a row
  std::int64_t begin, end;    // the lines that exist, of those that all rows of pixels reach
  std::int64_t first, count;  // the taps through which a pixel of the tile sees a column inside
};

// One line for rows [First, Last) of the tile.
template <int First, int Last, class C, int P>
HANDCONV_INLINE void add_packed_line(Tile<C, kPackedRows, P>& tile, const PackedTaps<C>& taps,
                                     std::int64_t q) {
  constexpr int L = kLanes<C>;
  const std::int64_t weight_row = taps.columns * L;
  const C* pixels = taps.source + q * taps.line + taps.first * taps.step;
  const C* weights = taps.weights + (q - First) * weight_row + taps.first * L;
  for (std::int64_t t = 0; t < taps.count; ++t, pixels += taps.step, weights += L) {
    Vector<C> weight[kPackedRows];
#pragma GCC unroll 4
    for (int r = First; r < Last; ++r) weight[r] = load(weights - (r - First) * weight_row);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const Vector<C> pixel = in_register(load(pixels + p * L));
#pragma GCC unroll 4
      for (int r = First; r < Last; ++r) {
        tile.sums[r][p] = fma(pixel, weight[r], tile.sums[r][p]);
      }
    }
  }
}

// The same for the first R rows and neighbouring taps, where pixel p moves on to register p - 1.
template <int R, class C, int P>
HANDCONV_INLINE void add_packed_ring(Tile<C, kPackedRows, P>& tile, const PackedTaps<C>& taps,
                                     std::int64_t q) {
  constexpr int L = kLanes<C>;
  const std::int64_t weight_row = taps.columns * L;
  const C* pixels = taps.source + q * taps.line + taps.first * L;
  const C* weights = taps.weights + q * weight_row + taps.first * L;
  Vector<C> ring[P];
#pragma GCC unroll 8
  for (int p = 0; p < P - 1; ++p) ring[p] = load(pixels + p * L);
  pixels += (P - 1) * L;
  const C* end = weights + taps.count * L;
  while (weights < end) {
#pragma GCC unroll 8
    for (int t = 0; t < P; ++t, pixels += L, weights += L) {
      if (weights == end) break;
      ring[(t + P - 1) % P] = load(pixels);
      Vector<C> weight[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) weight[r] = load(weights - r * weight_row);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          tile.sums[r][p] = fma(ring[(t + p) % P], weight[r], tile.sums[r][p]);
        }
      }
    }
  }
}

// Rows [first, last), of which there is at least one.
template <class C, int P>
HANDCONV_INLINE void add_packed_rows(Tile<C, kPackedRows, P>& tile, const PackedTaps<C>& taps,
                                     std::int64_t q, std::int64_t first, std::int64_t last) {
  if constexpr (kPackedRows == 3) {
    if (last == 3) {
      if (first == 0) return add_packed_line<0, 3>(tile, taps, q);
      if (first == 1) return add_packed_line<1, 3>(tile, taps, q);
      return add_packed_line<2, 3>(tile, taps, q);
    }
  }
  if (last == 1) return add_packed_line<0, 1>(tile, taps, q);
  if (first == 0) return add_packed_line<0, 2>(tile, taps, q);
  add_packed_line<1, 2>(tile, taps, q);
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
#pragma GCC unroll 4
  for (int r = 0; r < kPackedRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) tile.block.sums[r][p] = start;
  }
  const bool rings = taps.step == kLanes<C> && target.rows > 1;
  for (std::int64_t q = taps.begin; q < taps.end; ++q) {
    // Row r has taps for lines [r, r + taps.rows).
    const std::int64_t first = larger(q - taps.rows + 1, 0), last = smaller(q + 1, target.rows);
    if (kVectorBytes == 64 && rings && first == 0 && last == target.rows) {
      if constexpr (kVectorBytes == 64) {
        last == 3 ? add_packed_ring<3>(tile.block, taps, q)
                  : add_packed_ring<2>(tile.block, taps, q);
      }
    } else {
      add_packed_rows(tile.block, taps, q, first, last);
    }
    tile.note_terms(taps.count);
  }
  tile.finish();
#pragma GCC unroll 4
  for (int r = 0; r < kPackedRows; ++r) {
    if (r >= target.rows) break;
    U* pixel = target.first + r * target.row;
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p, pixel += target.pixel) {
      if (p >= target.pixels) break;
      store_masked(pixel, tile.block.sums[r][p], mask);
    }
  }
}
