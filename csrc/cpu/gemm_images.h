// The image operand of direct.gemm: strips of pixels packed block by block of the sum, converted to
// C, zero where a tap sees padding.

// The pixels of a strip, in the coordinates of the source without taps, and where they are stored.
struct StripPixels {
  static constexpr std::int64_t kMost = 256;
  std::int64_t count;
  std::int64_t h[kMost], w[kMost], target[kMost];

  StripPixels(const GemmClass& part, const ImageStrides& filled, std::int64_t first,
              std::int64_t pixels)
      : count(pixels) {
    const AxisClass &rows = *part.rows, &columns = *part.columns;
    std::int64_t i = first / columns.count, j = first % columns.count;
    for (std::int64_t p = 0; p < pixels; ++p) {
      h[p] = i * rows.source_step;
      w[p] = j * columns.source_step;
      target[p] = (rows.first + i * rows.step) * filled.row +
                  (columns.first + j * columns.step) * filled.column;
      if (++j == columns.count) {
        j = 0;
        ++i;
      }
    }
  }
};

// What the packing of a strip reads: `data` is the first source channel of the group.
template <class T>
struct SourceImage {
  const T* data;
  ImageStrides strides;
  std::int64_t height, width, channels;
};

template <class T>
inline SourceImage<T> source_image(const Gather& gather, std::int64_t group, std::int64_t n) {
  const ImageStrides& strides = gather.source_strides;
  return {static_cast<const T*>(gather.source) + n * strides.sample +
              group * gather.source_channels * strides.channel,
          strides, gather.rows.source_size, gather.columns.source_size, gather.source_channels};
}

// Whether the only tap of the class sees every pixel of the image, each in its own place.
template <class T>
inline bool covers_image(const GemmClass& part, const SourceImage<T>& image) {
  const auto covers = [](const AxisClass& axis, std::int64_t size) {
    return axis.step == 1 && axis.source_step == 1 && axis.taps[0].offset == 0 &&
           axis.count == size;
  };
  return part.taps == 1 && covers(*part.rows, image.height) && covers(*part.columns, image.width);
}

// Pixels are rows of the tile: row[k - first], k = (tap, source channel). Neighbouring columns of
// taps are one run where their pixels adjoin in memory.
template <class T>
inline bool taps_adjoin(const GemmClass& part, const SourceImage<T>& image) {
  const Span<Tap>& taps = part.columns->taps;
  return image.strides.column == image.channels && taps.count > 1 &&
         taps[1].offset - taps[0].offset == 1;
}

// The elements [first, last) of a run of neighbouring source elements, which go to row[0, last -
// first).
template <class T>
class RunCopy {
 public:
  using C = Compute<T>;

  RunCopy(std::int64_t first, std::int64_t last)
      : first_(first),
        count_(last - first),
        whole_(count_ / kLanes<C> * kLanes<C>),
        tail_(mask_between<C>(0, count_ - whole_)) {}

  // Those outside [inside_first, inside_last) lie in the padding. False if all do.
  HANDCONV_INLINE bool operator()(const T* run, std::int64_t inside_first, std::int64_t inside_last,
                                  C* row) const {
    const std::int64_t begin = inside_first - first_, end = inside_last - first_;
    run += first_;
    if (begin > 0 || end < count_) return copy_inside(run, begin, end, row);
    for (std::int64_t k = 0; k < whole_; k += kLanes<C>) store(row + k, load(run + k));
    if (whole_ < count_) store_masked(row + whole_, load_masked(run + whole_, tail_), tail_);
    return true;
  }

 private:
  [[gnu::noinline]] bool copy_inside(const T* run, std::int64_t begin, std::int64_t end,
                                     C* row) const {
    for (std::int64_t k = 0; k < count_; k += kLanes<C>) {
      const auto inside = mask_between<C>(begin - k, (end < count_ ? end : count_) - k);
      store_masked(row + k, load_masked(run + k, inside), mask_between<C>(0, count_ - k));
    }
    return begin < count_ && end > 0 && begin < end;
  }

  std::int64_t first_, count_, whole_;
  Mask<C> tail_;
};

inline bool any_of(const bool* flags, std::int64_t count) {
  bool any = false;
  for (std::int64_t i = 0; i < count; ++i) any |= flags[i];
  return any;
}

