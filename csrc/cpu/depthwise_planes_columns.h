// The columns of a tile: which source columns its vectors load for each tap, and where its sums go.
// Masks are made once for all rows and planes that have these columns.

// The lanes of a vector whose source column start + lane lies inside.
template <class C>
inline Mask<C> columns_inside(std::int64_t start, std::int64_t size) {
  return mask_between<C>(-start, size - start);
}

// For members named store.
template <class C>
HANDCONV_INLINE void store_vector(C* p, Vector<C> value) {
  store(p, value);
}

// Stores the first `rows` rows of `count` columns, to lines line_step apart.
template <class T, int R, int V>
HANDCONV_INLINE void store_rows(T* line, std::int64_t line_step, int rows,
                                const Vector<Compute<T>> (&sums)[R][V], std::int64_t count) {
  using C = Compute<T>;
  Mask<C> masks[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) masks[v] = mask_between<C>(0, count - v * kLanes<C>);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r, line += line_step) {
    if (r >= rows) break;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store_masked(line + v * kLanes<C>, sums[r][v], masks[v]);
  }
}

// Step 1 in the source and in what is filled. kInside: no lane of any tap lies outside the source.
template <class T, int V, bool kInside>
struct UnitColumns {
  static_assert(V <= 2);
  using C = Compute<T>;
  static constexpr int kVectors = V, kRows = kPlaneRows<V>, kRowStride = 1;
  static constexpr int kTaps = kPlaneTapsOfStride1;
  static constexpr std::int64_t kSpan = V * kLanes<C>;             // filled columns of a tile
  static constexpr std::int64_t kSourceStep = 1, kFilledStep = 1;  // from one to the next

  UnitColumns(const AxisTaps& columns, const AxisClass& axis, std::int64_t first, void* scratch)
      : axis_(axis), first_(first), masks_(static_cast<Mask<C>*>(scratch)) {
    if constexpr (kInside) return;
    for (std::int64_t t = 0; t < axis.taps.count; ++t) {
      for (int v = 0; v < V; ++v) {
        const std::int64_t start = first + v * kLanes<C> + axis.taps[t].offset;
        masks_[t * V + v] = columns_inside<C>(start, columns.source_size);
      }
    }
  }

  std::int64_t first() const { return first_; }
  // The first of the next tile, 0 behind the last.
  std::int64_t next() const { return first_ + kSpan < axis_.count ? first_ + kSpan : 0; }

  template <int K>
  HANDCONV_INLINE void add(Tile<C, kRows, V>& tile, const PlaneLines<T>& lines) const {
    if (lines.inside == (1u << (kRows + K - 1)) - 1) return add_lines<K, true>(tile, lines);
    add_lines<K, false>(tile, lines);
  }
  HANDCONV_INLINE void store(const Tile<C, kRows, V>& tile, T* line, std::int64_t line_step,
                             int rows) const {
    store_rows(line + first_, line_step, rows, tile.sums, axis_.count - first_);
  }

 private:
  template <int K, bool kAll>
  HANDCONV_INLINE void add_lines(Tile<C, kRows, V>& tile, const PlaneLines<T>& lines) const {
    for (std::int64_t t = 0; t < axis_.taps.count; ++t) {
      const Tap& tap = axis_.taps[t];
      const Mask<C> first_mask = masks_[t * V], last_mask = masks_[t * V + V - 1];
      add_taps<K, kAll, 0, V>(
          tile, lines, first_ + tap.offset, lines.weights + tap.kernel * lines.w_column,
          [=](const T* line, int v) {
            const T* p = line + v * kLanes<C>;
            return kInside ? load(p) : load_masked(p, v == 0 ? first_mask : last_mask);
          });
    }
  }

  const AxisClass& axis_;
  std::int64_t first_;
  Mask<C>* masks_;
};

// Step 2 in the source, taps next to each other: two of them share their loads. kInside: no lane of
// any tap lies outside the source.
template <class T, bool kInside>
struct PairedColumns {
  using C = Compute<T>;
  static constexpr int V = 1, kVectors = V, kRowStride = 2;
  static constexpr int kRows = kPlaneRows<V>;
  static constexpr int kTaps = kPlaneTapsOfStride2;
  static constexpr std::int64_t kSpan = V * kLanes<C>;
  static constexpr std::int64_t kSourceStep = 2, kFilledStep = 1;

