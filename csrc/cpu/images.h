// Where elements lie, and images in the order and type that a kernel computes in: channels
// innermost, in C.

// Where an element of w lies.
template <class T>
inline T* weight_element(const Problem& problem, const Buffers& buffers, std::int64_t oc,
                         std::int64_t ic, std::int64_t kh, std::int64_t kw) {
  const WeightStrides& strides = problem.w_strides;
  return static_cast<T*>(buffers.w) + oc * strides.out_channel + ic * strides.in_channel +
         kh * strides.row + kw * strides.column;
}

// A view of n samples of pixels by channels.
template <class C>
struct PixelImage {
  const C* data;
  std::int64_t sample, row, column;  // strides; channels are adjacent
};

// How many samples of `elements` each are converted at a time: as many as stay within a bound, and
// at least one.
template <class C>
inline std::int64_t samples_within_budget(std::int64_t batch, std::int64_t elements) {
  constexpr std::int64_t kBytes = std::int64_t{32} << 20;
  const std::int64_t samples = kBytes / static_cast<std::int64_t>(sizeof(C)) / elements;
  return samples < 1 ? 1 : samples < batch ? samples : batch;
}

template <class T>
inline bool is_pixel_image(const ImageStrides& strides) {
  return std::is_same_v<T, Compute<T>> && strides.channel == 1;
}

// A square of vectors, all of which exist.
template <class T, class U>
HANDCONV_INLINE void transpose_whole_square(const T* source, std::int64_t source_step, U* target,
                                            std::int64_t target_step) {
  using C = Compute<T>;
  constexpr std::int64_t L = kLanes<C>;
  Vector<C> square[L];
#pragma GCC unroll 16
  for (std::int64_t i = 0; i < L; ++i) square[i] = load(source + i * source_step);
  transpose<C>(square);
#pragma GCC unroll 16
  for (std::int64_t i = 0; i < L; ++i) store(target + i * target_step, square[i]);
}

// A square of vectors of a matrix that ends after so many rows and columns. Unrolled, so that it
// stays in registers as far as there are enough.
template <class T, class U>
HANDCONV_INLINE void transpose_square(const T* source, std::int64_t source_step, std::int64_t rows,
                                      std::int64_t columns, U* target, std::int64_t target_step) {
  using C = Compute<T>;
  constexpr std::int64_t L = kLanes<C>;
  if constexpr (kVectorBytes < 64) {  // masks cost more than a branch
    if (rows >= L && columns >= L)
      return transpose_whole_square(source, source_step, target, target_step);
  }
  Vector<C> square[L];
  const auto source_mask = mask_between<C>(0, columns), target_mask = mask_between<C>(0, rows);
#pragma GCC unroll 8
  for (std::int64_t i = 0; i < L; ++i)
    square[i] = i < rows ? load_masked(source + i * source_step, source_mask) : Vector<C>{};
  transpose<C>(square);
#pragma GCC unroll 8
  for (std::int64_t i = 0; i < L; ++i) {
    if (i < columns) store_masked(target + i * target_step, square[i], target_mask);
  }
}

// Transposes a matrix of rows x columns: target[c * target_step + r] = source[r * source_step + c],
// a square of vectors at a time.
template <class T, class U>
inline void transpose_matrix(const T* source, std::int64_t source_step, std::int64_t rows,
                             std::int64_t columns, U* target, std::int64_t target_step) {
  constexpr std::int64_t L = kLanes<Compute<T>>;
  for (std::int64_t r = 0; r < rows; r += L) {
    for (std::int64_t c = 0; c < columns; c += L) {
      transpose_square(source + r * source_step + c, source_step, rows - r, columns - c,
                       target + c * target_step + r, target_step);
    }
  }
}

// A vector of pixels, of which [first, last) exist, to planes of channels; the others become zero.
template <class T>
inline void transpose_to_planes(const T* from, std::int64_t step, std::int64_t first,
                                std::int64_t last, std::int64_t channels, Compute<T>* to,
                                std::int64_t channel_step) {
  using C = Compute<T>;
  constexpr std::int64_t L = kLanes<C>;
  if (channels >= L && first <= 0 && last >= L)
    return transpose_whole_square(from, step, to, channel_step);
  Vector<C> square[L];
  const auto mask = mask_between<C>(0, channels);
  for (std::int64_t i = 0; i < L; ++i) {
    square[i] = i >= first && i < last ? load_masked(from + i * step, mask) : Vector<C>{};
  }
  transpose<C>(square);
  for (std::int64_t c = 0; c < L && c < channels; ++c) store(to + c * channel_step, square[c]);
}

// Pixels [first, last) of one image to pixels by channels.
template <class T>
inline void to_pixels(const T* source, const ImageStrides& strides, std::int64_t channels,
                      std::int64_t first, std::int64_t last, Compute<T>* target) {
  if (strides.channel == 1) {
    for (std::int64_t i = first * channels; i < last * channels; i += kLanes<Compute<T>>) {
      const auto mask = mask_between<Compute<T>>(0, last * channels - i);
      store_masked(target + i, load_masked(source + i, mask), mask);
    }
  } else {
    transpose_matrix(source + first, strides.channel, channels, last - first,
                     target + first * channels, channels);
  }
}

// Images of so many elements together are fetched ahead: measured with 32 MiB of third-level cache,
// where it gains from 10 to 14 MiB on.
template <class T>
constexpr bool come_from_memory(std::int64_t elements) {
  return elements > (12 << 20) / static_cast<std::int64_t>(sizeof(T));
}

// Converts samples [first, first + count) of an image tensor into `target`.
template <class T>
inline void pack_samples(const T* source, const ImageStrides& strides, std::int64_t channels,
                         std::int64_t area, std::int64_t first, std::int64_t count,
                         Compute<T>* target) {
  constexpr std::int64_t kPixels = 256;  // per item
  const std::int64_t items = ceil_divide(area, kPixels);
  parallel_for(count * items, kPixels * channels, [&](std::int64_t item, int) {
    const std::int64_t n = item / items, p0 = item % items * kPixels;
    const std::int64_t p1 = p0 + kPixels < area ? p0 + kPixels : area;
    to_pixels(source + (first + n) * strides.sample, strides, channels, p0, p1,
              target + n * channels * area);
  });
}

// The whole image tensor as pixels by channels: where it lies if it is that already, else converted
// into `scratch`.
template <class T>
inline PixelImage<Compute<T>> as_pixel_image(const void* data, const ImageStrides& strides,
                                             std::int64_t batch, std::int64_t channels,
                                             std::int64_t height, std::int64_t width,
                                             Compute<T>* scratch) {
  const auto* image = static_cast<const T*>(data);
  if constexpr (std::is_same_v<T, Compute<T>>) {
    if (is_pixel_image<T>(strides)) return {image, strides.sample, strides.row, strides.column};
  }
  pack_samples(image, strides, channels, height * width, 0, batch, scratch);
  return {scratch, channels * height * width, channels * width, channels};
}
