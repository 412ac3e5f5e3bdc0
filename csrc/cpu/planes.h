// direct.planes: lanes are neighbouring pixels, for groups of few channels in either layout; both
// the convolution and its input gradient.
//
//     filled[n, g, f, pixel] = bias[g, f] + sum over s and taps of w[g, f, s, tap] * source[n, g,
//     s, pixel + tap]
//
// An item of work is some rows of some groups of one sample. It copies the source that it reads
// into scratch planes (padded_planes.h) of at most some tens of KiB, each element of which then
// serves filled channels x taps multiply-adds, sums into planes of its own by the tiles of
// plane_tiles.h, and copies those to where they belong. Bytes: source and filled image once, the
// packed weight once per item from the second-level cache.

template <class T>
class PlanesKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(problem, {});
    const Plan plan(gather);
    return {static_cast<std::size_t>(plan.shared_elements()) * sizeof(C),
            static_cast<std::size_t>(plan.thread_elements()) * sizeof(C)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(problem, buffers);
    PlanesKernel(gather, workspace).run_all();
  }

 private:
  static constexpr std::int64_t L = kLanes<C>;

  // How the work is cut: by the shape of a sample alone.
  struct Plan {
    explicit Plan(const Gather& gather) : gather(gather), source(gather) {
      // A sum of more terms is made of partial sums, which keeps rounding from growing with it.
      constexpr std::int64_t kSourceBytes = 48 << 10;
      const std::int64_t area = gather.kernel_area();
      chunk = larger(1, gather.block_terms / area);
      if (chunk > gather.source_channels) chunk = gather.source_channels;
      // Channels of a group are packed to at least a vector of them, for channels_last.
      const std::int64_t channels = larger(gather.source_channels, gather.filled_channels);
      groups = chunk < gather.source_channels || channels >= L ? 1 : L / channels;
      if (groups > gather.groups) groups = gather.groups;
      // Rows that fit, in blocks of even size.
      const std::int64_t fit = kSourceBytes / static_cast<std::int64_t>(sizeof(C));
      const std::int64_t total = source.rows.count;
      std::int64_t most = 1;
      while (most < total && source.is_worth(most + 1, groups * chunk, fit)) ++most;
      const std::int64_t blocks = total ? ceil_divide(total, most) : 0;
      rows = blocks ? ceil_divide(total, blocks) : 1;
      row_blocks = total ? ceil_divide(total, rows) : 0;
      group_blocks = ceil_divide(gather.groups, groups);
      padded_filled = padded_channels(gather.filled_channels);
    }

    std::int64_t classes() const {
      return gather.rows.classes().count * gather.columns.classes().count;
    }
    std::int64_t weights() const {
      return gather.groups * padded_filled * gather.source_channels * gather.kernel_area();
    }
    std::int64_t biases() const { return round_up(gather.groups * padded_filled, L); }
    std::int64_t offset_count() const { return chunk * gather.kernel_area(); }
    std::int64_t shared_elements() const {
      return round_up(weights(), L) + biases() +
             offset_count() * static_cast<std::int64_t>(sizeof(std::int64_t) / sizeof(C));
    }
    std::int64_t source_elements() const {
      return groups * chunk * source.channel_step(rows) + source.pitch() + 2 * L;
    }
    // Sums of one channel: a plane for each class.
    std::int64_t plane_elements() const { return round_up(rows * source.pitch(), L) + L; }
    std::int64_t channel_elements() const { return classes() * plane_elements(); }
    std::int64_t sum_elements() const {
      return (groups - 1) * gather.filled_channels * channel_elements() +
             padded_filled * channel_elements();
    }
    std::int64_t thread_elements() const {
      return source_elements() + sum_elements() + source.line_elements() + 2 * L;
    }

    const Gather& gather;
    PaddedPlanes<T> source;
    std::int64_t chunk;   // source channels summed at a time
    std::int64_t groups;  // of an item
    std::int64_t rows;    // of every class, of an item
    std::int64_t row_blocks, group_blocks;
    std::int64_t padded_filled;  // channels of a group, padded to tiles
  };

  // What one item fills: rows [first_row, first_row + rows) of each class.
  struct Item {
    std::int64_t n, first_group, groups, first_row, rows;
    C *source, *sums, *line;
  };

  PlanesKernel(const Gather& gather, const Workspace& workspace)
      : gather_(gather), plan_(gather), workspace_(workspace) {}

  C* weights() const { return workspace_.shared<C>(); }
  C* biases() const { return weights() + round_up(plan_.weights(), L); }
  std::int64_t* offsets() const {
    return static_cast<std::int64_t*>(static_cast<void*>(biases() + plan_.biases()));
  }

  void run_all() {
    write_offsets();
    pack_weights();
    const std::int64_t cost = plan_.rows * plan_.classes() * gather_.columns.filled_size *
                              plan_.groups * gather_.filled_channels * gather_.cost_per_element();
    parallel_for(gather_.batch * plan_.group_blocks * plan_.row_blocks, cost,
                 [&](std::int64_t index, int thread) {
                   const std::int64_t row = index % plan_.row_blocks * plan_.rows,
                                      block = index / plan_.row_blocks;
                   const std::int64_t group = block % plan_.group_blocks * plan_.groups;
                   C* scratch = workspace_.of_thread<C>(thread);
                   C* sums = scratch + plan_.source_elements();
                   run_item({block / plan_.group_blocks, group,
                             smaller(plan_.groups, gather_.groups - group), row,
                             smaller(plan_.rows, plan_.source.rows.count - row), scratch, sums,
                             sums + plan_.sum_elements()});
                 });
  }

  // visit(row class, column class, its index, taps before it)
  template <class Visit>
  HANDCONV_INLINE void for_classes(const Visit& visit) const {
    std::int64_t index = 0, taps = 0;
    for (const AxisClass& rows : gather_.rows.classes()) {
      for (const AxisClass& columns : gather_.columns.classes()) {
        visit(rows, columns, index, taps);
        taps += rows.taps.count * columns.taps.count;
        ++index;
      }
    }
  }

  // [class][source channel of a chunk][tap]
  void write_offsets() const {
    for_classes(
        [&](const AxisClass& rows, const AxisClass& columns, std::int64_t, std::int64_t taps) {
          std::int64_t* to = offsets() + taps * plan_.chunk;
          for (std::int64_t s = 0; s < plan_.chunk; ++s) {
            for (const Tap& row : rows.taps) {
              for (const Tap& column : columns.taps) {
                *to++ = s * plan_.source.channel_step(plan_.rows) +
                        plan_.source.offset(row, column, plan_.rows);
              }
            }
          }
        });
  }

  C* weights_of(std::int64_t group, std::int64_t taps) const {
    return weights() +
           (group * gather_.kernel_area() + taps) * plan_.padded_filled * gather_.source_channels;
  }

  void pack_weights() const {
    const std::int64_t cost =
        2 * plan_.padded_filled * gather_.source_channels * gather_.kernel_area();
    parallel_for(gather_.groups, cost, [&](std::int64_t group, int) {
      const PlaneWeightPacker<T> packer(gather_, group);
      for_classes([&](const AxisClass& rows, const AxisClass& columns, std::int64_t,
                      std::int64_t taps) { packer.pack(rows, columns, weights_of(group, taps)); });
      packer.pack_bias(plan_.padded_filled, biases() + group * plan_.padded_filled);
    });
  }

  void run_item(const Item& item) const {
    const auto* image =
        static_cast<const T*>(gather_.source) + item.n * gather_.source_strides.sample;
    for (std::int64_t s = 0; s < gather_.source_channels; s += plan_.chunk) {
      const std::int64_t rest = gather_.source_channels - s;
      const std::int64_t count = rest < plan_.chunk ? rest : plan_.chunk;
      // More groups than one go with chunks of all channels.
      plan_.source.fill(image, gather_.source_strides,
                        item.first_group * gather_.source_channels + s, item.groups * count,
                        item.first_row, item.rows, plan_.rows, item.source, item.line);
      for (std::int64_t g = 0; g < item.groups; ++g) add_chunk(item, g, s, count);
    }
    const bool to_pixels = gather_.filled_strides.channel == 1;
    for_classes(
        [&](const AxisClass& rows, const AxisClass& columns, std::int64_t index, std::int64_t) {
          if (to_pixels) {
            store_pixels(item, rows, columns, index);
          } else if (columns.step == 2 && gather_.columns.classes().count == 2) {
            if (columns.first == 0) store_pairs(item, rows, columns, index);
          } else {
            store_planes(item, rows, columns, index);
          }
        });
  }

  // Source channels [first, first + count) of a group.
  void add_chunk(const Item& item, std::int64_t g, std::int64_t first, std::int64_t count) const {
    const std::int64_t group = item.first_group + g;
    for_classes([&](const AxisClass& rows, const AxisClass& columns, std::int64_t index,
                    std::int64_t taps) {
      const std::int64_t area = rows.taps.count * columns.taps.count;
      const std::int64_t positions = (item.rows - 1) * plan_.source.pitch() + columns.count;
      const C* weights = weights_of(group, taps);
      for (std::int64_t f = 0; f < gather_.filled_channels;) {
        const std::int64_t width = tile_channels(gather_.filled_channels - f);
        const std::int64_t channel = g * gather_.filled_channels + f;
        const PlaneSums<C> sums{
            item.source + g * plan_.chunk * plan_.source.channel_step(plan_.rows),
            offsets() + taps * plan_.chunk,
            count * area,
            weights + first * area * width,
            item.sums + channel * plan_.channel_elements() + index * plan_.plane_elements(),
            plan_.channel_elements(),
            first == 0 ? biases() + group * plan_.padded_filled + f : nullptr};
        visit_tile_channels(width, [&](auto channels) {
          add_plane_sums<C, decltype(channels)::value>(sums, ceil_divide(positions, L));
        });
        weights += gather_.source_channels * area * width;
        f += width;
      }
    });
  }

  static std::int64_t rows_of(const Item& item, const AxisClass& rows) {
    const std::int64_t rest = rows.count - item.first_row;
    return rest < item.rows ? rest : item.rows;
  }
  T* filled_row(const Item& item, const AxisClass& rows, std::int64_t row) const {
    const ImageStrides& strides = gather_.filled_strides;
    return static_cast<T*>(gather_.filled) + item.n * strides.sample +
           item.first_group * gather_.filled_channels * strides.channel +
           (rows.first + (item.first_row + row) * rows.step) * strides.row;
  }

  void store_planes(const Item& item, const AxisClass& rows, const AxisClass& columns,
                    std::int64_t index) const {
    const std::int64_t row_count = rows_of(item, rows);
    for (std::int64_t c = 0; c < item.groups * gather_.filled_channels; ++c) {
      const C* from = item.sums + c * plan_.channel_elements() + index * plan_.plane_elements();
      for (std::int64_t r = 0; r < row_count; ++r, from += plan_.source.pitch()) {
        T* to = filled_row(item, rows, r) + c * gather_.filled_strides.channel;
        if (columns.step == 1) {
          for (std::int64_t j = 0; j < columns.count; j += L)
            store_masked(to + j, load(from + j), mask_between<C>(0, columns.count - j));
        } else {
          to += columns.first;
          for (std::int64_t j = 0; j < columns.count; ++j)
            to[j * columns.step] = from_compute<T>(from[j]);
        }
      }
    }
  }

  // Columns of two classes in turn.
  void store_pairs(const Item& item, const AxisClass& rows, const AxisClass& even,
                   std::int64_t index) const {
    constexpr std::make_integer_sequence<int, L> lanes;
    const std::int64_t row_count = rows_of(item, rows);
    for (std::int64_t c = 0; c < item.groups * gather_.filled_channels; ++c) {
      const C* sums = item.sums + c * plan_.channel_elements() + index * plan_.plane_elements();
      for (std::int64_t j = 0; j < even.count; j += L) {
        const std::int64_t rest = gather_.columns.filled_size - 2 * j;
        const auto low = mask_between<C>(0, rest), high = mask_between<C>(0, rest - L);
        for (std::int64_t r = 0; r < row_count; ++r) {
          T* to = filled_row(item, rows, r) + c * gather_.filled_strides.channel + 2 * j;
          const C* from = sums + r * plan_.source.pitch() + j;
          const Vector<C> a = load(from), b = load(from + plan_.plane_elements());
          store_masked(to, interleave(a, b, 0, lanes), low);
          store_masked(to + L, interleave(a, b, 1, lanes), high);
        }
      }
    }
  }

  void store_pixels(const Item& item, const AxisClass& rows, const AxisClass& columns,
                    std::int64_t index) const {
    const std::int64_t row_count = rows_of(item, rows);
    const std::int64_t step = columns.step * gather_.filled_strides.column;
    const C* sums = item.sums + index * plan_.plane_elements();
    for (std::int64_t r = 0; r < row_count; ++r, sums += plan_.source.pitch()) {
      T* pixels = filled_row(item, rows, r) + columns.first * gather_.filled_strides.column;
      for (std::int64_t j = 0; j < columns.count; j += L) {
        for (std::int64_t c = 0; c < item.groups * gather_.filled_channels; c += L) {
          transpose_matrix(sums + c * plan_.channel_elements() + j, plan_.channel_elements(),
                           smaller(L, item.groups * gather_.filled_channels - c),
                           smaller(L, columns.count - j), pixels + c + j * step, step);
        }
      }
    }
  }

  const Gather& gather_;
  const Plan plan_;
  const Workspace& workspace_;
};
