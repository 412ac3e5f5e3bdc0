// The weight gradient of direct.planes: lanes are neighbouring pixels.
//
//     w[g, f, s, tap] = sum over n and pixels of y[n, g, f, pixel] * x[n, g, s, pixel + tap]
//
// An item of work is some groups (of a large group, some output channels) over all samples. Block
// by block, x and y are copied into scratch: x as the planes of padded_planes.h, y as [vector of
// positions][channel]; a register tile of channels of y by (channel, tap) of x then sums one block
// lane by lane, and is added to totals in memory, whose lanes are added at the very end. A block is
// some rows of a sample, or some small samples: enough that the totals are touched seldom. The sum
// of a block is short, which keeps rounding small.

template <class T>
class PlanesWeightKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Gather gather(as_forward(problem), {});
    const Plan plan(gather);
    return {static_cast<std::size_t>(plan.shared_elements()) * sizeof(C),
            static_cast<std::size_t>(plan.thread_elements()) * sizeof(C)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Gather gather(as_forward(problem), buffers);
    PlanesWeightKernel(buffers, gather, workspace).run_all();
  }

 private:
  static constexpr std::int64_t L = kLanes<C>;

  // x is the source of the convolution, and y is what it fills.
  static Problem as_forward(Problem problem) {
    problem.slot = Slot::kOutput;
    return problem;
  }

  // How the work is cut: by the shape of a sample alone, but for small samples.
  struct Plan {
    explicit Plan(const Gather& gather) : gather(gather), x(gather) {
      constexpr std::int64_t kBytes = 48 << 10, kPositions = 512, kTotals = 1 << 16;
      const std::int64_t fit = kBytes / static_cast<std::int64_t>(sizeof(C));
      const std::int64_t total = x.rows.count;
      filled = smaller(gather.filled_channels, kMostTileChannels);
      filled_blocks = ceil_divide(gather.filled_channels, filled);
      // Of a group of many channels, so many that their totals fit in the second-level cache and
      // that enough rows of them fit in scratch. y is packed again for every such part.
      const std::int64_t wanted_rows =
          smaller(total, ceil_divide(kPositions, larger(1, x.pitch())));
      const std::int64_t fewest = larger(8, 2 * filled);
      channels = gather.source_channels;
      while ((channels > 1 && channels * gather.kernel_area() * kMostTileChannels * L > kTotals) ||
             (channels > fewest && channels * x.channel_elements(wanted_rows) > fit)) {
        channels = ceil_divide(channels, 2);
      }
      channel_blocks = ceil_divide(gather.source_channels, channels);
      const bool whole = channel_blocks == 1 && gather.filled_channels <= kMostTileChannels;
      groups = whole ? larger(1, L / larger(channels, filled)) : 1;
      if (groups > gather.groups) groups = gather.groups;
      std::int64_t most = 1;
      while (most < total && x.is_worth(most + 1, groups * channels, fit)) ++most;
      row_blocks = total ? ceil_divide(total, most) : 0;
      rows = row_blocks ? ceil_divide(total, row_blocks) : 1;
      samples = 1;
      while (row_blocks == 1 && samples < gather.batch && samples * rows * x.pitch() < kPositions &&
             (samples + 1) * x_elements() <= fit) {
        ++samples;
      }
      padded_filled = padded_channels(filled);
    }

    std::int64_t items() const {
      return ceil_divide(gather.groups, groups) * filled_blocks * channel_blocks;
    }
    std::int64_t steps() const { return channels * gather.kernel_area(); }
    std::int64_t vectors() const { return ceil_divide(rows * x.pitch(), L); }
    std::int64_t x_elements() const { return groups * channels * x.channel_step(rows); }
    // One sample of y: [group][tile of channels][vector][channel of the tile]
    std::int64_t y_group() const { return padded_filled * vectors() * L; }
    std::int64_t y_elements() const { return groups * y_group(); }
    std::int64_t total_elements() const { return groups * padded_filled * (steps() + L) * L; }
    // y as lines of positions, before it is put in order.
    std::int64_t line_step() const { return (vectors() + 1) * L; }
    std::int64_t lines_elements() const { return groups * filled * line_step(); }

    std::int64_t shared_elements() const {
      return 2 * vectors() * L +
             2 * steps() * static_cast<std::int64_t>(sizeof(std::int64_t) / sizeof(C));
    }
    std::int64_t thread_elements() const {
      return samples * (x_elements() + y_elements()) + x.pitch() + 2 * L + total_elements() +
             lines_elements() + x.line_elements() + 4 * L;
    }

    const Gather& gather;
    PaddedPlanes<T> x;
    std::int64_t channels, channel_blocks;  // of x, of an item
    std::int64_t filled, filled_blocks;     // channels of y
    std::int64_t groups;
    std::int64_t rows, row_blocks, samples;  // of a block
    std::int64_t padded_filled;
  };

  struct Item {
    std::int64_t first_group, groups, first_channel, channels, first_filled, filled;
    C *x, *y, *totals, *lines, *line;
  };

  PlanesWeightKernel(const Buffers& buffers, const Gather& gather, const Workspace& workspace)
      : buffers_(buffers), gather_(gather), plan_(gather), workspace_(workspace) {}

  // Of the vectors of a block, then of the last block of rows: which lanes are positions.
  LaneIndex<C>* lanes() const { return workspace_.shared<LaneIndex<C>>(); }
  std::int64_t* offsets() const {
    return static_cast<std::int64_t*>(
        static_cast<void*>(workspace_.shared<C>() + 2 * plan_.vectors() * L));
  }

  // Of the elements of w that the steps are, from the first.
  std::int64_t* w_offsets() const { return offsets() + plan_.steps(); }

  void run_all() {
    write_tables();
    const std::int64_t cost = gather_.batch * gather_.filled_area() * plan_.groups * plan_.filled *
                              plan_.channels * gather_.kernel_area();
    parallel_for(plan_.items(), cost, [&](std::int64_t index, int thread) {
      const std::int64_t channel = index % plan_.channel_blocks * plan_.channels;
      const std::int64_t filled = index / plan_.channel_blocks % plan_.filled_blocks * plan_.filled;
      const std::int64_t group = index / plan_.channel_blocks / plan_.filled_blocks * plan_.groups;
      C* x = workspace_.of_thread<C>(thread);
      C* y = x + (plan_.samples * plan_.x_elements() + plan_.x.pitch() + 3 * L - 1) / L * L;
      C* totals = y + plan_.samples * plan_.y_elements();
      C* lines = totals + plan_.total_elements();
      run_item({group, smaller(plan_.groups, gather_.groups - group), channel,
                smaller(plan_.channels, gather_.source_channels - channel), filled,
                smaller(plan_.filled, gather_.filled_channels - filled), x, y, totals, lines,
                lines + plan_.lines_elements()});
    });
  }

  const AxisClass& y_rows() const { return gather_.rows.classes()[0]; }
  const AxisClass& y_columns() const { return gather_.columns.classes()[0]; }

  void write_tables() const {
    const std::int64_t pitch = plan_.x.pitch(), width = y_columns().count;
    const std::int64_t last_rows = y_rows().count - (plan_.row_blocks - 1) * plan_.rows;
    for (std::int64_t i = 0; i < plan_.vectors() * L; ++i) {
      const bool inside = i % pitch < width;
      lanes()[i] = inside && i < plan_.rows * pitch ? -1 : 0;
      lanes()[plan_.vectors() * L + i] = inside && i < last_rows * pitch ? -1 : 0;
    }
    std::int64_t *x = offsets(), *w = w_offsets();
    for (std::int64_t s = 0; s < plan_.channels; ++s) {
      for (const Tap& row : y_rows().taps) {
        for (const Tap& column : y_columns().taps) {
          *x++ = s * plan_.x.channel_step(plan_.rows) + plan_.x.offset(row, column, plan_.rows);
          *w++ =
              s * gather_.w_source + row.kernel * gather_.w_row + column.kernel * gather_.w_column;
        }
      }
    }
  }

  void run_item(const Item& item) const {
    std::memset(item.totals, 0, static_cast<std::size_t>(plan_.total_elements()) * sizeof(C));
    for (std::int64_t n = 0; n < gather_.batch; n += plan_.samples) {
      for (std::int64_t block = 0; block < plan_.row_blocks; ++block) {
        const std::int64_t row = block * plan_.rows;
        add_block(item, n, smaller(plan_.samples, gather_.batch - n), row,
                  smaller(plan_.rows, y_rows().count - row));
      }
    }
    for (std::int64_t g = 0; g < item.groups; ++g) {
      for (std::int64_t f = 0; f < item.filled; ++f) store_totals(item, g, f);
    }
  }

  void add_block(const Item& item, std::int64_t first, std::int64_t samples, std::int64_t row,
                 std::int64_t rows) const {
    const auto* x = static_cast<const T*>(gather_.source);
    const std::int64_t channel = item.first_group * gather_.source_channels + item.first_channel;
    for (std::int64_t n = 0; n < samples; ++n) {
      plan_.x.fill(x + (first + n) * gather_.source_strides.sample, gather_.source_strides, channel,
                   item.groups * item.channels, row, rows, plan_.rows,
                   item.x + n * plan_.x_elements(), item.line);
      fill_y(item, first + n, row, rows, item.y + n * plan_.y_elements());
    }
    const std::int64_t steps = item.channels * gather_.kernel_area();
    for (std::int64_t g = 0; g < item.groups; ++g) {
      for (std::int64_t f = 0; f < item.filled;) {
        const std::int64_t width = tile_channels(item.filled - f);
        const PlaneProducts<C> products{
            item.x + g * plan_.channels * plan_.x.channel_step(plan_.rows),
            offsets(),
            item.y + g * plan_.y_group() + f * plan_.vectors() * L,
            lanes() + (rows == plan_.rows ? 0 : plan_.vectors() * L),
            ceil_divide(rows * plan_.x.pitch(), L),
            samples,
            plan_.x_elements(),
            plan_.y_elements(),
            totals_of(item, g, f),
            (plan_.steps() + L) * L};
        visit_tile_channels(width, [&](auto channels) {
          add_all_plane_products<C, decltype(channels)::value>(products, steps);
        });
        f += width;
      }
    }
  }

  C* totals_of(const Item& item, std::int64_t g, std::int64_t f) const {
    return item.totals + (g * plan_.padded_filled + f) * (plan_.steps() + L) * L;
  }

  // Rows [row, row + rows) of one sample of y.
  void fill_y(const Item& item, std::int64_t n, std::int64_t row, std::int64_t rows, C* to) const {
    const ImageStrides& strides = gather_.filled_strides;
    const std::int64_t pitch = plan_.x.pitch(), width = y_columns().count;
    const std::int64_t channels = item.groups * item.filled;
    const T* image =
        static_cast<const T*>(gather_.filled) + n * strides.sample +
        (item.first_group * gather_.filled_channels + item.first_filled) * strides.channel +
        row * strides.row;
    for (std::int64_t r = 0; r < rows; ++r, image += strides.row) {
      C* line = item.lines + r * pitch;
      for (std::int64_t j = 0; j < pitch; j += L) {
        if (strides.channel == 1) {
          for (std::int64_t c = 0; c < channels; c += L) {
            transpose_to_planes(image + c + j * strides.column, strides.column, 0, width - j,
                                channels - c, line + c * plan_.line_step() + j, plan_.line_step());
          }
        } else {
          const auto mask = mask_between<C>(0, width - j);
          for (std::int64_t c = 0; c < channels; ++c) {
            store(line + c * plan_.line_step() + j,
                  load_masked(image + c * strides.channel + j, mask));
          }
        }
      }
    }
    const std::int64_t vectors = ceil_divide(rows * pitch, L);
    for (std::int64_t c = 0; c < channels; ++c)
      store(item.lines + c * plan_.line_step() + rows * pitch, Vector<C>{});
    for (std::int64_t g = 0; g < item.groups; ++g) {
      for (std::int64_t f = 0; f < item.filled;) {
        const std::int64_t tile = tile_channels(item.filled - f);
        C* panel = to + g * plan_.y_group() + f * plan_.vectors() * L;
        for (std::int64_t i = 0; i < tile; ++i) {
          const bool exists = f + i < item.filled;
          const C* line = item.lines + (g * item.filled + f + i) * plan_.line_step();
          for (std::int64_t v = 0; v < vectors; ++v) {
            store(panel + (v * tile + i) * L, exists ? load(line + v * L) : Vector<C>{});
          }
        }
        f += tile;
      }
    }
  }

  // Adds the lanes of the totals of one output channel.
  void store_totals(const Item& item, std::int64_t g, std::int64_t f) const {
    const std::int64_t steps = item.channels * gather_.kernel_area();
    const bool in_order = gather_.w_column == 1 && gather_.w_row == gather_.columns.kernel_size &&
                          gather_.w_source == gather_.kernel_area();
    T* w = static_cast<T*>(buffers_.w) + (item.first_group + g) * gather_.w_group +
           (item.first_filled + f) * gather_.w_filled + item.first_channel * gather_.w_source;
    const C* totals = totals_of(item, g, f);
    for (std::int64_t k = 0; k < steps; k += L) {
      Vector<C> square[L];
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < L; ++i) square[i] = load(totals + (k + i) * L);
      transpose<C>(square);
#pragma GCC unroll 4
      for (std::int64_t half = L / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
        for (std::int64_t i = 0; i < half; ++i) square[i] += square[i + half];
      }
      if (in_order) {
        store_masked(w + k, square[0], mask_between<C>(0, steps - k));
      } else {
        for (std::int64_t i = 0; i < L && k + i < steps; ++i)
          w[w_offsets()[k + i]] = from_compute<T>(square[0][i]);
      }
    }
  }

  const Buffers& buffers_;
  const Gather& gather_;
  const Plan plan_;
  const Workspace& workspace_;
};
