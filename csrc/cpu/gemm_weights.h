// The weight operand of direct.gemm: filled channels by terms of the sum, in the order that the
// image operand has.

// Whether w is its own packed operand where filled channels are rows: a row of source channels for
// each of them, seen through one tap.
template <class T>
inline bool weight_rows_in_place(const Gather& gather) {
  if (!std::is_same_v<T, Compute<T>> || gather.kernel_area() != 1) return false;
  return gather.w_source == 1 && !rows_collide<T>(gather.w_filled);
}

// A filled channel of a group and its source channel and tap in w.
template <class T>
class GemmWeight {
 public:
  using C = Compute<T>;

  GemmWeight(const Gather& gather, const GemmClass& part, std::int64_t group)
      : gather_(gather),
        part_(part),
        w_(static_cast<const T*>(gather.w) + group * gather.w_group) {}

  // packed[panel][k - block.first][lane], k = (tap, source channel), lanes being the filled
  // channels [first, first + count).
  void pack_lanes(std::int64_t first, std::int64_t count, const DepthBlock& block,
                  C* packed) const {
    for (std::int64_t lane = 0; lane < count; lane += kPanelLanes<C>) {
      C* panel = packed + lane * part_.block;
      const std::int64_t rest = count - lane;
      pack_panel(first + lane, rest < kPanelLanes<C> ? rest : kPanelLanes<C>, block, panel);
    }
  }

  // packed[row][k - block.first], k = (source channel, tap), rows being the filled channels
  // [first, first + count).
  void pack_rows(std::int64_t first, std::int64_t count, const DepthBlock& block,
                 std::int64_t pitch, C* packed) const {
    const T* w = w_ + first * gather_.w_filled;
    const std::int64_t taps = part_.taps;
    if (taps == 0) return;
    const std::int64_t s_first = block.first / taps, sources = block.size() / taps;
    w += s_first * gather_.w_source;
    if (taps == 1 && gather_.w_filled == 1) {
      return transpose_matrix(w + tap_offset(0), gather_.w_source, sources, count, packed, pitch);
    }
    const bool together = taps_are_together();
    if (together && gather_.w_source == taps) {
      for (std::int64_t r = 0; r < count; ++r)
        copy(w + r * gather_.w_filled, gather_.w_filled, block.size(), packed + r * pitch);
    } else if (together && taps <= kLanes<C>) {
      copy_taps(w, count, sources, pitch, packed);
    } else {
      for (std::int64_t r = 0; r < count; ++r)
        pick(w + r * gather_.w_filled, sources, packed + r * pitch);
    }
  }

 private:
  std::int64_t tap_offset(std::int64_t tap) const {
    const std::int64_t columns = part_.columns->taps.count;
    return part_.rows->taps[tap / columns].kernel * gather_.w_row +
           part_.columns->taps[tap % columns].kernel * gather_.w_column;
  }
  // Whether all taps of the class lie in w one after the other.
  bool taps_are_together() const {
    for (std::int64_t tap = 0; tap < part_.taps; ++tap)
      if (tap_offset(tap) != tap) return false;
    return true;
  }

  // Rows too short for the processor to foresee the next one.
  static void copy(const T* from, std::int64_t row_step, std::int64_t count, C* to) {
    std::int64_t k = 0;
    if constexpr (kVectorBytes < 64) {
      for (; k + kLanes<C> <= count; k += kLanes<C>) {
        __builtin_prefetch(from + 2 * row_step + k);
        store(to + k, load(from + k));
      }
    }
    for (; k < count; k += kLanes<C>) {
      const auto mask = mask_between<C>(0, count - k);
      store_masked(to + k, load_masked(from + k, mask), mask);
    }
  }
  void copy_taps(const T* w, std::int64_t count, std::int64_t sources, std::int64_t pitch,
                 C* packed) const {
    const auto mask = mask_between<C>(0, part_.taps);
    for (std::int64_t s = 0; s < sources; ++s, w += gather_.w_source, packed += part_.taps) {
      for (std::int64_t r = 0; r < count; ++r)
        store_masked(packed + r * pitch, load_masked(w + r * gather_.w_filled, mask), mask);
    }
  }
  void pick(const T* w, std::int64_t sources, C* row) const {
    for (std::int64_t tap = 0; tap < part_.taps; ++tap) {
      const T* from = w + tap_offset(tap);
      for (std::int64_t s = 0; s < sources; ++s)
        row[s * part_.taps + tap] = to_compute(from[s * gather_.w_source]);
    }
  }

  void pack_panel(std::int64_t channel, std::int64_t count, const DepthBlock& block,
                  C* panel) const {
    const T* w = w_ + channel * gather_.w_filled;
    const std::int64_t sources = gather_.source_channels;
    for (std::int64_t k = block.first; k < block.last;) {
      const std::int64_t tap = k / sources, s = k % sources;
      const std::int64_t rest = block.last - k, run = sources - s < rest ? sources - s : rest;
      pack_tap(w + tap_offset(tap) + s * gather_.w_source, count, run,
               panel + (k - block.first) * kPanelLanes<C>);
      k += run;
    }
  }

  // `count` filled channels by `sources` source channels of one tap.
  void pack_tap(const T* w, std::int64_t count, std::int64_t sources, C* panel) const {
    for (std::int64_t lane = 0; lane < count; lane += kLanes<C>) {
      const std::int64_t lanes = count - lane < kLanes<C> ? count - lane : kLanes<C>;
      const T* from = w + lane * gather_.w_filled;
      C* to = panel + lane;
      if (gather_.w_filled == 1) {
        const auto mask = mask_between<C>(0, lanes);
        for (std::int64_t s = 0; s < sources; ++s)
          store(to + s * kPanelLanes<C>, load_masked(from + s * gather_.w_source, mask));
      } else if (gather_.w_source == 1) {
        transpose_sources(from, lanes, sources, to);
      } else {
        for (std::int64_t s = 0; s < sources; ++s) {
          for (std::int64_t i = 0; i < kLanes<C>; ++i) {
            const bool exists = i < lanes;
            to[s * kPanelLanes<C> + i] =
                exists ? to_compute(from[i * gather_.w_filled + s * gather_.w_source]) : C(0);
          }
        }
      }
    }
  }

  // Lanes without a channel are written too, with zeros: what lay there might be slow to multiply.
  void transpose_sources(const T* from, std::int64_t lanes, std::int64_t sources, C* to) const {
    constexpr std::int64_t L = kLanes<C>;
    for (std::int64_t s = 0; s < sources; s += L) {
      if constexpr (kVectorBytes < 64) {
        if (lanes == L && s + L <= sources) {
          transpose_whole_square(from + s, gather_.w_filled, to + s * kPanelLanes<C>,
                                 kPanelLanes<C>);
          continue;
        }
      }
      const auto mask = mask_between<C>(0, sources - s);
      Vector<C> square[L];
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < L; ++i) {
        square[i] = i < lanes ? load_masked(from + i * gather_.w_filled + s, mask) : Vector<C>{};
      }
      transpose<C>(square);
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < L; ++i) {
        if (s + i < sources) store(to + (s + i) * kPanelLanes<C>, square[i]);
      }
    }
  }

  const Gather& gather_;
  const GemmClass& part_;
  const T* w_;
};