  PairedColumns(const AxisTaps& columns, const AxisClass& axis, std::int64_t first, void* scratch)
      : axis_(axis), first_(first), masks_(static_cast<PairMask<C>*>(scratch)) {
    if constexpr (kInside) return;
    for (std::int64_t t = 0; t < axis.taps.count; t += 2) {
      const std::int64_t start = 2 * first + axis.taps[t].offset;
      masks_[t / 2] = {columns_inside<C>(start, columns.source_size),
                       columns_inside<C>(start + kLanes<C>, columns.source_size)};
    }
  }

  // The first of the next tile, 0 behind the last.
  std::int64_t first() const { return first_; }
  std::int64_t next() const { return first_ + kSpan < axis_.count ? first_ + kSpan : 0; }

  template <int K>
  HANDCONV_INLINE void add(Tile<C, kRows, V>& tile, const PlaneLines<T>& lines) const {
    if constexpr (kInside) {
      if (lines.inside == (1u << (2 * (kRows - 1) + K)) - 1) return add_lines<K, true>(tile, lines);
    }
    add_lines<K, false>(tile, lines);
  }
  HANDCONV_INLINE void store(const Tile<C, kRows, V>& tile, T* line, std::int64_t line_step,
                             int rows) const {
    store_rows(line + first_, line_step, rows, tile.sums, axis_.count - first_);
  }

 private:
  template <int K, bool kAll>
  HANDCONV_INLINE void add_lines(Tile<C, kRows, V>& tile, const PlaneLines<T>& lines) const {
    std::int64_t t = 0;
    for (; t + 1 < axis_.taps.count; t += 2) {
      if constexpr (kInside) {
        add_pair<K, true, kAll>(tile, lines, t, 0, [](const T* line) { return load_pairs(line); });
      } else {
        add_pair<K, true, kAll>(tile, lines, t, 0, masked_load(t));
      }
    }
    if (t == axis_.taps.count) return;
    if constexpr (kInside) {
      // Odd lanes of the pairs that start a column earlier: all of them lie inside.
      add_pair<K, false, kAll>(tile, lines, t, -1, [](const T* line) {
        const Vector<C> odd = load_pairs(line).odd;
        return VectorPair<C>{odd, odd};
      });
    } else {
      add_pair<K, false, kAll>(tile, lines, t, 0, masked_load(t));
    }
  }
  HANDCONV_INLINE auto masked_load(std::int64_t t) const {
    return [mask = masks_[t / 2]](const T* line) { return load_pairs(line, mask); };
  }
  // Taps t and t + 1, or t alone, from pairs that start `shift` columns after those of tap t.
  template <int K, bool kBoth, bool kAll, class Load>
  HANDCONV_INLINE void add_pair(Tile<C, kRows, V>& tile, const PlaneLines<T>& lines, std::int64_t t,
                                int shift, const Load& load_pixels) const {
    const Tap& tap = axis_.taps[t];
    add_tap_pairs<K, kBoth, kAll>(tile, lines, 2 * first_ + tap.offset + shift,
                                  lines.weights + tap.kernel * lines.w_column, load_pixels);
  }

  const AxisClass& axis_;
  std::int64_t first_;
  PairMask<C>* masks_;
};

// Two classes, of even and odd filled columns, each with taps of its own and step 1 in the source:
// a vector of each, interleaved on their way to memory.
template <class T>
struct InterleavedColumns {
  using C = Compute<T>;
  static constexpr int kVectors = 2, kRows = kPlaneRows<2>, kRowStride = 1;
  static constexpr int kTaps = kPlaneTaps;
  static constexpr std::int64_t kSpan = kLanes<C>;  // of the even class
  static constexpr std::int64_t kSourceStep = 1, kFilledStep = 2;

  InterleavedColumns(const AxisTaps& columns, const AxisClass& even, std::int64_t first,
                     void* scratch)
      : classes_(&even),
        filled_size_(columns.filled_size),
        first_(first),
        masks_(static_cast<Mask<C>*>(scratch)) {
    Mask<C>* mask = masks_;
    for (int i = 0; i < 2; ++i) {
      for (const Tap& tap : classes_[i].taps)
        *mask++ = columns_inside<C>(first + tap.offset, columns.source_size);
    }
  }

