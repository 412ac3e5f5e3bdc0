// The weight of direct.channels: w[group][panel][chunk][class][tap][source channel][lane], taps in
// the order of their offsets (row by row, or column by column where they do not adjoin and
// kSumsColumns says so), whatever the memory order of w.

template <class T>
class ChannelsWeights {
 public:
  using C = Compute<T>;
  using Plan = ChannelsPlan<C>;

  ChannelsWeights(const Gather& gather, const Plan& plan) : gather_(gather), plan_(plan) {}

  std::int64_t elements() const {
    return gather_.groups * plan_.panels * gather_.kernel_area() * plan_.sources * kLanesOfPanel;
  }

  // Where the weights of a chunk for a class begin.
  std::int64_t first(std::int64_t group, std::int64_t panel, const AxisClass& rows,
                     const AxisClass& columns, std::int64_t chunk) const {
    const std::int64_t sources_before =
        (group * plan_.panels + panel) * plan_.sources + chunk * plan_.chunk;
    return sources_before * gather_.kernel_area() * kLanesOfPanel +
           first_of_chunk(rows, columns, chunk);
  }
  // Counted from the beginning of the chunk of a panel.
  std::int64_t first_of_chunk(const AxisClass& rows, const AxisClass& columns,
                              std::int64_t chunk) const {
    const Span<AxisClass> all_columns = gather_.columns.classes();
    const AxisClass& last = all_columns[all_columns.count - 1];
    const std::int64_t column_taps = last.taps.first + last.taps.count - all_columns[0].taps.first;
    const std::int64_t taps_before =
        (rows.taps.first - gather_.rows.classes()[0].taps.first) * column_taps +
        rows.taps.count * (columns.taps.first - all_columns[0].taps.first);
    return taps_before * plan_.chunk_size(chunk) * kLanesOfPanel;
  }

  // All of them. Taps that see nothing but padding everywhere are left out where `skips`.
  void pack(C* packed, bool skips) const {
    const std::int64_t chunks = plan_.chunks;
    parallel_for(gather_.groups * plan_.panels * chunks,
                 2 * gather_.kernel_area() * plan_.chunk * kLanesOfPanel,
                 [&](std::int64_t item, int) {
                   const std::int64_t panel = item / chunks, chunk = item % chunks;
                   C* to = packed + (panel * plan_.sources + chunk * plan_.chunk) *
                                        gather_.kernel_area() * kLanesOfPanel;
                   pack_chunk(panel / plan_.panels, panel % plan_.panels, chunk, skips, to);
                 });
  }

  // One chunk of source channels for a panel.
  void pack_chunk(std::int64_t group, std::int64_t panel, std::int64_t chunk, bool skips,
                  C* packed) const {
    const std::int64_t filled = panel * kLanesOfPanel, size = plan_.chunk_size(chunk);
    const T* w = static_cast<const T*>(gather_.w) + group * gather_.w_group +
                 filled * gather_.w_filled + chunk * plan_.chunk * gather_.w_source;
    const std::int64_t lanes = smaller(kLanesOfPanel, gather_.filled_channels - filled);
    C* targets[kMostTaps] = {};  // of each tap; null: it is left out
    const bool adjoin = gather_.w_column == 1 && gather_.w_row == gather_.columns.kernel_size &&
                        gather_.kernel_area() <= kMostTaps;
    if (adjoin && gather_.kernel_area() > 1) {
      for_packed_taps(size, skips, [&](std::int64_t kh, std::int64_t kw, std::int64_t first) {
        targets[kh * gather_.columns.kernel_size + kw] = packed + first;
      });
      if (gather_.w_source == gather_.kernel_area()) {
        return pack_runs(w, lanes, size, targets);
      }
      return gather_.kernel_area() == 9 ? pack_windows<9>(w, lanes, size, targets)
                                        : pack_windows<0>(w, lanes, size, targets);
    }
    for_packed_taps(size, skips, [&](std::int64_t kh, std::int64_t kw, std::int64_t first) {
      pack_tap(w + kh * gather_.w_row + kw * gather_.w_column, lanes, size, packed + first);
    });
  }

 private:
  static constexpr std::int64_t L = kLanes<C>, kLanesOfPanel = kPanelLanes<C>, kMostTaps = 128;

  static bool sees_source(const AxisTaps& axis, const AxisClass& part, const Tap& tap) {
    const Range inside = positions_inside(axis, part, tap.offset);
    return inside.first < inside.last;
  }

