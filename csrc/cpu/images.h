// Images in the order and type that a kernel computes in: channels innermost, in C.

// A view of n samples of pixels by channels.
template <class C>
struct PixelImage {
  const C* data;
  std::int64_t sample, row, column;  // strides; channels are adjacent
};

template <class T>
inline bool is_pixel_image(const ImageStrides& strides) {
  return std::is_same_v<T, Compute<T>> && strides.channel == 1;
}

// One image to pixels by channels: 16 channels of 16 pixels at a time, so that both sides stay in the first cache.
template <class T>
inline void to_pixels(const T* source, const ImageStrides& strides, std::int64_t channels, std::int64_t first_pixel,
                      std::int64_t last_pixel, Compute<T>* target) {
  constexpr std::int64_t kBlock = 16;
  if (strides.channel == 1) {
    const std::int64_t begin = first_pixel * channels, end = last_pixel * channels;
    std::int64_t i = begin;
    for (; i + kLanes<Compute<T>> <= end; i += kLanes<Compute<T>>) store(target + i, load(source + i));
    for (; i < end; ++i) target[i] = to_compute(source[i]);
    return;
  }
  for (std::int64_t c0 = 0; c0 < channels; c0 += kBlock) {
    const std::int64_t c1 = c0 + kBlock < channels ? c0 + kBlock : channels;
    for (std::int64_t p0 = first_pixel; p0 < last_pixel; p0 += kBlock) {
      const std::int64_t p1 = p0 + kBlock < last_pixel ? p0 + kBlock : last_pixel;
      for (std::int64_t p = p0; p < p1; ++p) {
        for (std::int64_t c = c0; c < c1; ++c) target[p * channels + c] = to_compute(source[c * strides.channel + p]);
      }
    }
  }
}

// Converts samples [first, first + count) of an image tensor into `target`.
template <class T>
inline void pack_samples(const T* source, const ImageStrides& strides, std::int64_t channels, std::int64_t area,
                         std::int64_t first, std::int64_t count, Compute<T>* target) {
  constexpr std::int64_t kPixels = 256;  // per item
  const std::int64_t items = (area + kPixels - 1) / kPixels;
  parallel_for(count * items, kPixels * channels, [&](std::int64_t item, int) {
    const std::int64_t n = item / items, p0 = item % items * kPixels;
    const std::int64_t p1 = p0 + kPixels < area ? p0 + kPixels : area;
    to_pixels(source + (first + n) * strides.sample, strides, channels, p0, p1, target + n * channels * area);
  });
}

// The whole image tensor as pixels by channels: where it lies if it is that already, else converted into `scratch`.
template <class T>
inline PixelImage<Compute<T>> as_pixel_image(const void* data, const ImageStrides& strides, std::int64_t batch,
                                             std::int64_t channels, std::int64_t height, std::int64_t width,
                                             Compute<T>* scratch) {
  const auto* image = static_cast<const T*>(data);
  if constexpr (std::is_same_v<T, Compute<T>>) {
    if (is_pixel_image<T>(strides)) return {image, strides.sample, strides.row, strides.column};
  }
  pack_samples(image, strides, channels, height * width, 0, batch, scratch);
  return {scratch, channels * height * width, channels * width, channels};
}
