// The blocks of rows of y that weight gradients sum over: every sum over pixels is made of partial
// sums over blocks whose extent follows from the shape alone, and the partial sums are added in
// order: so the result depends neither on threads nor on timing, and rounding grows with the number
// of blocks rather than of pixels.

// Rows of y whose pixels make one partial sum: enough of them to amortise adding a tile to the
// totals.
inline std::int64_t rows_per_partial_sum(const Axis& width) {
  constexpr std::int64_t kPixels = 96;
  return (kPixels + width.output - 1) / width.output;
}

// visit(first, last) for the blocks of rows of y, cut to those in `inside`.
template <class Visit>
inline void for_row_blocks(const Geometry& geometry, const Range& inside, const Visit& visit) {
  const std::int64_t block = rows_per_partial_sum(geometry.width);
  for (std::int64_t first = inside.first; first < inside.last; first += block) {
    visit(first, first + block < inside.last ? first + block : inside.last);
  }
}