  // visit(kh, kw, where the tap begins in a chunk of so many source channels)
  template <class Visit>
  void for_packed_taps(std::int64_t size, bool skips, const Visit& visit) const {
    std::int64_t first = 0;
    for (const AxisClass& rows : gather_.rows.classes()) {
      for (const AxisClass& columns : gather_.columns.classes()) {
        const bool by_columns = Plan::kSumsColumns && !Plan::taps_adjoin(columns);
        const std::int64_t outer_taps = (by_columns ? columns : rows).taps.count;
        const std::int64_t inner_taps = (by_columns ? rows : columns).taps.count;
        for (std::int64_t outer = 0; outer < outer_taps; ++outer) {
          for (std::int64_t inner = 0; inner < inner_taps; ++inner) {
            const Tap& row_tap = tap_in_order(rows.taps, by_columns ? inner : outer);
            const Tap& column_tap = tap_in_order(columns.taps, by_columns ? outer : inner);
            const bool is_read =
                sees_source(gather_.rows, rows, row_tap) &&
                (Plan::taps_adjoin(columns) || sees_source(gather_.columns, columns, column_tap));
            if (is_read || !skips) visit(row_tap.kernel, column_tap.kernel, first);
            first += size * kLanesOfPanel;
          }
        }
      }
    }
  }

  // One tap where lanes or source channels adjoin in w.
  void pack_tap(const T* w, std::int64_t lanes, std::int64_t sources, C* to) const {
    for (std::int64_t lane = 0; lane < lanes; lane += L) {
      const auto mask = mask_between<C>(0, lanes - lane);
      if (gather_.w_filled == 1) {
        for (std::int64_t s = 0; s < sources; ++s)
          store(to + s * kLanesOfPanel + lane, load_masked(w + s * gather_.w_source + lane, mask));
        continue;
      }
      if (gather_.w_source != 1) {
        for (std::int64_t s = 0; s < sources; ++s) {
          store(to + s * kLanesOfPanel + lane,
                load_strided(w + lane * gather_.w_filled + s * gather_.w_source, gather_.w_filled,
                             mask));
        }
        continue;
      }
      for (std::int64_t s = 0; s < sources; s += L) {
        Vector<C> square[L];
        load_square(w + lane * gather_.w_filled + s, lanes - lane, sources - s, square);
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < L; ++i) {
          if (s + i < sources) store(to + (s + i) * kLanesOfPanel + lane, square[i]);
        }
      }
    }
  }

  // Windows of neighbouring source channels adjoin, as those of the convolution do in contiguous
  // weights: runs of elements of them are transposed, whatever window each is of.
  void pack_runs(const T* w, std::int64_t lanes, std::int64_t sources, C* const* targets) const {
    const std::int64_t taps = gather_.kernel_area(), elements = sources * taps;
    for (std::int64_t lane = 0; lane < lanes; lane += L) {
      std::int64_t tap = 0, to = lane;  // of the element that is stored next
      for (std::int64_t first = 0; first < elements; first += L) {
        Vector<C> square[L];
        load_square(w + lane * gather_.w_filled + first, lanes - lane, elements - first, square);
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < L; ++i) {
          if (first + i < elements && targets[tap]) store(targets[tap] + to, square[i]);
          if (++tap == taps) tap = 0, to += kLanesOfPanel;
        }
      }
    }
  }

  // Windows lie anywhere: those of neighbouring lanes are transposed. `kTaps`: how many taps a
  // window has, if the compiler knows; then rows of a square that none needs cost nothing.
  template <std::int64_t kTaps>
  void pack_windows(const T* w, std::int64_t lanes, std::int64_t sources, C* const* targets) const {
    const std::int64_t taps = kTaps ? kTaps : gather_.kernel_area();
    for (std::int64_t lane = 0; lane < lanes; lane += L) {
      for (std::int64_t s = 0; s < sources; ++s) {
        const T* from = w + lane * gather_.w_filled + s * gather_.w_source;
#pragma GCC unroll 2
        for (std::int64_t tap = 0; tap < taps; tap += L) {
          Vector<C> square[L];
          load_square(from + tap, lanes - lane, taps - tap, square);
#pragma GCC unroll 16
          for (std::int64_t i = 0; i < L; ++i) {
            if (tap + i < taps && targets[tap + i])
              store(targets[tap + i] + s * kLanesOfPanel + lane, square[i]);
          }
        }
      }
    }
  }

  // square[k][lane]
  HANDCONV_INLINE void load_square(const T* w, std::int64_t lanes, std::int64_t elements,
                                   Vector<C> (&square)[L]) const {
    const auto mask = mask_between<C>(0, elements);
    if (lanes >= L && elements >= L) {
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < L; ++i) square[i] = load(w + i * gather_.w_filled);
    } else {
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < L; ++i)
        square[i] = i < lanes ? load_masked(w + i * gather_.w_filled, mask) : Vector<C>{};
    }
    transpose<C>(square);
  }

  const Gather& gather_;
  const Plan& plan_;
};
