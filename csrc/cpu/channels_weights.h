// The weight of direct.channels: w[group][panel][class][chunk][tap][source channel][lane], taps in
// the order of their offsets, whatever the memory order of w.

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
    const Span<AxisClass> all_columns = gather_.columns.classes();
    const AxisClass& last = all_columns[all_columns.count - 1];
    const std::int64_t column_taps = last.taps.first + last.taps.count - all_columns[0].taps.first;
    const std::int64_t taps_before =
        (rows.taps.first - gather_.rows.classes()[0].taps.first) * column_taps +
        rows.taps.count * (columns.taps.first - all_columns[0].taps.first);
    const std::int64_t terms_before =
        taps_before * plan_.sources + rows.taps.count * columns.taps.count * chunk * plan_.chunk;
    return ((group * plan_.panels + panel) * gather_.kernel_area() * plan_.sources + terms_before) *
           kLanesOfPanel;
  }

  void pack(C* packed) const {
    const std::int64_t chunks = plan_.chunks;
    parallel_for(gather_.groups * plan_.panels * chunks,
                 2 * gather_.kernel_area() * plan_.chunk * kLanesOfPanel,
                 [&](std::int64_t item, int) {
                   pack_panel(item / chunks / plan_.panels, item / chunks % plan_.panels,
                              item % chunks, packed);
                 });
  }

 private:
  static constexpr std::int64_t L = kLanes<C>, kLanesOfPanel = kPanelLanes<C>;

  // One chunk of source channels for a panel.
  void pack_panel(std::int64_t group, std::int64_t panel, std::int64_t chunk, C* packed) const {
    const std::int64_t filled = panel * kLanesOfPanel, size = plan_.chunk_size(chunk);
    const T* w = static_cast<const T*>(gather_.w) + group * gather_.w_group +
                 filled * gather_.w_filled + chunk * plan_.chunk * gather_.w_source;
    const std::int64_t lanes = smaller(kLanesOfPanel, gather_.filled_channels - filled);
    const auto target = [&](const AxisClass& rows, const AxisClass& columns) {
      return packed + first(group, panel, rows, columns, chunk);
    };
    if (gather_.w_filled != 1 && gather_.w_source != 1) {
      return pack_windows(w, lanes, size, target);
    }
    for_classes([&](const AxisClass& rows, const AxisClass& columns) {
      C* to = target(rows, columns);
      for_taps(rows, columns, [&](std::int64_t kh, std::int64_t kw) {
        pack_tap(w + kh * gather_.w_row + kw * gather_.w_column, lanes, size, to);
        to += size * kLanesOfPanel;
      });
    });
  }

  template <class Visit>
  void for_classes(const Visit& visit) const {
    for (const AxisClass& rows : gather_.rows.classes()) {
      for (const AxisClass& columns : gather_.columns.classes()) visit(rows, columns);
    }
  }
  template <class Visit>
  static void for_taps(const AxisClass& rows, const AxisClass& columns, const Visit& visit) {
    for (std::int64_t row = 0; row < rows.taps.count; ++row) {
      const std::int64_t kh = tap_in_order(rows.taps, row).kernel;
      for (std::int64_t column = 0; column < columns.taps.count; ++column)
        visit(kh, tap_in_order(columns.taps, column).kernel);
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

  // All taps where neither does: windows of neighbouring lanes are transposed, and the taps of each
  // class picked from them.
  template <class Target>
  void pack_windows(const T* w, std::int64_t lanes, std::int64_t sources,
                    const Target& target) const {
    constexpr std::int64_t kMost = 128;
    const std::int64_t width = gather_.columns.kernel_size, taps = gather_.kernel_area();
    const bool adjoin = gather_.w_column == 1 && gather_.w_row == width && taps <= kMost;
    alignas(64) C windows[(kMost + L) * L];
    for (std::int64_t lane = 0; lane < lanes; lane += L) {
      const auto mask = mask_between<C>(0, lanes - lane);
      for (std::int64_t s = 0; s < sources; ++s) {
        const T* from = w + lane * gather_.w_filled + s * gather_.w_source;
        for (std::int64_t tap = 0; adjoin && tap < taps; tap += L) {
          Vector<C> square[L];
          load_square(from + tap, lanes - lane, taps - tap, square);
#pragma GCC unroll 16
          for (std::int64_t i = 0; i < L; ++i) store(windows + (tap + i) * L, square[i]);
        }
        for_classes([&](const AxisClass& rows, const AxisClass& columns) {
          C* to = target(rows, columns) + s * kLanesOfPanel + lane;
          for_taps(rows, columns, [&](std::int64_t kh, std::int64_t kw) {
            store(to, adjoin ? load(windows + (kh * width + kw) * L)
                             : load_strided(from + kh * gather_.w_row + kw * gather_.w_column,
                                            gather_.w_filled, mask));
            to += sources * kLanesOfPanel;
          });
        });
      }
    }
  }

  // square[k][lane]
  HANDCONV_INLINE void load_square(const T* w, std::int64_t lanes, std::int64_t elements,
                                   Vector<C> (&square)[L]) const {
    const auto mask = mask_between<C>(0, elements);
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < L; ++i)
      square[i] = i < lanes ? load_masked(w + i * gather_.w_filled, mask) : Vector<C>{};
    transpose<C>(square);
  }

  const Gather& gather_;
  const Plan& plan_;
};
