// direct.depthwise.planes: y and the input gradient of groups with one input channel, for
// contiguous (NCHW) images; lanes are neighbouring columns.
//
//     filled[n, c, i, j] = bias[c] + sum over s and taps of w[c, s, tap] * source[n, s, i + ., j +
//     .]
//
// s runs over the channels of y that a channel of x has, and over one channel of x the other way.
// Nothing is padded, copied or packed: loads are masked, rows outside are skipped, a row is loaded
// once per column of taps (depthwise_planes_tile.h). Bytes: source and filled image once.

template <class T>
class DepthwisePlanesKernel {
 public:
  using C = Compute<T>;
  using Plane = DepthwisePlane<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    // A mask for each tap and vector; pairs of taps have two.
    const std::int64_t masks = (problem.geometry.width.kernel + 1) * kPlaneVectors;
    return {0, kTotalsBytes + static_cast<std::size_t>(masks) * sizeof(Mask<C>)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    DepthwisePlanesKernel(gather, workspace).run_all();
  }

 private:
  DepthwisePlanesKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather), workspace_(workspace) {
    const std::int64_t cost = gather.filled_area() * gather.cost_per_element();
    planes_per_item_ = kItemCost / cost + 1;
    row_parts_ = cost / kPartCost + 1;
    constexpr std::int64_t kSize = sizeof(T);
    are_far_ =
        come_from_memory<T>(gather.elements()) && gather.group_elements() * kSize <= kNearBytes;
  }

  // Of a tile: its totals, before the masks in the scratch of a thread.
  static constexpr std::size_t kTotalsBytes = kPlaneRows<1> * kPlaneVectors * kVectorBytes;
  // Multiply-adds of an item: enough for its masks not to count, few enough to share out.
  static constexpr std::int64_t kItemCost = 1 << 15, kPartCost = 1 << 19;
  // Groups of so many bytes stay in a cache until they are used if they are asked for an item
  // ahead.
  static constexpr std::int64_t kNearBytes = 256 << 10;
  // Terms of a sum that needs no blocks.
  static constexpr std::int64_t kShortSum = 256;

  void run_all() {
    const std::int64_t planes = gather_.batch * gather_.groups * gather_.filled_channels;
    const std::int64_t plane_items = ceil_divide(planes, planes_per_item_);
    const std::int64_t cost =
        planes_per_item_ * gather_.filled_area() * gather_.cost_per_element() / row_parts_;
    parallel_for(plane_items * row_parts_, cost, [&](std::int64_t index, int thread) {
      const std::int64_t first = index / row_parts_ * planes_per_item_, rest = planes - first;
      const Item item{Plane(gather_, first), rest < planes_per_item_ ? rest : planes_per_item_,
                      index % row_parts_, workspace_.of_thread<std::byte>(thread)};
      fill_item(item);
    });
  }

  // Some whole planes from `plane` on, or one of the row_parts_ parts of one.
  struct Item {
    Plane plane;
    std::int64_t planes, part;
    std::byte* scratch;
  };

  void fill_item(const Item& item) const {
    const Span<AxisClass> columns = gather_.columns.classes();
    const std::int64_t row_stride = RowPattern(gather_.rows.classes()[0]).stride;
    if (columns.count == 1 && columns[0].source_step == 1 && columns[0].step == 1 &&
        row_stride == 1) {
      return fill_unit(item, columns[0]);
    }
    if (columns.count == 1 && is_paired(columns[0]) && row_stride == 2) {
      return fill_paired(item, columns[0]);
    }
    if (columns.count == 2 && row_stride == 1) {
      return fill_columns<InterleavedColumns<T>>(item, columns[0], 0, columns[0].count);
    }
    for (const AxisClass& axis : columns) {
      fill_columns<StridedColumns<T>>(item, axis, 0, axis.count);
    }
  }

  static bool is_paired(const AxisClass& axis) {
    return axis.source_step == 2 && axis.taps.count > 1 &&
           axis.taps[1].offset - axis.taps[0].offset == 1;
  }

  void fill_paired(const Item& item, const AxisClass& axis) const {
    if constexpr (kVectorBytes == 64) {
      return fill_columns<PairedColumns<T, false>>(item, axis, 0, axis.count);
    }
    constexpr std::int64_t kSpan = kLanes<C>;
    for (std::int64_t first = 0; first < axis.count; first += kSpan) {
      const std::int64_t start = 2 * first + axis.taps[0].offset;
      const std::int64_t last = 2 * first + axis.taps[axis.taps.count - 1].offset - 1;
      start >= 0 && last + 2 * kSpan <= gather_.columns.source_size
          ? fill_columns<PairedColumns<T, true>>(item, axis, first, first + kSpan)
          : fill_columns<PairedColumns<T, false>>(item, axis, first, first + kSpan);
    }
  }

  void fill_unit(const Item& item, const AxisClass& axis) const {
    const EvenParts blocks((axis.count + kLanes<C> - 1) / kLanes<C>, kPlaneVectors);
    for (std::int64_t b = 0; b < blocks.count; ++b) {
      const std::int64_t first = blocks.first(b) * kLanes<C>;
      blocks.size(b) == 1 ? fill_unit_columns<1>(item, axis, first)
                          : fill_unit_columns<2>(item, axis, first);
    }
  }

  template <int V>
  void fill_unit_columns(const Item& item, const AxisClass& axis, std::int64_t first) const {
    constexpr std::int64_t kSpan = V * kLanes<C>;
    if constexpr (kVectorBytes < 64) {  // where masks are not free
      bool inside = first + kSpan <= axis.count;
      for (const Tap& tap : axis.taps) {
        const std::int64_t start = first + tap.offset;
        inside &= start >= 0 && start + kSpan <= gather_.columns.source_size;
      }
      if (inside) return fill_columns<UnitColumns<T, V, true>>(item, axis, first, first + kSpan);
    }
    fill_columns<UnitColumns<T, V, false>>(item, axis, first, first + kSpan);
  }

  // Columns [first, last), tile by tile.
  template <class Columns>
  void fill_columns(const Item& item, const AxisClass& axis, std::int64_t first,
                    std::int64_t last) const {
    for (; first < last; first += Columns::kSpan) {
      const Columns columns(gather_.columns, axis, first, item.scratch + kTotalsBytes);
      for (const AxisClass& rows : gather_.rows.classes()) {
        const RowPattern pattern(rows);
        fill_rows(item, columns, pattern);
      }
    }
  }

  template <class Columns>
  [[gnu::noinline]] void fill_rows(const Item& item, const Columns& columns,
                                   const RowPattern& pattern) const {
    constexpr std::int64_t R = Columns::kRows;
    const EvenParts tap_rows(pattern.taps, Columns::kRowStride == 0 ? 1 : kPlaneTaps);
    const LongSums<Columns> job{columns, pattern, tap_rows, reinterpret_cast<C*>(item.scratch)};
    for (std::int64_t s = 0; s < pattern.sets; ++s) {
      const RowSet rows = pattern.set(s);
      const std::int64_t tiles = ceil_divide(rows.count, R);
      const std::int64_t begin = item.part * tiles / row_parts_;
      const std::int64_t end = (item.part + 1) * tiles / row_parts_;
      if (begin == end) continue;
      if constexpr (Columns::kRowStride != 0) {
        const std::int64_t taps = pattern.taps;
        const bool at_once = taps <= 3 || (taps <= Columns::kTaps && (taps == 5 || taps == 7));
        const bool is_short = taps * gather_.columns.kernel_size <= kShortSum;
        if (at_once && taps > 0 && gather_.source_channels == 1 && is_short) {
          const ShortPlaneTiles<T, Columns> short_tiles{gather_,    columns,     pattern,
                                                        item.plane, item.planes, are_far_};
          for (std::int64_t tile = begin; tile < end;)
            tile += short_tiles.fill(rows, tile * R, end - tile);
          continue;
        }
      }
      Plane plane = item.plane;
      for (std::int64_t i = 0; i < item.planes; ++i) {
        for (std::int64_t tile = begin; tile < end; ++tile) fill_tile(job, rows, plane, tile * R);
        plane.to_next(gather_);
      }
    }
  }

  template <class Columns>
  struct LongSums {
    const Columns& columns;
    const RowPattern& pattern;
    const EvenParts& tap_rows;
    C* totals;
  };

  template <class Columns>
  HANDCONV_INLINE void fill_tile(const LongSums<Columns>& job, const RowSet& rows,
                                 const Plane& plane, std::int64_t row) const {
    constexpr int R = Columns::kRows, V = Columns::kVectors;
    const std::int64_t rest = rows.count - row;
    const int existing = static_cast<int>(rest < R ? rest : R);

    using Sums = PlaneSums<C, R, V>;
    Sums tile(job.totals, smaller(Sums::kTerms, gather_.block_terms));
    start_with_bias<T>(tile.block, gather_, plane);
    const RowPattern& pattern = job.pattern;
    const T* source = plane.source;
    const T* weights = plane.weights + pattern.first_kernel() * gather_.w_row;
    const std::int64_t first_row = rows.source_first + row * pattern.stride * pattern.spacing;
    for (std::int64_t s = 0; s < gather_.source_channels; ++s) {
      add_plane(tile, job, first_row, existing, source, weights);
      source += gather_.source_strides.channel;
      weights += gather_.w_source;
    }
    tile.finish();

    const std::int64_t pitch = gather_.filled_strides.row;
    T* line = plane.filled + (rows.filled_first + row * rows.filled_step) * pitch;
    job.columns.store(tile.block, line, rows.filled_step * pitch, existing);
  }

  // Adds all taps of one source plane, of which the tile's first row reads source row `first_row`
  // through its first tap.
  template <class Columns>
  HANDCONV_INLINE void add_plane(PlaneSums<C, Columns::kRows, Columns::kVectors>& tile,
                                 const LongSums<Columns>& job, std::int64_t first_row, int existing,
                                 const T* source, const T* weights) const {
    const RowPattern& pattern = job.pattern;
    constexpr int kStride = Columns::kRowStride;
    const std::int64_t pitch = gather_.source_strides.row;
    // Without a common stride every row of taps is a case for itself, whose lines lie S E apart.
    const std::int64_t line_step =
        kStride == 0 ? pattern.spacing * pattern.stride : pattern.spacing;
    const std::int64_t w_step = pattern.kernel_step * gather_.w_row;
    std::int64_t tap = 0;
    for (std::int64_t b = 0; b < job.tap_rows.count; ++b) {
      const std::int64_t taps = job.tap_rows.size(b);
      const std::int64_t row = first_row + tap * pattern.spacing;
      const std::int64_t lines = (existing - 1) * (kStride == 2 ? 2 : 1) + taps;
      const PlaneLines<T> at{source + row * pitch,
                             line_step * pitch,
                             rows_inside(row, line_step, gather_.rows.source_size, lines),
                             weights + tap * w_step,
                             w_step,
                             gather_.w_column};
      if (at.inside) {
        if constexpr (kStride == 0) {
          job.columns.template add<1>(tile.block, at);
        } else {
          add_rows(tile.block, job.columns, at, taps);
        }
        tile.note_terms(taps * gather_.columns.kernel_size);
      }
      tap += taps;
    }
  }

  // Of `taps` rows of taps.
  template <class Columns>
  HANDCONV_INLINE static void add_rows(Tile<C, Columns::kRows, Columns::kVectors>& tile,
                                       const Columns& columns, const PlaneLines<T>& lines,
                                       std::int64_t taps) {
    static_assert(kPlaneTaps == 3);
    if (taps == 3) return columns.template add<3>(tile, lines);
    if (taps == 2) return columns.template add<2>(tile, lines);
    columns.template add<1>(tile, lines);
  }

  const Gather& gather_;
  const Workspace& workspace_;
  std::int64_t planes_per_item_, row_parts_;
  bool are_far_;  // planes, from the processor
};
