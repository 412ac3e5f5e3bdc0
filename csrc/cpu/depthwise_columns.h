// How the depthwise kernels walk along a row: columns of every stride and dilation become tiles of
// pixels in which pixel p reads, through tap k, column p + k of one evenly spaced list. Every
// column is then loaded once for all taps of a tile.
//
// Through the taps t = 0, 1, ..., which lie D apart, position i of a class reads the source column
// i s + first + t D. With g = gcd(s, D), the pixels of a tile are positions `spread` = D / g apart,
// which puts their columns `unit` = s D / g apart; and so are the taps t, t + s / g, t + 2 s / g...

// Evenly spaced taps of one row of the kernel, which share their loads.
struct TapRun {
  std::int64_t column;               // that the first tap reads from position 0 of the class
  std::int64_t kernel, kernel_step;  // of the first tap, and from one to the next
  std::int64_t taps;
};

// One class of columns (taps.h) in these terms.
struct ColumnPlan {
  std::int64_t first, step, count;  // positions that are filled
  std::int64_t source_step, source_size;
  std::int64_t spread, unit;
  std::int64_t taps;
  Span<TapRun> runs;

  // Positions of residue `residue` modulo spread.
  std::int64_t residue_count(std::int64_t residue) const {
    return ceil_divide(count - residue, spread);
  }
};

// How many positions lie between pixels whose taps read the same columns: D / g.
inline std::int64_t columns_apart(const AxisClass& axis) {
  if (axis.taps.count < 2) return 1;
  const std::int64_t distance = axis.taps[1].offset - axis.taps[0].offset;
  const std::int64_t magnitude = distance < 0 ? -distance : distance;
  return magnitude / greatest_common_divisor(axis.source_step, magnitude);
}

// Writes runs of at most `largest` taps, at most as many as there are taps, to `runs`. Runs of one
// tap share nothing, and leave pixels as they lie: spread is 1.
inline ColumnPlan plan_columns(const AxisClass& axis, std::int64_t source_size,
                               std::int64_t largest, TapRun* runs) {
  const std::int64_t n = axis.taps.count, s = axis.source_step;
  ColumnPlan plan{axis.first, axis.step, axis.count, s, source_size, 1, s, n, {runs, 0}};
  const bool descends = n > 1 && axis.taps[1].offset < axis.taps[0].offset;
  const auto tap = [&](std::int64_t t) { return axis.taps[descends ? n - 1 - t : t]; };
  std::int64_t tap_step = 1;
  if (n > 1 && largest > 1) {
    plan.spread = columns_apart(axis);
    plan.unit = s * plan.spread;
    tap_step = plan.unit / (tap(1).offset - tap(0).offset);
  }
  for (std::int64_t first = 0; first < tap_step && first < n; ++first) {
    const std::int64_t count = ceil_divide(n - first, tap_step);
    const std::int64_t parts = ceil_divide(count, largest);
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t begin = count * part / parts, end = count * (part + 1) / parts;
      const Tap start = tap(first + begin * tap_step);
      const std::int64_t kernel_step =
          end - begin > 1 ? tap(first + (begin + 1) * tap_step).kernel - start.kernel : 0;
      runs[plan.runs.count++] = {start.offset, start.kernel, kernel_step, end - begin};
    }
  }
  return plan;
}

// Bit j tells whether column first + j unit lies inside the source.
inline std::uint32_t columns_inside(std::int64_t first, std::int64_t unit, std::int64_t source_size,
                                    std::int64_t count) {
  if (first >= 0 && first + (count - 1) * unit < source_size) return (1u << count) - 1;
  std::uint32_t inside = 0;
  for (std::int64_t j = 0; j < count; ++j, first += unit) {
    const bool is_inside =
        static_cast<std::uint64_t>(first) < static_cast<std::uint64_t>(source_size);
    inside |= static_cast<std::uint32_t>(is_inside) << j;
  }
  return inside;
}

// How a vector of channels is loaded from a pixel.
template <class T>
struct FullLanes {
  Vector<Compute<T>> operator()(const T* p) const { return load(p); }
};
// The last vector reaches past the channels that exist.
template <class T>
struct TailLanes {
  Mask<Compute<T>> mask;
  Vector<Compute<T>> operator()(const T* p) const { return load_masked(p, mask); }
};
// Several lanes in turn may read the same channel of x: a group has several output channels.
template <class T>
struct RepeatedLanes {
  Mask<Compute<T>> mask;  // of the channels that are read
  const LaneIndex<Compute<T>>* index;
  Vector<Compute<T>> operator()(const T* p) const { return permute(load_masked(p, mask), index); }
};

// One vector of lanes, each an output channel; `multiplier` of them read one channel of x.
template <class T>
struct LaneVector {
  using C = Compute<T>;
  std::int64_t first, lanes;  // output channels
  std::int64_t multiplier;
  Mask<C> mask, x_mask;
  LaneIndex<C> index[kLanes<C>];  // which channel of x, from x_first() on, a lane reads

  LaneVector(std::int64_t first, std::int64_t out_channels, std::int64_t multiplier)
      : first(first),
        lanes(out_channels - first < kLanes<C> ? out_channels - first : kLanes<C>),
        multiplier(multiplier),
        mask(mask_between<C>(0, lanes)),
        x_mask(mask) {
    if (is_full() && multiplier == 1) return;
    x_mask = mask_between<C>(0, (first + lanes - 1) / multiplier - x_first() + 1);
    for (std::int64_t lane = 0; lane < kLanes<C>; ++lane) {
      index[lane] =
          static_cast<LaneIndex<C>>(lane < lanes ? (first + lane) / multiplier - x_first() : 0);
    }
  }
  bool is_full() const { return lanes == kLanes<C>; }
  std::int64_t x_first() const { return first / multiplier; }
};