// Returns in `inside` which pixels see anything but padding.
template <class T>
inline void pack_pixel_rows(const GemmClass& part, const SourceImage<T>& image,
                            const StripPixels& pixels, const DepthBlock& block, std::int64_t pitch,
                            Compute<T>* packed, bool* inside) {
  for (std::int64_t p = 0; p < pixels.count; ++p) inside[p] = false;
  const bool adjoin = taps_adjoin(part, image);
  const std::int64_t columns = part.columns->taps.count, channels = image.channels;
  const std::int64_t runs_of_row = adjoin ? 1 : columns;
  const std::int64_t length = adjoin ? columns * channels : channels;
  for (std::int64_t run = block.first / length; run * length < block.last; ++run) {
    const std::int64_t first = run * length < block.first ? block.first - run * length : 0;
    const std::int64_t last = (run + 1) * length > block.last ? block.last - run * length : length;
    const std::int64_t dh = part.rows->taps[run / runs_of_row].offset;
    const std::int64_t dw = part.columns->taps[adjoin ? 0 : run % columns].offset;
    Compute<T>* row = packed + run * length + first - block.first;
    const RunCopy<T> copy(first, last);
    for (std::int64_t p = 0; p < pixels.count; ++p, row += pitch) {
      const std::int64_t h = pixels.h[p] + dh, w = pixels.w[p] + dw;
      const bool exists = static_cast<std::uint64_t>(h) < static_cast<std::uint64_t>(image.height);
      const std::int64_t begin = -w * channels;
      inside[p] |= copy(image.data + h * image.strides.row + w * image.strides.column, begin,
                        exists ? begin + image.width * channels : begin, row);
    }
  }
}

// Lanes [begin, end) of a vector of pixels that lie in one row of the class grid; h and w are those
// of the first.
struct RowOfLanes {
  std::int64_t begin, end, h, w;
};

// Up to a vector of pixels, cut into rows, and how they are loaded through a tap.
template <class T>
class LaneRows {
 public:
  using C = Compute<T>;

  LaneRows(const StripPixels& pixels, std::int64_t first, const SourceImage<T>& image,
           std::int64_t step)
      : image_(image), step_(step) {
    const std::int64_t rest = pixels.count - first, lanes = rest < kLanes<C> ? rest : kLanes<C>;
    for (std::int64_t lane = 0; lane < lanes;) {
      const std::int64_t begin = lane, h = pixels.h[first + lane];
      while (lane < lanes && pixels.h[first + lane] == h) ++lane;
      rows_[count_++] = {begin, lane, h, pixels.w[first + begin]};
    }
  }

  void enter_tap(std::int64_t dh, std::int64_t dw) {
    stretches_ = 0;
    for (int i = 0; i < count_; ++i) {
      const RowOfLanes& row = rows_[i];
      const std::int64_t h = row.h + dh, w = row.w + dw, width = image_.width;
      if (h < 0 || h >= image_.height) continue;
      // Lanes whose w + (lane - begin) * step lies in [0, width).
      std::int64_t begin = row.begin, end = row.end;
      if (w < 0) begin += ceil_divide(-w, step_);
      if (w + (end - row.begin - 1) * step_ >= width)
        end = w < width ? row.begin + (width - 1 - w) / step_ + 1 : begin;
      if (begin >= end) continue;
      offsets_[stretches_] =
          h * image_.strides.row + (w - row.begin * step_) * image_.strides.column;
      masks_[stretches_++] = mask_between<C>(begin, end);
    }
  }

  HANDCONV_INLINE Vector<C> load_channel(const T* channel) const {
    if (stretches_ == 1) return load_strided(channel + offsets_[0], step_, masks_[0]);
    Vector<C> vector{};
    // Lanes of other rows are zero, and no sum of a value and zeros changes it.
    for (int i = 0; i < stretches_; ++i)
      vector += load_strided(channel + offsets_[i], step_, masks_[i]);
    return vector;
  }

 private:
  const SourceImage<T>& image_;
  std::int64_t step_;
  int count_ = 0, stretches_ = 0;
  RowOfLanes rows_[kLanes<C>];
  std::int64_t offsets_[kLanes<C>];
  Mask<C> masks_[kLanes<C>];
};

