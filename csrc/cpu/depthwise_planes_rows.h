// How rows of a depthwise convolution share source rows.
//
// The taps of a class are evenly spaced, E source rows apart, and its positions s source rows. With
// g = gcd(s, E), positions D = E / g apart form a set in which everything is a multiple of E: its
// j-th position reads, through its k-th tap, source row  source_first + (j * S + k) * E,  S = s /
// g. So one source row q = j * S + k serves every pair (j, k) with that sum, whatever the dilation,
// and the input gradient is no case of its own.

struct RowSet {
  std::int64_t filled_first, filled_step, count;
  std::int64_t source_first;
};

class RowPattern {
 public:
  explicit RowPattern(const AxisClass& axis) : axis_(axis), taps(axis.taps.count) {
    if (taps > 0) first_tap_ = axis.taps[0];
    spacing = axis.source_step;
    if (taps > 1) {
      const std::int64_t distance = axis.taps[1].offset - axis.taps[0].offset;
      if (distance < 0) first_tap_ = axis.taps[taps - 1];
      spacing = distance < 0 ? -distance : distance;
      const std::int64_t kernel_distance = axis.taps[1].kernel - axis.taps[0].kernel;
      kernel_step = distance < 0 ? -kernel_distance : kernel_distance;
    }
    const std::int64_t divisor = greatest_common_divisor(spacing, axis.source_step);
    stride = axis.source_step / divisor;
    sets = spacing / divisor;
    if (sets > axis.count) sets = axis.count;
    set_step_ = spacing / divisor;
  }

  RowSet set(std::int64_t i) const {
    return {axis_.first + i * axis_.step, set_step_ * axis_.step,
            ceil_divide(axis_.count - i, set_step_), i * axis_.source_step + first_tap_.offset};
  }
  // Index along w of the tap that reads the first source row; the next is kernel_step further.
  std::int64_t first_kernel() const { return first_tap_.kernel; }

 private:
  const AxisClass& axis_;
  Tap first_tap_{};
  std::int64_t set_step_;

 public:
  const std::int64_t taps;
  std::int64_t spacing;  // E
  std::int64_t stride;   // S
  std::int64_t sets;     // D, at most as many as there are positions
  std::int64_t kernel_step = 0;
};

// Bit q tells whether source row first + q * step exists, for q in [0, count).
inline unsigned rows_inside(std::int64_t first, std::int64_t step, std::int64_t size,
                            std::int64_t count) {
  std::int64_t begin = 0, end = count;
  while (begin < end && first + begin * step < 0) ++begin;
  while (begin < end && first + (end - 1) * step >= size) --end;
  return (1u << end) - (1u << begin);
}

// A length cut into as few parts of at most `largest` as possible, whose sizes differ by at most
// one; the larger come first. Divides once: a division takes as long as a small tile.
struct EvenParts {
  std::int64_t count, smaller, larger_count;

  EvenParts(std::int64_t length, std::int64_t largest)
      : count(ceil_divide(length, largest)),
        smaller(count == 0 ? 0 : length / count),
        larger_count(length - smaller * count) {}
  std::int64_t size(std::int64_t part) const { return smaller + (part < larger_count ? 1 : 0); }
  std::int64_t first(std::int64_t part) const {
    return part * smaller + (part < larger_count ? part : larger_count);
  }
};
