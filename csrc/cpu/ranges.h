// Arithmetic on ranges of positions, items and channels.

inline Range intersection(const Range& a, const Range& b) {
  const std::int64_t first = larger(a.first, b.first), last = smaller(a.last, b.last);
  return {first, larger(first, last)};
}

// Items [0, count) cut into `parts` whose sizes differ by one at most.
struct EvenSplit {
  std::int64_t count, parts;
  std::int64_t first(std::int64_t part) const { return count * part / parts; }
  std::int64_t size(std::int64_t part) const { return first(part + 1) - first(part); }
  std::int64_t largest() const { return ceil_divide(count, parts); }
};

// Part `index` of `parts` of [first, last), as even as can be.
inline Range part_of(const Range& whole, std::int64_t parts, std::int64_t index) {
  const EvenSplit split{whole.last - whole.first, parts};
  return {whole.first + split.first(index), whole.first + split.first(index + 1)};
}

// How channels are cut into tiles of at most `largest`: `count` of them, the first `extra` one row
// larger than the others.
struct RowTiles {
  std::int64_t channels, count, size, extra;

  // Tiles of even sizes keep enough sums in flight in each; tiles that are taken in twos are better
  // full.
  RowTiles(std::int64_t rows, std::int64_t largest, bool even)
      : channels(rows), count(ceil_divide(rows, largest)) {
    size = even ? rows / count : largest;
    extra = even ? rows % count : 0;
  }
  std::int64_t first(std::int64_t tile) const {
    return tile * size + (tile < extra ? tile : extra);
  }
  std::int64_t rows(std::int64_t tile) const {
    return tile + 1 < count ? first(tile + 1) - first(tile) : channels - first(tile);
  }
};