// The same where the only tap sees every pixel in its own place. Channel by channel: vector by
// vector, each would come from another page.
template <class T>
inline void copy_pixel_lanes(const GemmClass& part, const SourceImage<T>& image,
                             const StripPixels& pixels, const DepthBlock& block,
                             Compute<T>* packed) {
  using C = Compute<T>;
  const T* from = image.data + block.first * image.strides.channel +
                  pixels.h[0] * image.strides.row + pixels.w[0] * image.strides.column;
  const std::int64_t whole = pixels.count / kLanes<C> * kLanes<C>;
  const auto tail = mask_between<C>(0, pixels.count - whole);
  const auto lanes_of = [&](C* row, std::int64_t p) {
    return row + p / kPanelLanes<C> * part.block * kPanelLanes<C> + p % kPanelLanes<C>;
  };
  for (std::int64_t s = block.first; s < block.last; ++s) {
    for (std::int64_t p = 0; p < whole; p += kLanes<C>) store(lanes_of(packed, p), load(from + p));
    if (whole < pixels.count) store(lanes_of(packed, whole), load_masked(from + whole, tail));
    from += image.strides.channel;
    packed += kPanelLanes<C>;
  }
}

// The same for a vector of pixels that see whole windows, the taps of whose rows lie side by side
// in squares: few loads, where those tap by tap are of single elements. False: they do not.
template <class T>
inline bool pack_squares(const GemmClass& part, const SourceImage<T>& image,
                         const StripPixels& pixels, std::int64_t p, const DepthBlock& block,
                         Compute<T>* lanes) {
  using C = Compute<T>;
  constexpr std::int64_t L = kLanes<C>;
  const Span<Tap>&rows = part.rows->taps, &columns = part.columns->taps;
  const std::int64_t last = columns[columns.count - 1].offset;
  if (image.strides.column != 1 || columns.count % L != 0 || p + L > pixels.count ||
      last - columns[0].offset != columns.count - 1)
    return false;
  const T* windows[L];
  for (std::int64_t i = 0; i < L; ++i) {
    const std::int64_t h = pixels.h[p + i], w = pixels.w[p + i];
    if (h + rows[0].offset < 0 || h + rows[rows.count - 1].offset >= image.height ||
        w + columns[0].offset < 0 || w + last >= image.width)
      return false;
    windows[i] = image.data + h * image.strides.row + w;
  }
  for (std::int64_t s = block.first / part.taps; s < block.last / part.taps; ++s) {
    for (const Tap& row : rows) {
      for (std::int64_t k = 0; k < columns.count; k += L, lanes += L * kPanelLanes<C>) {
        const std::int64_t offset =
            s * image.strides.channel + row.offset * image.strides.row + columns[k].offset;
        Vector<C> square[L];
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < L; ++i) square[i] = load(windows[i] + offset);
        transpose<C>(square);
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < L; ++i) store(lanes + i * kPanelLanes<C>, square[i]);
      }
    }
  }
  return true;
}

// Pixels are lanes: packed[panel][k - first][lane], k = (source channel, tap).
template <class T>
inline void pack_pixel_lanes(const GemmClass& part, const SourceImage<T>& image,
                             const StripPixels& pixels, const DepthBlock& block,
                             Compute<T>* packed) {
  if (covers_image(part, image)) return copy_pixel_lanes(part, image, pixels, block, packed);
  using C = Compute<T>;
  const std::int64_t plane = image.strides.channel;
  const std::int64_t s_first = block.first / part.taps, s_last = block.last / part.taps;
  for (std::int64_t p = 0; p < pixels.count; p += kLanes<C>) {
    LaneRows<T> lane_rows(pixels, p, image, part.columns->source_step);
    C* lanes = packed + p / kPanelLanes<C> * part.block * kPanelLanes<C> + p % kPanelLanes<C>;
    if constexpr (kVectorBytes < 64) {
      if (pack_squares(part, image, pixels, p, block, lanes)) continue;
    }
    for (const Tap& row : part.rows->taps) {
      for (const Tap& column : part.columns->taps) {
        lane_rows.enter_tap(row.offset, column.offset);
        C* to = lanes;
        const T* from = image.data + s_first * plane;
        for (std::int64_t s = s_first; s < s_last; ++s, from += plane) {
          store(to, lane_rows.load_channel(from));
          to += part.taps * kPanelLanes<C>;
        }
        lanes += kPanelLanes<C>;
      }
    }
  }
}
