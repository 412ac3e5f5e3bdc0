// direct.stem: the convolution of images of few channels, as in the first layer of a network.
//
//     y[n, oc, pixel] = bias[oc] + sum over terms k = (ic, kh, kw) of w[oc, k] *
//                                                  strip[pixel * step + offsets[k]]
//
// An item of work is some rows of some columns of one sample. It copies what it reads of x into a
// strip of some tens of KiB (stem_strip.h) and multiplies by the tiles of stem_tile.h, which store
// right into y. Terms follow each other as they do in w, so that packing the weight is a copy, or
// the transpose of a matrix. Bytes: x (a little more, where rows of items overlap) and y once, the
// packed weight once for every row, from the second-level cache.

template <class T, bool kPixelsAreRows>
class StemKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const Plan plan(problem);
    return {bytes_of<C>(plan.weights() + plan.biases()) +
                static_cast<std::size_t>(plan.terms) * sizeof(std::int64_t),
            bytes_of<C>(plan.strip.elements() + kTile)};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    StemKernel(problem, buffers, workspace).run_all();
  }

 private:
  static constexpr std::int64_t L = kLanes<C>;
  static constexpr std::int64_t kTile = 14 * kStemVectors * L;  // as large as any

  using Plan = StemPlan<T, kPixelsAreRows>;

  StemKernel(const Problem& problem, const Buffers& buffers, const Workspace& workspace)
      : plan_(problem),
        x_strides_(problem.x_strides()),
        y_strides_(problem.y_strides()),
        w_strides_(problem.w_strides),
        buffers_(buffers),
        workspace_(workspace) {}

  C* weights() const { return workspace_.shared<C>(); }
  C* biases() const { return weights() + plan_.weights(); }
  std::int64_t* offsets() const {
    return static_cast<std::int64_t*>(static_cast<void*>(biases() + plan_.biases()));
  }

  void run_all() const {
    const Geometry& g = plan_.geometry;
    prepare();
    const std::int64_t parts = plan_.row_parts * plan_.column_parts;
    const std::int64_t cost = plan_.rows * plan_.columns * plan_.terms * g.out_channels;
    parallel_for(g.batch * parts, cost, [&](std::int64_t item, int thread) {
      const std::int64_t row = item / plan_.column_parts % plan_.row_parts * plan_.rows;
      const std::int64_t column = item % plan_.column_parts * plan_.columns;
      run_item({item / parts, row, smaller(plan_.rows, g.height.output - row), column,
                smaller(plan_.columns, g.width.output - column)},
               workspace_.of_thread<C>(thread));
    });
  }

  // Offsets of terms, the bias, the weight.
  void prepare() const {
    for_terms([&](std::int64_t ic, std::int64_t kh, std::int64_t kw, std::int64_t number) {
      offsets()[number] = plan_.strip.offset(ic, kh, kw);
    });
    const auto* bias = static_cast<const T*>(buffers_.bias);
    for (std::int64_t oc = 0; oc < plan_.biases(); ++oc)
      biases()[oc] = bias && oc < plan_.geometry.out_channels ? to_compute(bias[oc]) : C(0);
    const std::int64_t unit = kPixelsAreRows ? plan_.panel_lanes : 16;
    const std::int64_t units = ceil_divide(plan_.geometry.out_channels, unit);
    parallel_for(units, 2 * plan_.terms * unit, [&](std::int64_t index, int) {
      const std::int64_t first = index * unit;
      pack(first, smaller(unit, plan_.geometry.out_channels - first),
           weights() + first * plan_.weight_pitch());
    });
  }

  // Whether the terms of an output channel are all that lies between its first and its last.
  bool weight_is_dense() const {
    const Geometry& g = plan_.geometry;
    const WeightStrides& w = w_strides_;
    const bool contiguous =
        w.column == 1 && w.row == g.width.kernel && w.in_channel == g.kernel_area();
    const bool channels_last =
        w.in_channel == 1 && w.column == g.in_channels && w.row == g.width.kernel * g.in_channels;
    return contiguous || channels_last;
  }
  std::int64_t element_of_weight(std::int64_t ic, std::int64_t kh, std::int64_t kw) const {
    return ic * w_strides_.in_channel + kh * w_strides_.row + kw * w_strides_.column;
  }

  // visit(ic, kh, kw, number of the term)
  template <class Visit>
  void for_terms(const Visit& visit) const {
    const Geometry& g = plan_.geometry;
    const bool dense = weight_is_dense();
    std::int64_t number = 0;
    for (std::int64_t ic = 0; ic < g.in_channels; ++ic) {
      for (std::int64_t kh = 0; kh < g.height.kernel; ++kh) {
        for (std::int64_t kw = 0; kw < g.width.kernel; ++kw, ++number)
          visit(ic, kh, kw, dense ? element_of_weight(ic, kh, kw) : number);
      }
    }
  }

  // Output channels [first, first + count): [term][lane] with zeros past the last lane, or
  // [channel][term].
  void pack(std::int64_t first, std::int64_t count, C* packed) const {
    const std::int64_t pitch = w_strides_.out_channel, terms = plan_.terms;
    const T* w = static_cast<const T*>(buffers_.w) + first * pitch;
    const std::int64_t lanes = plan_.panel_lanes;
    if (kPixelsAreRows && count < lanes) {
      for (std::int64_t i = 0; i < terms * lanes; i += L) store(packed + i, Vector<C>{});
    }
    if (!weight_is_dense()) {
      for_terms([&](std::int64_t ic, std::int64_t kh, std::int64_t kw, std::int64_t number) {
        for (std::int64_t oc = 0; oc < count; ++oc) {
          packed[kPixelsAreRows ? number * lanes + oc : oc * plan_.weight_pitch() + number] =
              to_compute(w[oc * pitch + element_of_weight(ic, kh, kw)]);
        }
      });
    } else if (kPixelsAreRows) {
      transpose_matrix(w, pitch, count, terms, packed, lanes);
    } else {
      for (std::int64_t oc = 0; oc < count; ++oc) {
        for (std::int64_t k = 0; k < terms; k += L) {
          const auto mask = mask_between<C>(0, terms - k);
          store_masked(packed + oc * plan_.weight_pitch() + k,
                       load_masked(w + oc * pitch + k, mask), mask);
        }
      }
    }
  }

  // What one item fills.
  struct Item {
    std::int64_t sample, first_row, rows, first_column, columns;
  };

  void run_item(const Item& item, C* scratch) const {
    plan_.strip.fill(static_cast<const T*>(buffers_.x) + item.sample * x_strides_.sample,
                     item.first_row, item.rows, item.first_column, scratch);
    T* y = static_cast<T*>(buffers_.y) + item.sample * y_strides_.sample +
           item.first_row * y_strides_.row + item.first_column * y_strides_.column;
    C* tile = scratch + plan_.strip.elements();
    if (kPixelsAreRows) {
      for (std::int64_t panel = 0; panel < plan_.panels; ++panel) {
        for (std::int64_t row = 0; row < item.rows; ++row) {
          fill_channels(panel, item.columns, scratch + row * plan_.strip.row_step(),
                        y + row * y_strides_.row, tile);
        }
      }
    } else {
      for (std::int64_t row = 0; row < item.rows; ++row) {
        fill_pixels(item.columns, scratch + row * plan_.strip.row_step(), y + row * y_strides_.row,
                    tile);
      }
    }
  }

  // Some columns of a row: one panel of channels, which are lanes.
  void fill_channels(std::int64_t panel, std::int64_t columns, const C* strip, T* y,
                     C* tile) const {
    const std::int64_t lanes = plan_.panel_lanes, first = panel * lanes;
    const std::int64_t count = smaller(lanes, plan_.geometry.out_channels - first);
    const std::int64_t step = plan_.strip.pixel_step();
    for_tiles(columns, stem_rows(ceil_divide(count, L)),
              [&](std::int64_t pixel, std::int64_t rows, std::int64_t tiles) {
                StemJob<C> job{};
                job.rows = strip + pixel * step;
                job.row_pitch = step;
                job.lanes = weights() + first * plan_.weight_pitch();
                job.lane_pitch = lanes;
                job.bias = biases() + first;
                fill_tiles(job, rows, tiles, count, y + pixel * y_strides_.column + first,
                           y_strides_.column, tile);
              });
  }

  // Some columns of a row, which are lanes: all channels.
  void fill_pixels(std::int64_t columns, const C* strip, T* y, C* tile) const {
    const std::int64_t vectors = ceil_divide(columns, L), channels = plan_.geometry.out_channels;
    const EvenSplit parts{vectors, ceil_divide(vectors, kStemVectors)};
    for (std::int64_t part = 0; part < parts.parts; ++part) {
      const std::int64_t pixel = parts.first(part) * L;
      const std::int64_t lanes = smaller(parts.size(part) * L, columns - pixel);
      for_tiles(channels, stem_rows(parts.size(part)),
                [&](std::int64_t first, std::int64_t rows, std::int64_t tiles) {
                  StemJob<C> job{};
                  job.rows = weights() + first * plan_.weight_pitch();
                  job.row_pitch = plan_.weight_pitch();
                  job.lanes = strip + pixel;
                  job.bias = biases() + first;
                  fill_tiles(job, rows, tiles, lanes, y + first * y_strides_.channel + pixel,
                             y_strides_.channel, tile);
                });
    }
  }

  // visit(first, rows of a tile, tiles) for rows cut into tiles of even size.
  template <class Visit>
  HANDCONV_INLINE static void for_tiles(std::int64_t rows, std::int64_t most, const Visit& visit) {
    const std::int64_t tiles = ceil_divide(rows, most), size = rows / tiles;
    const std::int64_t larger_ones = rows % tiles;
    if (larger_ones > 0) visit(0, size + 1, larger_ones);
    visit(larger_ones * (size + 1), size, tiles - larger_ones);
  }

  void fill_tiles(StemJob<C>& job, std::int64_t rows, std::int64_t tiles, std::int64_t lanes, T* y,
                  std::int64_t pitch, C* tile) const {
    if (is_direct()) {
      job.tiles = tiles;
      return fill_tile(job, rows, lanes, y, pitch, tile);
    }
    const StemJob<C> first = job;
    for (std::int64_t i = 0; i < tiles; ++i) {
      job = first;
      job.tiles = 1;
      job.rows += i * rows * job.row_pitch;
      if (!kPixelsAreRows) job.bias += i * rows;
      fill_tile(job, rows, lanes, y + i * rows * pitch, pitch, tile);
    }
  }
  // Whether a tile is stored right into y: not where it must be rounded or is summed in parts.
  bool is_direct() const { return std::is_same_v<T, C> && plan_.block == plan_.terms; }

  // y[r * pitch + lane], through `tile` where it is not direct.
  void fill_tile(StemJob<C>& job, std::int64_t rows, std::int64_t lanes, T* y, std::int64_t pitch,
                 C* tile) const {
    job.target = tile;
    job.target_pitch = kStemVectors * L;
    if constexpr (std::is_same_v<T, C>) {
      if (is_direct()) {
        job.target = y;
        job.target_pitch = pitch;
      }
    }
    std::int64_t k = 0;
    do {
      job.offsets = offsets() + k;
      job.terms = smaller(plan_.block, plan_.terms - k);
      multiply_stem<C, kPixelsAreRows>(rows, lanes, job);
      job.bias = nullptr;
      if (kPixelsAreRows) {
        job.lanes += plan_.block * job.lane_pitch;
      } else {
        job.rows += plan_.block;
      }
      k += plan_.block;
    } while (k < plan_.terms);
    if (is_direct()) return;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t lane = 0; lane < lanes; lane += L) {
        store_masked(y + r * pitch + lane, load(tile + r * kStemVectors * L + lane),
                     mask_between<C>(0, lanes - lane));
      }
    }
  }

  const Plan plan_;
  const ImageStrides x_strides_, y_strides_;
  const WeightStrides w_strides_;
  const Buffers& buffers_;
  const Workspace& workspace_;
};

// The kernel of either layout.
template <class T>
struct StemByLayout {
  static WorkspaceSize workspace(const Problem& problem) {
    return problem.layout == Layout::kNhwc ? StemKernel<T, true>::workspace(problem)
                                           : StemKernel<T, false>::workspace(problem);
  }
  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    if (problem.layout == Layout::kNhwc) {
      StemKernel<T, true>::run(problem, buffers, workspace);
    } else {
      StemKernel<T, false>::run(problem, buffers, workspace);
    }
  }
};