  // The first of the next tile, 0 behind the last.
  std::int64_t first() const { return first_; }
  std::int64_t next() const { return first_ + kSpan < classes_[0].count ? first_ + kSpan : 0; }

  template <int K>
  HANDCONV_INLINE void add(Tile<C, kRows, 2>& tile, const PlaneLines<T>& lines) const {
    add_class<K, 0>(tile, lines, masks_);
    add_class<K, 1>(tile, lines, masks_ + classes_[0].taps.count);
  }
  HANDCONV_INLINE void store(const Tile<C, kRows, 2>& tile, T* line, std::int64_t line_step,
                             int rows) const {
    constexpr std::make_integer_sequence<int, kLanes<C>> lanes;
    Vector<C> columns[kRows][2];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      columns[r][0] = interleave(tile.sums[r][0], tile.sums[r][1], 0, lanes);
      columns[r][1] = interleave(tile.sums[r][0], tile.sums[r][1], 1, lanes);
    }
    store_rows(line + 2 * first_, line_step, rows, columns, filled_size_ - 2 * first_);
  }

 private:
  template <int K, int kClass>
  HANDCONV_INLINE void add_class(Tile<C, kRows, 2>& tile, const PlaneLines<T>& lines,
                                 const Mask<C>* masks) const {
    for (std::int64_t t = 0; t < classes_[kClass].taps.count; ++t) {
      const Tap& tap = classes_[kClass].taps[t];
      const Mask<C> mask = masks[t];
      add_taps<K, false, kClass, 1>(tile, lines, first_ + tap.offset,
                                    lines.weights + tap.kernel * lines.w_column,
                                    [=](const T* line, int) { return load_masked(line, mask); });
    }
  }

  const AxisClass* classes_;
  std::int64_t filled_size_, first_;
  Mask<C>* masks_;
};

// Any step in the source and in what is filled.
template <class T>
struct StridedColumns {
  using C = Compute<T>;
  static constexpr int kVectors = 1, kRows = kPlaneRows<1>, kRowStride = 0;
  static constexpr int kTaps = 1;
  static constexpr std::int64_t kSpan = kLanes<C>;

  StridedColumns(const AxisTaps& columns, const AxisClass& axis, std::int64_t first, void* scratch)
      : axis_(axis), first_(first), masks_(static_cast<Mask<C>*>(scratch)) {
    const std::int64_t step = axis.source_step;
    for (std::int64_t t = 0; t < axis.taps.count; ++t) {
      const std::int64_t start = first * step + axis.taps[t].offset;
      const auto lanes_before = [&](std::int64_t column) {  // lanes whose source lies before it
        return column <= start ? 0 : ceil_divide(column - start, step);
      };
      masks_[t] = mask_between<C>(lanes_before(0), lanes_before(columns.source_size));
    }
  }

  template <int K>
  HANDCONV_INLINE void add(Tile<C, kRows, 1>& tile, const PlaneLines<T>& lines) const {
    for (std::int64_t t = 0; t < axis_.taps.count; ++t) {
      const Tap& tap = axis_.taps[t];
      const Mask<C> mask = masks_[t];
      add_taps<K, false, 0, 1>(tile, lines, first_ * axis_.source_step + tap.offset,
                               lines.weights + tap.kernel * lines.w_column,
                               [=, step = axis_.source_step](const T* line, int) {
                                 return load_strided(line, step, mask);
                               });
    }
  }
  HANDCONV_INLINE void store(const Tile<C, kRows, 1>& tile, T* line, std::int64_t line_step,
                             int rows) const {
    line += axis_.first + first_ * axis_.step;
    if (axis_.step == 1) return store_rows(line, line_step, rows, tile.sums, axis_.count - first_);
    C sums[kRows][kLanes<C>];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) store_vector(sums[r], tile.sums[r][0]);
    for (int r = 0; r < rows; ++r, line += line_step) {
      for (int lane = 0; lane < kLanes<C> && first_ + lane < axis_.count; ++lane)
        line[lane * axis_.step] = from_compute<T>(sums[r][lane]);
    }
  }

 private:
  const AxisClass& axis_;
  std::int64_t first_;
  Mask<C>* masks_;
};
