// The weight of direct.broadcast, packed for its tiles:
//
//     [group][block of V vectors of filled channels][class][run of K taps][source channel][k][lane]
//
// Every weight of a group serves few pixels where planes are small, so that packing counts: squares
// of filled channels by whatever adjoins in memory are transposed in registers.

// How a class reads a row of the kernel: tap by tap, or its taps, if they adjoin, by threes.
inline int broadcast_run(const AxisClass& columns, std::int64_t vectors) {
  const Span<Tap>& taps = columns.taps;
  const bool adjoin = taps.count == 3 && taps[1].offset - taps[0].offset == 1 &&
                      taps[2].offset - taps[1].offset == 1;
  const bool descend = taps.count == 3 && taps[0].offset - taps[1].offset == 1 &&
                       taps[1].offset - taps[2].offset == 1;
  return vectors == 1 && (adjoin || descend) ? 3 : 1;
}

template <class T>
class BroadcastWeightPacker {
 public:
  using C = Compute<T>;
  static constexpr std::int64_t L = kLanes<C>;

  BroadcastWeightPacker(const Gather& gather, const TapPlace* places)
      : gather_(gather), places_(places) {}

  // Of the filled channels [first, first + V * L) of a group; those that do not exist become zero.
  void pack(std::int64_t group, std::int64_t first, std::int64_t vectors, C* to) const {
    const T* w = static_cast<const T*>(gather_.w) + group * gather_.w_group;
    for (std::int64_t v = 0; v < vectors; ++v) {
      const std::int64_t lane = first + v * L;
      pack_vector(w + lane * gather_.w_filled, gather_.filled_channels - lane, vectors, to + v * L);
    }
  }

 private:
  void pack_vector(const T* w, std::int64_t exist, std::int64_t vectors, C* to) const {
    const auto squares =
        [&](std::int64_t offset, std::int64_t count, const auto& visit)
            __attribute__((always_inline)) { for_squares(w + offset, exist, count, visit); };
    const auto write = [&](std::int64_t tap, std::int64_t s, Vector<C> lanes)
                           __attribute__((always_inline)) {
                             const TapPlace& place = places_[tap];
                             if (place.step)
                               store(to + (place.first + s * place.step) * vectors * L, lanes);
                           };
    if (write_adjacent(gather_, squares, write)) return;
    const auto mask = mask_between<C>(0, exist);
    // Some source channels at a time: their lines of w serve all taps from the cache.
    constexpr std::int64_t kSources = 16;
    const std::int64_t sources = gather_.source_channels;
    for (std::int64_t first = 0; first < sources; first += kSources) {
      for (std::int64_t tap = 0; tap < gather_.kernel_area(); ++tap) {
        const T* from = w + tap_offset(gather_, tap);
        for (std::int64_t s = first; s < smaller(first + kSources, sources); ++s)
          write(tap, s, load_strided(from + s * gather_.w_source, gather_.w_filled, mask));
      }
    }
  }

  // visit(lanes) for `count` elements of each lane, adjacent in memory from w on.
  template <class Visit>
  HANDCONV_INLINE void for_squares(const T* w, std::int64_t exist, std::int64_t count,
                                   const Visit& visit) const {
    for (std::int64_t first = 0; first < count; first += L) {
      const auto mask = mask_between<C>(0, count - first);
      Vector<C> square[L];
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < L; ++i) {
        square[i] = i < exist ? load_masked(w + i * gather_.w_filled + first, mask) : Vector<C>{};
      }
      transpose<C>(square);
      for (std::int64_t i = 0; i < L && first + i < count; ++i) visit(square[i]);
    }
  }

  const Gather& gather_;
  const TapPlace* places_;
};
