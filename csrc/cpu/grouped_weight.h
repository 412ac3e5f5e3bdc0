// direct.grouped, weight gradient: lanes are the output channels of one group, of about a vector of
// them or two.
//
//     w[g, f, s, tap] = sum over n and pixels of y[n, g, f, pixel] * x[n, g, s, pixel + tap]
//
// A unit of work is up to 32 output by up to 16 input channels of a group, over all samples; an
// item is one unit or, in channels_last, some: neighbours in memory, which share its lines and
// pages. Some rows at a time are copied into scratch, x with zeros where the image is padded:
// [row][column] [channel], whatever the layout and type. The register tile is V vectors of output
// channels by S input channels by K taps, 24 sums that stay in registers over the rows of a block:
// a load of y serves S x K multiply-adds, whose other operand is an element of x broadcast from
// memory.

template <class T>
class GroupedWeightKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Plan plan(problem);
    return {0, static_cast<std::size_t>(plan.thread_elements()) * sizeof(C)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    GroupedWeightKernel(problem, buffers, workspace).run_all();
  }

 private:
  static constexpr std::int64_t L = kLanes<C>;

  // How the work is cut: by the shape of a sample alone.
  struct Plan {
    // Of a partial sum, or of two rows: at 448 the error was 2.4 times that of F.conv2d.
    static constexpr std::int64_t kPixels = 128;

    explicit Plan(const Problem& problem) {
      const Geometry& g = problem.geometry;
      constexpr std::int64_t kBytes = 64 << 10;
      vectors = g.out_channels_per_group() > L ? 2 : 1;
      lanes = vectors * L;
      tile_channels = kVectorBytes < 64 ? 4 / vectors : 8 / vectors;
      channels = smaller(16, round_up(g.in_channels_per_group(), tile_channels));
      pitch = (g.width.output - 1) * g.width.stride + g.width.receptive_field();
      const std::int64_t row = pitch * channels * static_cast<std::int64_t>(sizeof(C));
      const std::int64_t fit = kBytes / row - g.height.receptive_field();
      rows = fit / g.height.stride + 1;
      const std::int64_t short_sum = kPixels / g.width.output;
      rows = smaller(rows, short_sum < 2 ? 2 : short_sum);
      if (rows < 2) rows = 2;
      rows = ceil_divide(g.height.output, ceil_divide(g.height.output, rows));
      area = g.kernel_area();
      width = g.width.output;
      source_rows = (rows - 1) * g.height.stride + g.height.receptive_field();
      channel_blocks = ceil_divide(g.in_channels_per_group(), channels);
      filled_blocks = ceil_divide(g.out_channels_per_group(), lanes);
      units = g.groups * channel_blocks * filled_blocks;
      constexpr std::int64_t kMostUnits = 4, kEnoughItems = 8;
      item_units = problem.layout == Layout::kNchw
                       ? 1
                       : larger(1, smaller(kMostUnits, units / kEnoughItems));
    }

    std::int64_t x_elements() const { return round_up(source_rows * pitch * channels, L) + L * L; }
    std::int64_t y_elements() const { return (rows * width + L) * lanes; }
    std::int64_t total_elements() const { return (channels * area + L) * lanes; }
    std::int64_t thread_elements() const {
      return x_elements() + y_elements() + item_units * total_elements();
    }

    std::int64_t vectors, lanes, tile_channels;
    std::int64_t channels;  // of x, of an item: a multiple of the tile's
    std::int64_t pitch;     // pixels of a row of x in scratch
    std::int64_t rows;      // of y, of a block
    std::int64_t source_rows, width, area, channel_blocks, filled_blocks;
    std::int64_t units, item_units;
  };

  struct Unit {
    std::int64_t group, channel, channels, filled, lanes;  // first and count of either
    C *x, *y, *totals;
  };

  GroupedWeightKernel(const Problem& problem, const Buffers& buffers, const Workspace& workspace)
      : problem_(problem),
        g_(problem.geometry),
        buffers_(buffers),
        workspace_(workspace),
        plan_(problem) {}

  void run_all() const {
    const std::int64_t cost =
        plan_.item_units * g_.batch * g_.output_area() * plan_.lanes * plan_.channels * plan_.area;
    parallel_for(ceil_divide(plan_.units, plan_.item_units), cost,
                 [&](std::int64_t index, int thread) {
                   const std::int64_t first = index * plan_.item_units;
                   run_item(first, smaller(plan_.item_units, plan_.units - first),
                            workspace_.of_thread<C>(thread));
                 });
  }

  Unit unit(std::int64_t index, C* x, C* totals) const {
    const std::int64_t channel = index % plan_.channel_blocks * plan_.channels;
    const std::int64_t filled = index / plan_.channel_blocks % plan_.filled_blocks * plan_.lanes;
    return {index / plan_.channel_blocks / plan_.filled_blocks,
            channel,
            smaller(plan_.channels, g_.in_channels_per_group() - channel),
            filled,
            smaller(plan_.lanes, g_.out_channels_per_group() - filled),
            x,
            x + plan_.x_elements(),
            totals};
  }

  // A weight whose input channels are contiguous gets totals in that order.
  bool channels_are_inner() const {
    return problem_.w_strides.in_channel == 1 && problem_.w_strides.column != 1;
  }
  std::int64_t channel_step() const { return channels_are_inner() ? 1 : plan_.area; }
  std::int64_t tap_step() const { return channels_are_inner() ? plan_.channels : 1; }

  void run_item(std::int64_t first, std::int64_t units, C* x) const {
    C* totals = x + plan_.x_elements() + plan_.y_elements();
    const auto for_units = [&](const auto& visit) {
      for (std::int64_t i = 0; i < units; ++i)
        visit(unit(first + i, x, totals + i * plan_.total_elements()));
    };
    std::memset(totals, 0, static_cast<std::size_t>(units * plan_.total_elements()) * sizeof(C));
    for (std::int64_t n = 0; n < g_.batch; ++n) {
      for (std::int64_t row = 0; row < g_.height.output; row += plan_.rows) {
        const std::int64_t rows = smaller(plan_.rows, g_.height.output - row);
        for_units([&](const Unit& unit) { add_rows(unit, n, row, rows); });
      }
    }
    for_units([&](const Unit& unit) { store_totals(unit); });
  }

  void add_rows(const Unit& unit, std::int64_t n, std::int64_t row, std::int64_t rows) const {
    fill_x(unit, n, row, rows);
    fill_y(unit, n, row, rows);
    for (std::int64_t s = 0; s < unit.channels; s += plan_.tile_channels) {
      for (std::int64_t kh = 0; kh < g_.height.kernel; ++kh) add_taps(unit, s, kh, rows);
    }
  }

  // Pixels of y from one on, all of `rows` rows or some of one.
  struct Pixels {
    std::int64_t row, column, rows, columns;
  };

  // Long rows are more than one partial sum.
  void add_taps(const Unit& unit, std::int64_t s, std::int64_t kh, std::int64_t rows) const {
    const std::int64_t parts = ceil_divide(plan_.width, Plan::kPixels);
    if (parts == 1) return add_pixels(unit, s, kh, {0, 0, rows, plan_.width});
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t part = 0; part < parts; ++part) {
        const Range columns = part_of({0, plan_.width}, parts, part);
        add_pixels(unit, s, kh, {row, columns.first, 1, columns.last - columns.first});
      }
    }
  }

  void add_pixels(const Unit& unit, std::int64_t s, std::int64_t kh, const Pixels& pixels) const {
    const std::int64_t x_row = plan_.pitch * plan_.channels, step = plan_.channels;
    const C* x = unit.x + kh * g_.height.dilation * x_row + s +
                 pixels.row * g_.height.stride * x_row + pixels.column * g_.width.stride * step;
    const C* y = unit.y + (pixels.row * plan_.width + pixels.column) * plan_.lanes;
    for (std::int64_t kw = 0; kw < g_.width.kernel;) {
      const std::int64_t taps = smaller(3, g_.width.kernel - kw);
      const auto offset = [&](std::int64_t k) { return (kw + k) * g_.width.dilation * step; };
      const PixelProducts<C> products{
          x,
          {offset(0), offset(1), offset(2)},
          g_.width.stride * step,
          g_.height.stride * x_row,
          y,
          pixels.rows,
          pixels.columns,
          unit.totals +
              (s * channel_step() + (kh * g_.width.kernel + kw) * tap_step()) * plan_.lanes,
          channel_step() * plan_.lanes,
          tap_step() * plan_.lanes};
      plan_.vectors == 1 ? add_products<1>(products, taps) : add_products<2>(products, taps);
      kw += taps;
    }
  }

  template <int V>
  static void add_products(const PixelProducts<C>& products, std::int64_t taps) {
    constexpr int S = (kVectorBytes < 64 ? 4 : 8) / V;
    if (taps == 3) return add_pixel_products<C, V, S, 3>(products);
    if (taps == 2) return add_pixel_products<C, V, S, 2>(products);
    add_pixel_products<C, V, S, 1>(products);
  }

  // The pixels that rows [row, row + rows) of y see, zeros in the padding.
  void fill_x(const Unit& unit, std::int64_t n, std::int64_t row, std::int64_t rows) const {
    const ImageStrides strides = problem_.x_strides();
    const T* image = static_cast<const T*>(buffers_.x) + n * strides.sample +
                     (unit.group * g_.in_channels_per_group() + unit.channel) * strides.channel;
    const std::int64_t source_rows = (rows - 1) * g_.height.stride + g_.height.receptive_field();
    const std::int64_t first = g_.width.padding;
    const std::int64_t last = smaller(plan_.pitch, g_.width.padding + g_.width.input);
    C* to = unit.x;
    for (std::int64_t r = 0; r < source_rows; ++r, to += plan_.pitch * plan_.channels) {
      const std::int64_t h = row * g_.height.stride - g_.height.padding + r;
      if (h < 0 || h >= g_.height.input) {
        fill_zeros(to, plan_.pitch * plan_.channels);
        continue;
      }
      fill_zeros(to, smaller(first, plan_.pitch) * plan_.channels);
      if (first < last) {
        copy_pixels(image + h * strides.row, strides, last - first, unit.channels,
                    to + first * plan_.channels, plan_.channels);
        fill_zeros(to + last * plan_.channels, (plan_.pitch - last) * plan_.channels);
      }
    }
  }

  void fill_y(const Unit& unit, std::int64_t n, std::int64_t row, std::int64_t rows) const {
    const ImageStrides strides = problem_.y_strides();
    const T* image = static_cast<const T*>(buffers_.y) + n * strides.sample + row * strides.row +
                     (unit.group * g_.out_channels_per_group() + unit.filled) * strides.channel;
    copy_pixels(image, strides, rows * g_.width.output, unit.lanes, unit.y, plan_.lanes);
  }

  static void fill_zeros(C* p, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += L)
      store_masked(p + i, Vector<C>{}, mask_between<C>(0, count - i));
  }

  // `count` pixels that follow each other in the image to [pixel][step], zeros past the channels.
  static void copy_pixels(const T* from, const ImageStrides& strides, std::int64_t count,
                          std::int64_t channels, C* to, std::int64_t step) {
    for (std::int64_t c = 0; c < step; c += L) {
      const auto mask = mask_between<C>(0, channels - c), wanted = mask_between<C>(0, step - c);
      if (strides.channel == 1) {
        for (std::int64_t p = 0; p < count; ++p) {
          const T* pixel = from + p * strides.column + c;
          __builtin_prefetch(pixel + L);  // of the next unit
          store_masked(to + p * step + c, load_masked(pixel, mask), wanted);
        }
        continue;
      }
      for (std::int64_t p = 0; p < count; p += L) {
        const auto pixels = mask_between<C>(0, count - p);
        Vector<C> square[L];
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < L; ++i) {
          square[i] = c + i < channels ? load_masked(from + (c + i) * strides.channel + p, pixels)
                                       : Vector<C>{};
        }
        transpose<C>(square);
        for (std::int64_t i = 0; i < L && p + i < count; ++i)
          store_masked(to + (p + i) * step + c, square[i], wanted);
      }
    }
  }

  void store_totals(const Unit& unit) const {
    const WeightStrides& strides = problem_.w_strides;
    const std::int64_t oc = unit.group * g_.out_channels_per_group() + unit.filled;
    if (!channels_are_inner() && strides.column == 1 && strides.row == g_.width.kernel &&
        strides.in_channel == plan_.area) {
      T* w = weight_element<T>(problem_, buffers_, oc, unit.channel, 0, 0);
      transpose_matrix(unit.totals, plan_.lanes, unit.channels * plan_.area, unit.lanes, w,
                       strides.out_channel);
      return;
    }
    for (std::int64_t kh = 0; kh < g_.height.kernel; ++kh) {
      for (std::int64_t kw = 0; kw < g_.width.kernel; ++kw) {
        T* w = weight_element<T>(problem_, buffers_, oc, unit.channel, kh, kw);
        const C* totals = unit.totals + (kh * g_.width.kernel + kw) * tap_step() * plan_.lanes;
        if (channels_are_inner()) {
          transpose_matrix(totals, plan_.lanes, unit.channels, unit.lanes, w, strides.out_channel);
          continue;
        }
        for (std::int64_t s = 0; s < unit.channels; ++s) {
          for (std::int64_t lane = 0; lane < unit.lanes; ++lane) {
            w[lane * strides.out_channel + s * strides.in_channel] =
                from_compute<T>(totals[s * channel_step() * plan_.lanes + lane]);
          }
        }
      }
    }
  }

  const Problem& problem_;
  const Geometry& g_;
  const Buffers& buffers_;
  const Workspace& workspace_;
  const Plan plan_;
};
