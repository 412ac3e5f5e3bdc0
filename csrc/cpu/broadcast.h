// direct.broadcast: lanes are filled channels of one group, of more of them than half a vector;
// both the convolution and its input gradient, in either layout.
//
//     filled[n, g, f, pixel] = bias[g, f] + sum over s and taps of w[g, f, s, tap] * source[n, g,
//     s, pixel + tap]
//
// An item of work is some rows of one group of a sample. Their source is copied into scratch,
// [row][source channel][column] with zeros where the image is padded, of some tens of KiB, and each
// element of it is broadcast to the lanes of a register tile (broadcast_tile.h). Bytes: source and
// filled image once, the group's packed weight once per item from the second-level cache. Where
// images are small, the weight is most of all bytes: a thread then packs a group's for itself, when
// it comes to the group, and it never leaves the thread's cache.

template <class T>
class BroadcastKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    const Plan plan(gather);
    return {plan.shared_bytes(), static_cast<std::size_t>(plan.thread_elements()) * sizeof(C)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    BroadcastKernel(gather, workspace).run_all();
  }

 private:
  using Plan = BroadcastPlan<C>;
  static constexpr std::int64_t L = kLanes<C>, P = kBroadcastPixels, kBlock = Plan::kBlock;

  struct Item {
    std::int64_t n, group, first_row, rows;
    C *source, *sums;
    const C* weights;  // of the group, then its biases
  };

  // A pair of classes, and the taps of the pairs before it.
  struct ClassPair {
    const AxisClass &rows, &columns;
    std::int64_t taps;
  };

  // A tile: its first row, from the item's, and those that are left, and its first column.
  struct Place {
    std::int64_t row, rest, column;
  };

  BroadcastKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather), plan_(gather), workspace_(workspace) {}

  C* shared_weights(std::int64_t group) const {
    return workspace_.shared<C>() + group * plan_.group_elements();
  }
  // Of blocks of so many vectors.
  TapPlace* places(std::int64_t vectors) const {
    void* first = shared_weights(plan_.threads_pack ? 0 : gather_.groups);
    return static_cast<TapPlace*>(first) + (vectors - 1) * gather_.kernel_area();
  }
  std::int64_t* offsets(std::int64_t vectors) const {
    void* first = places(kBlock + 1);
    return static_cast<std::int64_t*>(first) + (vectors - 1) * gather_.kernel_area();
  }
  C* thread_weights(int thread) const {
    return workspace_.of_thread<C>(thread) + plan_.source_elements() + P * kBlock * L;
  }
  // The group whose weight the thread has packed.
  std::int64_t* packed_group(int thread) const {
    void* end = thread_weights(thread) + plan_.group_elements();
    return static_cast<std::int64_t*>(end);
  }

  void run_all() const {
    for (std::int64_t vectors = 1; vectors <= kBlock; ++vectors) write_tables(vectors);
    if (plan_.threads_pack) {
      for (int thread = 0; thread < max_threads(); ++thread) *packed_group(thread) = -1;
    } else {
      parallel_for(gather_.groups, plan_.group_weights(),
                   [&](std::int64_t group, int) { pack_group(group, shared_weights(group)); });
    }
    const std::int64_t cost = plan_.rows * gather_.columns.filled_size * plan_.vectors * L *
                              gather_.rows.classes().count * gather_.cost_per_element();
    // Neighbouring groups share pages of pixels, but one group at a time needs one packed weight.
    const std::int64_t blocks = gather_.batch * plan_.strips;
    parallel_for(blocks * gather_.groups, cost, [&](std::int64_t index, int thread) {
      plan_.threads_pack ? run_index(index % blocks, index / blocks, thread)
                         : run_index(index / gather_.groups, index % gather_.groups, thread);
    });
  }

  void run_index(std::int64_t block, std::int64_t group, int thread) const {
    const C* weights = shared_weights(group);
    if (plan_.threads_pack) {
      weights = thread_weights(thread);
      if (*packed_group(thread) != group) pack_group(group, thread_weights(thread));
      *packed_group(thread) = group;
    }
    const std::int64_t row = block % plan_.strips * plan_.rows;
    C* source = workspace_.of_thread<C>(thread);
    run_item({block / plan_.strips, group, row, smaller(plan_.rows, plan_.rows_reach.count - row),
              source, source + plan_.source_elements(), weights});
  }

  template <class Visit>
  HANDCONV_INLINE void for_classes(const Visit& visit) const {
    std::int64_t taps = 0;
    for (const AxisClass& rows : gather_.rows.classes()) {
      for (const AxisClass& columns : gather_.columns.classes()) {
        visit(ClassPair{rows, columns, taps});
        taps += rows.taps.count * columns.taps.count;
      }
    }
  }

  // Where the runs of all classes read the scratch, and where their weights lie.
  void write_tables(std::int64_t vectors) const {
    for (std::int64_t tap = 0; tap < gather_.kernel_area(); ++tap) places(vectors)[tap] = {0, 0};
    for_classes([&](const ClassPair& pair) {
      const Span<Tap>& taps = pair.columns.taps;
      const std::int64_t run = broadcast_run(pair.columns, vectors);
      const bool descend = run > 1 && taps[0].offset > taps[1].offset;
      std::int64_t* offset = offsets(vectors) + pair.taps;
      std::int64_t first = pair.taps * gather_.source_channels;
      for (const Tap& row : pair.rows.taps) {
        for (std::int64_t i = 0; i < taps.count; ++i) {
          const std::int64_t k = descend ? run - 1 - i : i % run;
          if (k == 0) {
            *offset++ = (row.offset - plan_.rows_reach.first) * plan_.row_elements +
                        taps[i].offset - plan_.columns_reach.first;
          }
          places(vectors)[row.kernel * gather_.columns.kernel_size + taps[i].kernel] = {first + k,
                                                                                        run};
          if (i % run == run - 1) first += run * gather_.source_channels;
        }
      }
    });
  }

  void pack_group(std::int64_t group, C* to) const {
    for (std::int64_t block = 0; block < plan_.blocks; ++block) {
      const std::int64_t vectors = plan_.block_vectors(block);
      const BroadcastWeightPacker<T> packer(gather_, places(vectors));
      packer.pack(group, block * kBlock * L, vectors, to + block * kBlock * plan_.weights());
    }
    const auto* bias = static_cast<const T*>(gather_.bias);
    for (std::int64_t f = 0; f < plan_.vectors * L; ++f) {
      to[plan_.group_weights() + f] = bias && f < gather_.filled_channels
                                          ? to_compute(bias[group * gather_.filled_channels + f])
                                          : C(0);
    }
  }

  void run_item(const Item& item) const {
    fill_source(item);
    for (std::int64_t block = 0; block < plan_.blocks; ++block) {
      for_classes([&](const ClassPair& pair) {
        const std::int64_t rows = smaller(item.rows, pair.rows.count - item.first_row);
        for (std::int64_t column = 0; column < pair.columns.count; column += P) {
          const std::int64_t rest = pair.columns.count - column;
          if (rest > P / 2) {
            for (std::int64_t row = 0; row < rows; ++row)
              fill_tile<1>(item, pair, block, {row, rows - row, column});
          } else {
            for (std::int64_t row = 0; row < rows; row += 2)
              fill_tile<2>(item, pair, block, {row, rows - row, column});
          }
        }
      });
    }
  }

  // The source rows that the item reads, zeros where there are none.
  void fill_source(const Item& item) const {
    const ImageStrides& strides = gather_.source_strides;
    const T* image = static_cast<const T*>(gather_.source) + item.n * strides.sample +
                     item.group * gather_.source_channels * strides.channel +
                     plan_.columns_reach.first * strides.column;
    C* to = item.source;
    for (std::int64_t r = 0; r < plan_.rows_reach.elements(item.rows); ++r) {
      const std::int64_t h = item.first_row * plan_.rows_reach.step + plan_.rows_reach.first + r;
      if (h < 0 || h >= gather_.rows.source_size) {
        for (std::int64_t i = 0; i < plan_.row_elements; i += L) store(to + i, Vector<C>{});
      } else {
        strides.channel == 1 ? fill_from_pixels(image + h * strides.row, to)
                             : fill_from_planes(image + h * strides.row, to);
      }
      to += plan_.row_elements;
    }
  }

  void fill_from_pixels(const T* image, C* to) const {
    const std::int64_t channels = gather_.source_channels, step = gather_.source_strides.column;
    const std::int64_t first = -plan_.columns_reach.first,
                       last = first + gather_.columns.source_size;
    for (std::int64_t j = 0; j < plan_.pitch; j += L) {
      for (std::int64_t s = 0; s < channels; s += L) {
        // The next group's channels of these pixels: too far apart for the processor to foresee.
        for (std::int64_t i = 0; i < L; ++i)
          __builtin_prefetch(image + (j + i) * step + s + channels);
        transpose_to_planes(image + j * step + s, step, first - j, last - j, channels - s,
                            to + s * plan_.pitch + j, plan_.pitch);
      }
    }
  }

  void fill_from_planes(const T* image, C* to) const {
    const std::int64_t first = -plan_.columns_reach.first,
                       last = first + gather_.columns.source_size;
    for (std::int64_t s = 0; s < gather_.source_channels; ++s, to += plan_.pitch) {
      for (std::int64_t j = 0; j < plan_.pitch; j += L)
        store(to + j, load_masked(image + j, mask_between<C>(first - j, last - j)));
      image += gather_.source_strides.channel;
    }
  }

  template <int R>
  void fill_tile(const Item& item, const ClassPair& pair, std::int64_t block,
                 const Place& place) const {
    const std::int64_t vectors = plan_.block_vectors(block), step = pair.columns.source_step;
    const std::int64_t taps = pair.rows.taps.count * pair.columns.taps.count;
    const std::int64_t row_step = plan_.rows_reach.step * plan_.row_elements;
    const std::int64_t run = broadcast_run(pair.columns, vectors);
    const BroadcastSums<C> sums{item.source + place.row * row_step + place.column * step,
                                place.rest > 1 ? row_step : 0,
                                plan_.pitch,
                                gather_.source_channels,
                                {offsets(vectors) + pair.taps, taps / run},
                                item.weights + block * kBlock * plan_.weights() +
                                    pair.taps * gather_.source_channels * vectors * L,
                                item.weights + plan_.group_weights() + block * kBlock * L,
                                item.sums};
    step == 1 ? add_broadcast_sums<C, R, 1>(sums, static_cast<int>(vectors), static_cast<int>(run))
              : add_broadcast_sums<C, R, 2>(sums, static_cast<int>(vectors), static_cast<int>(run));
    const ImageStrides& strides = gather_.filled_strides;
    T* to = static_cast<T*>(gather_.filled) + item.n * strides.sample +
            (item.group * gather_.filled_channels + block * kBlock * L) * strides.channel +
            (pair.rows.first + (item.first_row + place.row) * pair.rows.step) * strides.row +
            (pair.columns.first + place.column * pair.columns.step) * strides.column;
    const std::int64_t pixels = smaller(P / R, pair.columns.count - place.column);
    const C* from = item.sums;
    for (int r = 0; r < R && r < place.rest; ++r, to += pair.rows.step * strides.row) {
      for (std::int64_t v = 0; v < vectors; ++v) {
        const std::int64_t lanes = gather_.filled_channels - (block * kBlock + v) * L;
        strides.channel == 1 ? store_pixels(from + v * L, vectors * L, pixels, lanes, to + v * L,
                                            pair.columns.step * strides.column)
                             : store_planes(from + v * L, vectors * L, pixels, smaller(lanes, L),
                                            to + v * L * strides.channel, pair.columns.step);
      }
      from += P / R * vectors * L;
    }
  }

  static void store_pixels(const C* from, std::int64_t from_step, std::int64_t pixels,
                           std::int64_t lanes, T* to, std::int64_t step) {
    const auto mask = mask_between<C>(0, lanes);
    for (std::int64_t p = 0; p < pixels; ++p)
      store_masked(to + p * step, load(from + p * from_step), mask);
  }

  void store_planes(const C* from, std::int64_t from_step, std::int64_t pixels, std::int64_t lanes,
                    T* to, std::int64_t step) const {
    if (step == 1) {
      return transpose_matrix(from, from_step, pixels, lanes, to, gather_.filled_strides.channel);
    }
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      T* plane = to + lane * gather_.filled_strides.channel;
      for (std::int64_t p = 0; p < pixels; ++p)
        plane[p * step] = from_compute<T>(from[p * from_step + lane]);
    }
  }

  const Gather& gather_;
  const Plan plan_;
  const Workspace& workspace_;
};
