// The weight of direct.grouped, packed for its tiles: lanes are the filled channels of as many
// groups as a vector holds, interleaved: Q groups of G channels, lane i * Q + q the i-th of the
// q-th group.
//
//     [block of groups][class][run of taps][row of the kernel][source channel][tap of the
//     run][lane]

template <class T>
class GroupedWeightPacker {
 public:
  using C = Compute<T>;
  static constexpr std::int64_t L = kLanes<C>;

  // Of groups from `first` on, of which `count` exist.
  GroupedWeightPacker(const Gather& gather, const TapPlace* places, std::int64_t first,
                      std::int64_t count)
      : gather_(gather),
        places_(places),
        size_(gather.filled_channels),
        held_(L / size_),
        count_(smaller(count, held_)),
        w_(static_cast<const T*>(gather.w) + first * gather.w_group) {}

  void pack(const LaneIndex<C>* interleaved, C* to) const {
    const auto squares =
        [&](std::int64_t offset, std::int64_t count, const auto& visit)
            __attribute__((always_inline)) { for_squares(w_ + offset, count, visit); };
    const auto write = [&](std::int64_t tap, std::int64_t s, Vector<C> lanes)
                           __attribute__((always_inline)) {
                             const TapPlace& place = places_[tap];
                             if (place.step) store(to + (place.first + s * place.step) * L, lanes);
                           };
    if (write_adjacent(gather_, squares, write)) return;
    for (std::int64_t tap = 0; tap < gather_.kernel_area(); ++tap) {
      const T* from = w_ + tap_offset(gather_, tap);
      for (std::int64_t s = 0; s < size_; ++s, from += gather_.w_source)
        write(tap, s, permute(load_groups(from), interleaved));
    }
  }

 private:
  // visit(lanes) for `count` elements of each lane, adjacent in memory from w on.
  template <class Visit>
  HANDCONV_INLINE void for_squares(const T* w, std::int64_t count, const Visit& visit) const {
    for (std::int64_t first = 0; first < count; first += L) {
      const auto mask = mask_between<C>(0, count - first);
      Vector<C> square[L];
      for (std::int64_t lane = 0; lane < L; ++lane) {
        const std::int64_t q = lane % held_;
        const T* from = w + q * gather_.w_group + lane / held_ * gather_.w_filled + first;
        square[lane] = q < count_ ? load_masked(from, mask) : Vector<C>{};
      }
      transpose<C>(square);
      for (std::int64_t i = 0; i < L && first + i < count; ++i) visit(square[i]);
    }
  }

  // One element of each filled channel, group after group.
  Vector<C> load_groups(const T* from) const {
    Vector<C> all{};
    for (std::int64_t q = 0; q < count_; ++q) {
      all += load_strided(from + q * gather_.w_group - q * size_ * gather_.w_filled,
                          gather_.w_filled, mask_between<C>(q * size_, (q + 1) * size_));
    }
    return all;
  }

  const Gather& gather_;
  const TapPlace* places_;
  const std::int64_t size_, held_, count_;  // channels of a group; groups of a vector, that exist
  const T* w_;
};
