// What all classes of an axis read of the source: the i-th position of a class, through a tap,
// reads i * step + the tap's offset, which lies in [first, last].
struct AxisReach {
  explicit AxisReach(const AxisTaps& axis) {
    bool any = false;
    for (const AxisClass& positions : axis.classes()) {
      step = positions.source_step;
      count = larger(count, positions.count);
      for (const Tap& tap : positions.taps) {
        first = any ? smaller(first, tap.offset) : tap.offset;
        last = any ? larger(last, tap.offset) : tap.offset;
        any = true;
      }
    }
  }
  std::int64_t elements(std::int64_t positions) const {
    return (positions - 1) * step + last - first + 1;
  }

  std::int64_t step = 1, count = 0;  // positions of the longest class
  std::int64_t first = 0, last = 0;  // offsets of taps
};
