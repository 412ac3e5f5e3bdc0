// The image operand of direct.gemm: strips of pixels packed block by block of the sum, converted to
// C, zero where a tap sees padding.

// The pixels of a strip, in the coordinates of the source without taps, and where they are stored.
struct StripPixels {
  static constexpr std::int64_t kMost = 128;
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

// Pixels are rows of the tile: row[k - first], k = (tap, source channel). Neighbouring columns of
// taps are one run where their pixels adjoin in memory.
template <class T>
inline bool taps_adjoin(const GemmClass& part, const SourceImage<T>& image) {
  const Span<Tap>& taps = part.columns->taps;
  return image.strides.column == image.channels && taps.count > 1 &&
         taps[1].offset - taps[0].offset == 1;
}

// Elements [first, last) of a run go to row[0, last - first); those outside [inside_first,
// inside_last) lie in the padding.
template <class T>
inline void copy_run(const T* run, std::int64_t first, std::int64_t last, std::int64_t inside_first,
                     std::int64_t inside_last, Compute<T>* row) {
  using C = Compute<T>;
  constexpr std::int64_t L = kLanes<C>;
  std::int64_t k = first;
  if (inside_first <= first && inside_last >= last) {
    for (; k + L <= last; k += L) store(row + k - first, load(run + k));
  }
  for (; k < last; k += L) {
    const auto mask = mask_between<C>(inside_first - k, (inside_last < last ? inside_last : last) - k);
    store_masked(row + k - first, load_masked(run + k, mask), mask_between<C>(0, last - k));
  }
}

// Returns in `inside` which pixels see anything but padding.
template <class T>
inline void pack_pixel_rows(const GemmClass& part, const SourceImage<T>& image,
                            const StripPixels& pixels, const DepthBlock& block,
                            std::int64_t pitch, Compute<T>* packed, bool* inside) {
  for (std::int64_t p = 0; p < pixels.count; ++p) inside[p] = false;
  const bool adjoin = taps_adjoin(part, image);
  const std::int64_t columns = part.columns->taps.count, channels = image.channels;
  const std::int64_t runs_of_row = adjoin ? 1 : columns;
  const std::int64_t length = adjoin ? columns * channels : channels;
  for (std::int64_t run = block.first / length; run * length < block.last; ++run) {
    const std::int64_t first = run * length < block.first ? block.first - run * length : 0;
    const std::int64_t last =
        (run + 1) * length > block.last ? block.last - run * length : length;
    const std::int64_t dh = part.rows->taps[run / runs_of_row].offset;
    const std::int64_t dw = part.columns->taps[adjoin ? 0 : run % columns].offset;
    Compute<T>* row = packed + run * length + first - block.first;
    for (std::int64_t p = 0; p < pixels.count; ++p, row += pitch) {
      const std::int64_t h = pixels.h[p] + dh, w = pixels.w[p] + dw;
      const bool exists = static_cast<std::uint64_t>(h) < static_cast<std::uint64_t>(image.height);
      const std::int64_t begin = -w * channels, end = exists ? begin + image.width * channels : begin;
      inside[p] |= begin < last && end > first && exists;
      copy_run(image.data + h * image.strides.row + w * image.strides.column, first, last, begin,
               end, row);
    }
  }
}

// A stretch of the lanes of a vector that come from one row of the source.
template <class C>
struct LaneStretch {
  std::int64_t offset;  // of lane 0, which may not be part of it
  Mask<C> mask;
};

// The stretches of up to a vector of pixels through one tap.
template <class C>
struct LaneStretches {
  int count = 0;
  LaneStretch<C> stretches[kLanes<C>];

  LaneStretches(const StripPixels& pixels, std::int64_t first, std::int64_t dh, std::int64_t dw,
                std::int64_t step, std::int64_t height, std::int64_t width,
                const ImageStrides& strides) {
    const std::int64_t rest = pixels.count - first,
                       lanes = rest < kLanes<C> ? rest : kLanes<C>;
    for (std::int64_t lane = 0; lane < lanes;) {
      const std::int64_t row = pixels.h[first + lane], h = row + dh;
      const std::int64_t begin = lane, w = pixels.w[first + lane] + dw;
      while (lane < lanes && pixels.h[first + lane] == row) ++lane;
      if (h < 0 || h >= height) continue;
      // Lanes whose w + (lane - begin) * step lies in [0, width).
      const std::int64_t skipped = w < 0 ? (-w + step - 1) / step : 0;
      const std::int64_t inside = w < width ? (width - 1 - w) / step + 1 : 0;
      const std::int64_t end = begin + inside < lane ? begin + inside : lane;
      if (begin + skipped >= end) continue;
      stretches[count++] = {h * strides.row + (w - begin * step) * strides.column,
                            mask_between<C>(begin + skipped, end)};
    }
  }
};

// Pixels are lanes: packed[panel][k - first][lane], k = (source channel, tap).
template <class T>
inline void pack_pixel_lanes(const GemmClass& part, const SourceImage<T>& image,
                             const StripPixels& pixels, const DepthBlock& block,
                             Compute<T>* packed) {
  using C = Compute<T>;
  const std::int64_t step = part.columns->source_step, plane = image.strides.channel;
  const std::int64_t s_first = block.first / part.taps, s_last = block.last / part.taps;
  for (std::int64_t p = 0; p < pixels.count; p += kLanes<C>) {
    const std::int64_t panel = p / kPanelLanes<C>;
    C* lanes = packed + panel * part.block * kPanelLanes<C> + p % kPanelLanes<C>;
    for (const Tap& row : part.rows->taps) {
      for (const Tap& column : part.columns->taps) {
        const LaneStretches<C> found(pixels, p, row.offset, column.offset, step, image.height,
                                     image.width, image.strides);
        C* to = lanes;
        for (std::int64_t s = s_first; s < s_last; ++s, to += part.taps * kPanelLanes<C>) {
          const T* from = image.data + s * plane;
          Vector<C> vector{};
          for (int i = 0; i < found.count; ++i) {
            // Lanes of other stretches are zero, and no sum of two zeros and a value changes it.
            vector += load_strided(from + found.stretches[i].offset, step, found.stretches[i].mask);
          }
          store(to, vector);
        }
        lanes += kPanelLanes<C>;
      }
    }
  }
}
