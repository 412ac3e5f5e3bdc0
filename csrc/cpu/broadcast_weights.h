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

// Where the weights of a tap lie, in vectors of a block: the source channel s at first + s * step.
struct TapPlace {
  std::int64_t first, step;  // step 0: no position reads through the tap
};

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
    const std::int64_t area = gather_.kernel_area(), sources = gather_.source_channels;
    const bool taps_adjoin = gather_.w_column == 1 && gather_.w_row == gather_.columns.kernel_size;
    const bool sources_adjoin = gather_.w_source == 1 && gather_.w_column == sources &&
                                gather_.w_row == sources * gather_.columns.kernel_size;
    if (gather_.w_filled != 1 && taps_adjoin && gather_.w_source == area) {
      std::int64_t tap = 0, s = 0;
      for_squares(w, exist, sources * area, [&](Vector<C> lanes) {
        write(tap, s, lanes, vectors, to);
        if (++tap == area) {
          tap = 0;
          ++s;
        }
      });
    } else if (gather_.w_filled != 1 && sources_adjoin) {
      std::int64_t tap = 0, s = 0;
      for_squares(w, exist, sources * area, [&](Vector<C> lanes) {
        write(tap, s, lanes, vectors, to);
        if (++s == sources) {
          s = 0;
          ++tap;
        }
      });
    } else if (gather_.w_filled != 1 && taps_adjoin) {
      for (std::int64_t s = 0; s < sources; ++s) {
        std::int64_t tap = 0;
        for_squares(w + s * gather_.w_source, exist, area,
                    [&](Vector<C> lanes) { write(tap++, s, lanes, vectors, to); });
      }
    } else {
      const auto mask = mask_between<C>(0, exist);
      // Some source channels at a time: their lines of w serve all taps from the cache.
      constexpr std::int64_t kSources = 16;
      for (std::int64_t first = 0; first < sources; first += kSources) {
        for (std::int64_t tap = 0; tap < area; ++tap) {
          const T* from = w + tap_offset(tap);
          for (std::int64_t s = first; s < smaller(first + kSources, sources); ++s) {
            write(tap, s, load_strided(from + s * gather_.w_source, gather_.w_filled, mask),
                  vectors, to);
          }
        }
      }
    }
  }

  std::int64_t tap_offset(std::int64_t tap) const {
    const std::int64_t width = gather_.columns.kernel_size;
    return tap / width * gather_.w_row + tap % width * gather_.w_column;
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

  HANDCONV_INLINE void write(std::int64_t tap, std::int64_t s, Vector<C> lanes,
                             std::int64_t vectors, C* to) const {
    const TapPlace& place = places_[tap];
    if (place.step) store(to + (place.first + s * place.step) * vectors * L, lanes);
  }

  const Gather& gather_;
  const TapPlace* places_;
};
