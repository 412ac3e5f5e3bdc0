// direct.pointwise: windows of one tap that see every pixel in its own place, as a product of two
// matrices.
//
//     filled[pixel, f] = bias[f] + sum over s of source[pixel, s] w[f, s]
//
// channels_last makes pixels the rows of the tile of pointwise_tile.h and filled channels its
// lanes, NCHW the other way round, so that vectors are stored as they lie. Rows are read where
// they lie, pixels as well as w; what lies along the lanes is packed, or read in place from small
// planes. An item packs what it needs: threads never wait for each other, and what a thread packed
// of w serves all its items of the chunk.
//
// Bytes per multiply-add of a strip of P pixels by F channels: 4 / F for the image and 4 / P for
// the weight, from L2.

template <class T, bool kPixelsAreRows>
class PointwiseKernel {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    const PointwiseKernel kernel(problem, {});
    return {0, bytes_of<C>(kernel.thread_size())};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    PointwiseKernel(problem, buffers).run_items(workspace);
  }

 private:
  static constexpr std::int64_t L = kLanes<C>, kHeader = 64 / sizeof(C);
  static constexpr std::int64_t kPanel = kPointwiseVectors * L;
  static constexpr bool kConverts = !std::is_same_v<T, C>;

  // An operand as the tile reads it; panels that are packed have a pitch of 0 here.
  struct Rows {
    const C* data;
    std::int64_t row_step, term_step;
  };
  struct Lanes {
    const C* data;
    std::int64_t pitch;
  };
  struct Extent {
    std::int64_t first, count;
  };

  PointwiseKernel(const Problem& problem, const Buffers& buffers)
      : shape_(problem),
        lanes_in_place_(lanes_in_place(shape_)),
        plan_(shape_, lanes_in_place_),
        source_(static_cast<const T*>(problem.slot == Slot::kOutput ? buffers.x : buffers.y)),
        w_(static_cast<const T*>(buffers.w)),
        bias_(static_cast<const T*>(buffers.bias)),
        target_(static_cast<T*>(problem.slot == Slot::kOutput ? buffers.y : buffers.x)) {
    // Terms far apart would each come from a line of their own, out of L2.
    constexpr std::int64_t kBytes = (128 << 10) / sizeof(C);
    const bool w_in_place = shape_.w_source == 1
                                ? !rows_of_tile_collide<C>(shape_.w_filled)
                                : shape_.w_filled == 1 && !rows_collide<C>(shape_.w_source) &&
                                      shape_.w_source * shape_.sources <= kBytes;
    rows_in_place_ = !kConverts &&
                     (kPixelsAreRows ? !rows_of_tile_collide<C>(shape_.source.column) : w_in_place);
  }

  // Planes so small that pages and the cache hold those of many terms.
  static bool lanes_in_place(const PointwiseShape& shape) {
    constexpr std::int64_t kBytes = (256 << 10) / sizeof(C), kPixels = 256;
    return !kPixelsAreRows && !kConverts && kPanelsInPlace && !rows_collide<C>(shape.pixels) &&
           (shape.pixels <= kPixels || shape.sources * shape.pixels <= kBytes);
  }

  // Filled channels are dealt out in vectors where they are lanes, and so are pixels.
  Extent chunk(std::int64_t i) const {
    return kPixelsAreRows ? part_of(VectorParts<C>(shape_.filled, plan_.chunks()), i)
                          : part_of(EvenSplit{shape_.filled, plan_.chunks()}, i);
  }
  Extent strip(std::int64_t i) const {
    return kPixelsAreRows ? part_of(EvenSplit{shape_.pixels, plan_.strips()}, i)
                          : part_of(VectorParts<C>(shape_.pixels, plan_.strips()), i);
  }
  template <class Parts>
  static Extent part_of(const Parts& parts, std::int64_t i) {
    return {parts.first(i), parts.first(i + 1) - parts.first(i)};
  }
  std::int64_t most_channels() const {
    return round_up(ceil_divide(shape_.filled, plan_.chunks()), L) + L;
  }
  std::int64_t most_pixels() const {
    return round_up(ceil_divide(shape_.pixels, plan_.strips()), L) + L;
  }

  // Of a thread, in elements: which weights it has packed, these, the image, the bias, and a panel
  // of results before they are rounded.
  std::int64_t weight_size() const {
    if (!kPixelsAreRows && rows_in_place_) return 0;
    return most_channels() * (kPixelsAreRows ? shape_.sources : padded_row<C>(shape_.sources));
  }
  std::int64_t image_size() const {
    if (kPixelsAreRows ? rows_in_place_ : lanes_in_place_) return 0;
    return most_pixels() * (kPixelsAreRows ? padded_row<C>(shape_.sources) : shape_.sources);
  }
  std::int64_t result_size() const {
    return kConverts ? (kPixelsAreRows ? most_pixels() : most_channels()) * kPanel : 0;
  }
  std::int64_t thread_size() const {
    return round_up(kHeader + weight_size(), kHeader) + round_up(image_size(), kHeader) +
           most_channels() + result_size();
  }

  void run_items(const Workspace& workspace) const {
    for (int thread = 0; thread < max_threads(); ++thread)
      *workspace.of_thread<std::int64_t>(thread) = -1;
    const std::int64_t strips = plan_.strips(), chunks = plan_.chunks();
    const std::int64_t cost =
        ceil_divide(shape_.pixels, strips) * ceil_divide(shape_.filled, chunks) * shape_.sources;
    const std::int64_t of_weights = shape_.batch * strips;
    parallel_for(shape_.groups * chunks * of_weights, cost, [&](std::int64_t item, int thread) {
      const std::int64_t weights = item / of_weights, image = item % of_weights;
      run_item(weights, image / strips, image % strips, workspace.of_thread<C>(thread));
    });
  }

  void run_item(std::int64_t weights, std::int64_t sample, std::int64_t strip_index,
                C* memory) const {
    const std::int64_t group = weights / plan_.chunks();
    const Extent channels = chunk(weights % plan_.chunks()), pixels = strip(strip_index);
    if (channels.count == 0 || pixels.count == 0) return;
    auto* packed_weights = reinterpret_cast<std::int64_t*>(memory);
    C* weight = memory + kHeader;
    C* image = memory + round_up(kHeader + weight_size(), kHeader);
    C* bias = image + round_up(image_size(), kHeader);
    const T* w = w_ + group * shape_.w_group + channels.first * shape_.w_filled;
    if (*packed_weights != weights) {
      pack_weights(w, channels.count, weight);
      *packed_weights = weights;
    }
    const T* source = source_ + sample * shape_.source.sample +
                      group * shape_.sources * shape_.source.channel +
                      pixels.first * shape_.source.column;
    T* target = target_ + sample * shape_.target.sample +
                (group * shape_.filled + channels.first) * shape_.target.channel +
                pixels.first * shape_.target.column;
    const C* start = bias_of(group * shape_.filled + channels.first, channels.count, bias);
    C* result = bias + most_channels();
    if constexpr (kPixelsAreRows) {
      multiply(image_rows(source, pixels.count, image), pixels.count, {weight, 0}, channels.count,
               start, nullptr, target, shape_.target.column, result);
    } else {
      multiply(weight_rows(w, weight), channels.count, image_lanes(source, pixels.count, image),
               pixels.count, nullptr, start, target, shape_.target.channel, result);
    }
  }

  void pack_weights(const T* w, std::int64_t channels, C* packed) const {
    if constexpr (kPixelsAreRows) {
      pack_panels(w, shape_.w_filled, shape_.w_source, channels, shape_.sources, packed);
    } else if (!rows_in_place_) {
      pack_rows(w, shape_.w_filled, shape_.w_source, channels, shape_.sources, packed);
    }
  }
  Rows weight_rows(const T* w, const C* packed) const {
    if constexpr (!kConverts) {
      if (rows_in_place_) return {w, shape_.w_filled, shape_.w_source};
    }
    return {packed, padded_row<C>(shape_.sources), 1};
  }
  Rows image_rows(const T* source, std::int64_t pixels, C* packed) const {
    if constexpr (!kConverts) {
      if (rows_in_place_) return {source, shape_.source.column, 1};
    }
    pack_rows(source, shape_.source.column, 1, pixels, shape_.sources, packed);
    return {packed, padded_row<C>(shape_.sources), 1};
  }
  Lanes image_lanes(const T* source, std::int64_t pixels, C* packed) const {
    if constexpr (!kConverts) {
      if (lanes_in_place_) return {source, shape_.source.channel};
    }
    pack_panels(source, 1, shape_.source.channel, pixels, shape_.sources, packed);
    return {packed, 0};
  }

  // Null without a bias.
  const C* bias_of(std::int64_t first, std::int64_t count, C* converted) const {
    if (!bias_) return nullptr;
    if constexpr (!kConverts) return bias_ + first;
    for (std::int64_t i = 0; i < count; ++i) converted[i] = to_compute(bias_[first + i]);
    return converted;
  }

  void multiply(const Rows& rows, std::int64_t row_count, const Lanes& lanes,
                std::int64_t lane_count, const C* lane_bias, const C* row_bias, T* target,
                std::int64_t target_pitch, C* result) const {
    const auto panels = VectorParts<C>::panels(lane_count);
    for (std::int64_t i = 0; i < panels.count(); ++i) {
      const std::int64_t first = panels.first(i), size = panels.size(i);
      PointwiseJob<C> job{rows.data,
                          rows.row_step,
                          rows.term_step,
                          lanes.data + first * (lanes.pitch > 0 ? 1 : shape_.sources),
                          lanes.pitch > 0 ? lanes.pitch : round_up(size, L),
                          shape_.sources,
                          lane_bias ? lane_bias + first : nullptr,
                          row_bias,
                          nullptr,
                          target_pitch,
                          {}};
      if constexpr (kConverts) {
        job.target = result;
        job.target_pitch = kPanel;
        multiply_panel(row_count, size, job);
        for (std::int64_t r = 0; r < row_count; ++r) {
          for (std::int64_t lane = 0; lane < size; lane += L)
            store_masked(target + r * target_pitch + first + lane, load(result + r * kPanel + lane),
                         mask_between<C>(0, size - lane));
        }
      } else {
        job.target = target + first;
        multiply_panel(row_count, size, job);
      }
    }
  }

  const PointwiseShape shape_;
  const bool lanes_in_place_;
  const PointwisePlan<C, kPixelsAreRows> plan_;
  const T* source_;
  const T* w_;
  const T* bias_;
  T* target_;
  bool rows_in_place_;
};

template <class T>
struct PointwiseByLayout {
  static WorkspaceSize workspace(const Problem& problem) {
    return problem.layout == Layout::kNhwc ? PointwiseKernel<T, true>::workspace(problem)
                                           : PointwiseKernel<T, false>::workspace(problem);
  }
  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    if (problem.layout == Layout::kNhwc) {
      PointwiseKernel<T, true>::run(problem, buffers, workspace);
    } else {
      PointwiseKernel<T, false>::run(problem, buffers, workspace);
    }
  }
};
