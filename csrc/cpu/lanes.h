// What the kernels of channels.h prepare before they run: the weight packed into panels of lanes,
// and the workspace that holds it.

// The workspace of one call, in elements of C.
template <class C>
class LaneWorkspace {
 public:
  LaneWorkspace(const Gather& gather, LaneBlocks<C> blocks, bool packs_source)
      : gather_(gather), blocks_(blocks) {
    const std::int64_t image = gather.groups * gather.source_channels * gather.source_area();
    samples_per_pass_ = packs_source ? samples_within_budget<C>(gather.batch, image) : gather.batch;
    bias_offset_ = gather.groups * group_weights();
    zeros_offset_ = bias_offset_ + gather.groups * blocks_.padded_channels();
    const std::int64_t zeros = LaneBlocks<C>::kLargest;
    zeros_count_ = gather.source_channels > zeros ? gather.source_channels : zeros;
    images_offset_ = round_up(zeros_offset_ + zeros_count_, 16);
    total_ = images_offset_ + (packs_source ? samples_per_pass_ * image : 0);
  }

  WorkspaceSize size(bool unpacks_output) const {
    const auto bytes = [](std::int64_t elements) {
      return static_cast<std::size_t>(elements) * sizeof(C);
    };
    return {bytes(total_), unpacks_output ? bytes(kPixelsPerRun * LaneBlocks<C>::kLargest) : 0};
  }

  const LaneBlocks<C>& blocks() const { return blocks_; }
  std::int64_t samples_per_pass() const { return samples_per_pass_; }

  // [tap row][tap column][source channel][lane]
  std::int64_t weights(std::int64_t group, std::int64_t block) const {
    return group * group_weights() +
           blocks_.padded_first(block) * gather_.kernel_area() * gather_.source_channels;
  }
  std::int64_t bias(std::int64_t group, std::int64_t block) const {
    return bias_offset_ + group * blocks_.padded_channels() + blocks_.padded_first(block);
  }
  std::int64_t zeros() const { return zeros_offset_; }
  std::int64_t zeros_count() const { return zeros_count_; }
  std::int64_t images() const { return images_offset_; }

 private:
  std::int64_t group_weights() const {
    return blocks_.padded_channels() * gather_.kernel_area() * gather_.source_channels;
  }

  const Gather& gather_;
  LaneBlocks<C> blocks_;
  std::int64_t samples_per_pass_, bias_offset_, zeros_offset_, zeros_count_, images_offset_, total_;
};

// A lane's source channels and taps follow each other in w, as in a contiguous weight of the
// forward slot: squares of lanes by those are transposed in registers. `w` is the block's first
// lane.
template <class T>
inline void pack_runs(const Gather& gather, std::int64_t lanes, std::int64_t padded, const T* w,
                      std::int64_t first, std::int64_t last, Compute<T>* panels) {
  using C = Compute<T>;
  constexpr std::int64_t L = kLanes<C>;
  const std::int64_t taps = gather.kernel_area();
  for (std::int64_t lane = 0; lane < lanes; lane += L) {
    std::int64_t s = first, tap = 0;
    for (std::int64_t k = first * taps; k < last * taps; k += L) {
      const auto mask = mask_between<C>(0, last * taps - k);
      Vector<C> square[L];
      for (std::int64_t i = 0; i < L; ++i) {
        square[i] = lane + i < lanes ? load_masked(w + (lane + i) * gather.w_filled + k, mask)
                                     : Vector<C>{};
      }
      transpose<C>(square);
      for (std::int64_t i = 0; i < L && k + i < last * taps; ++i) {
        store(panels + (tap * gather.source_channels + s) * padded + lane, square[i]);
        if (++tap == taps) {
          tap = 0;
          ++s;
        }
      }
    }
  }
}

