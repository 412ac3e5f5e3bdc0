// Where the totals of a dense weight gradient lie until they are w, and how they are written there.
//
// Totals are rows (the channels of one image, and the taps) by lanes (channels of the other): the
// totals of lane block b and row r begin at
//
//     totals + (b * total_rows + r) * block_lanes.
//
// Lanes that are input channels of a channels_last w are stored as they are, all others are
// transposed on the way.

// The outputs of an item, as channels of its group.
struct WeightPatch {
  std::int64_t group;
  std::int64_t first_lane, lanes;
  std::int64_t first_row, rows;
};

template <class T>
class WeightStore {
 public:
  using C = Compute<T>;

  bool channels_innermost;  // of w, which is contiguous or channels_last
  bool lanes_are_inputs;    // lanes are input channels and rows output channels, or the reverse
  bool taps_outermost;      // of the rows of totals, or their channels
  std::int64_t block_lanes, total_rows;
  // The totals of a patch are the sum of so many partial ones, so far apart.
  std::int64_t partials, partial_step;

  // The row of the totals that a channel and a tap have.
  std::int64_t row_of(const Geometry& g, const WeightPatch& patch, std::int64_t channel,
                      std::int64_t tap) const {
    return taps_outermost ? tap * patch.rows + channel : channel * g.kernel_area() + tap;
  }

  // The element of w that belongs to lane 0 of a patch and to one of its rows, counted in the order
  // of w.
  T* element(const Geometry& g, T* w, const WeightPatch& patch, std::int64_t row) const {
    const std::int64_t in = g.in_channels_per_group(), area = g.kernel_area();
    const std::int64_t oc = lanes_are_inputs ? patch.first_row + row / area : patch.first_lane;
    std::int64_t at = (patch.group * g.out_channels_per_group() + oc) * in * area;
    if (lanes_are_inputs) {
      at += row % area * in + patch.first_lane;
    } else if (channels_innermost) {
      at += row / patch.rows * in + patch.first_row + row % patch.rows;
    } else {
      at += patch.first_row * area + row;
    }
    return w + at;
  }

  // Writes rows of a patch, counted in the order of w: the sum of its partial totals, in order.
  void store_rows(const Geometry& g, T* w, const WeightPatch& patch, const C* totals,
                  const Range& rows) const {
    for (std::int64_t lane = 0; lane < patch.lanes; lane += block_lanes) {
      const std::int64_t lanes = smaller(block_lanes, patch.lanes - lane);
      if (lanes_are_inputs) {
        for (std::int64_t row = rows.first; row < rows.last; ++row) {
          copy_row(totals + row * block_lanes, lanes, element(g, w, patch, row) + lane);
        }
      } else {
        const std::int64_t step = g.in_channels_per_group() * g.kernel_area();
        const std::int64_t run = channels_innermost ? patch.rows : patch.rows * g.kernel_area();
        for (std::int64_t row = rows.first; row < rows.last;) {
          const std::int64_t end = smaller(rows.last, (row / run + 1) * run);
          T* to = element(g, w, patch, row) + lane * step;
          for (std::int64_t count; row < end; row += count, to += count) {
            count = smaller(kLanes<C>, end - row);
            const C* of_rows[kLanes<C>];
            for (std::int64_t i = 0; i < count; ++i) {
              of_rows[i] = totals + total_row(g, patch, row + i) * block_lanes;
            }
            transpose_rows(of_rows, count, lanes, to, step);
          }
        }
      }
      totals += total_rows * block_lanes;
    }
  }

 private:
  std::int64_t total_row(const Geometry& g, const WeightPatch& patch, std::int64_t row) const {
    if (channels_innermost || !taps_outermost) return row;
    return row_of(g, patch, row / g.kernel_area(), row % g.kernel_area());
  }

  void copy_row(const C* totals, std::int64_t lanes, T* to) const {
    for (std::int64_t lane = 0; lane < lanes; lane += kLanes<C>) {
      store_masked(to + lane, sum(totals + lane), mask_between<C>(0, lanes - lane));
    }
  }

  // to[lane * step + r] for at most a vector of rows.
  void transpose_rows(const C* const* totals, std::int64_t rows, std::int64_t lanes, T* to,
                      std::int64_t step) const {
    constexpr std::int64_t kAhead = 192 / sizeof(T);
    const auto mask = mask_between<C>(0, rows);
    for (std::int64_t lane = 0; lane < lanes; lane += kLanes<C>, to += kLanes<C> * step) {
      Vector<C> square[kLanes<C>];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes<C>; ++i) {
        square[i] = i < rows ? sum(totals[i] + lane) : Vector<C>{};
      }
      transpose<C>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes<C>; ++i) {
        if (lane + i < lanes) {
          if constexpr (kVectorBytes < 64) __builtin_prefetch(to + i * step + kAhead, 1);
          store_masked(to + i * step, square[i], mask);
        }
      }
    }
  }

  HANDCONV_INLINE Vector<C> sum(const C* totals) const {
    Vector<C> sum = load(totals);
    for (std::int64_t p = 1; p < partials; ++p) sum += load(totals + p * partial_step);
    return sum;
  }
};