// Packs the weights of the source channels [first, last) of one block of lanes: panels[tap][source
// channel][lane].
template <class T>
inline void pack_slice(const Gather& gather, std::int64_t group,
                       const LaneBlocks<Compute<T>>& blocks, std::int64_t block, std::int64_t first,
                       std::int64_t last, Compute<T>* panels) {
  const std::int64_t lanes = blocks.size(block), padded = blocks.padded_size(block),
                     width = gather.columns.kernel_size;
  const T* w = static_cast<const T*>(gather.w) + group * gather.w_group +
               blocks.first(block) * gather.w_filled;
  if (gather.w_column == 1 && gather.w_row == width && gather.w_source == gather.kernel_area()) {
    return pack_runs(gather, lanes, padded, w, first, last, panels);
  }
  for (std::int64_t kh = 0; kh < gather.rows.kernel_size; ++kh) {
    for (std::int64_t kw = 0; kw < width; ++kw) {
      const T* tap = w + kh * gather.w_row + kw * gather.w_column;
      Compute<T>* panel = panels + (kh * width + kw) * gather.source_channels * padded;
      if (gather.w_source == 1) {
        transpose_matrix(tap + first, gather.w_filled, lanes, last - first, panel + first * padded,
                         padded);
        continue;
      }
      for (std::int64_t s = first; s < last; ++s) {
        for (std::int64_t lane = 0; lane < lanes; ++lane) {
          panel[s * padded + lane] = to_compute(tap[lane * gather.w_filled + s * gather.w_source]);
        }
      }
    }
  }
}

template <class T>
inline void pack_bias(const Gather& gather, std::int64_t group,
                      const LaneBlocks<Compute<T>>& blocks, std::int64_t block,
                      Compute<T>* packed) {
  const auto* bias = static_cast<const T*>(gather.bias);
  const std::int64_t first = group * gather.filled_channels + blocks.first(block);
  for (std::int64_t lane = 0; lane < blocks.padded_size(block); ++lane) {
    packed[lane] =
        bias && lane < blocks.size(block) ? to_compute(bias[first + lane]) : Compute<T>(0);
  }
}

// Packs w and the bias of every block; lanes past the last channel are zero.
template <class T>
inline void pack_weights(const Gather& gather, const LaneWorkspace<Compute<T>>& plan,
                         Compute<T>* scratch) {
  using C = Compute<T>;
  const LaneBlocks<C>& blocks = plan.blocks();
  constexpr std::int64_t kSources = 16;  // source channels per item
  const std::int64_t slices = ceil_divide(gather.source_channels, kSources);
  const std::int64_t cost = kSources * gather.kernel_area() * blocks.full;
  parallel_for(gather.groups * blocks.count() * slices, cost, [&](std::int64_t item, int) {
    const std::int64_t first = item % slices * kSources, block = item / slices % blocks.count();
    const std::int64_t group = item / slices / blocks.count();
    const std::int64_t last =
        first + kSources < gather.source_channels ? first + kSources : gather.source_channels;
    pack_slice<T>(gather, group, blocks, block, first, last, scratch + plan.weights(group, block));
    if (first == 0) pack_bias<T>(gather, group, blocks, block, scratch + plan.bias(group, block));
  });
  C* zeros = scratch + plan.zeros();
  for (std::int64_t i = 0; i < plan.zeros_count(); ++i) zeros[i] = 0;
}

// Writes a run that was computed as [pixel][lane] into channel planes.
template <class T>
inline void store_planes(const Gather& gather, const PixelRun& run, const Compute<T>* block,
                         std::int64_t padded, std::int64_t lanes, T* target) {
  const ImageStrides& strides = gather.filled_strides;
  if (run.columns->step == 1 && run.rows->step == 1) {
    return transpose_matrix(block, padded, run.count, lanes, target + run.first, strides.channel);
  }
  PixelCursor cursor(run);
  for (std::int64_t p = 0; p < run.count; ++p, cursor.advance()) {
    T* pixel = target + cursor.filled_offset(strides);
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      pixel[lane * strides.channel] = from_compute<T>(block[p * padded + lane]);
    }
  }
}
