// How the dense weight gradient packs a window of pixels of x or y, in C, for weight_tile.h: as a
// panel of lanes or as tiles of rows. Planes (NCHW) are transposed here, a square of vectors at a
// time.

// Pixels of one sample, and the elements between their neighbours.
template <class T>
struct PixelWindow {
  const T* first;
  std::int64_t rows, columns;
  std::int64_t row_step, column_step, channel_step;

  bool is_empty() const { return rows == 0 || columns == 0; }

  // visit(first pixel of a run, its number, length): rows that follow one another without a gap
  // are one run.
  template <class Visit>
  void for_each_run(const Visit& visit) const {
    if (row_step == columns * column_step) return visit(first, std::int64_t{0}, rows * columns);
    for (std::int64_t r = 0; r < rows; ++r) visit(first + r * row_step, r * columns, columns);
  }
};

// A square of planes: square[i] = pixels of channel i. Channels at or after `channels` are zero.
template <class T>
HANDCONV_INLINE void load_planes(const T* source, std::int64_t channel_step,
                                 std::int64_t column_step, std::int64_t channels,
                                 std::int64_t pixels,
                                 Vector<Compute<T>> (&square)[kLanes<Compute<T>>], int first = 0) {
  using C = Compute<T>;
  const auto mask = mask_between<C>(0, pixels);
  const bool whole = column_step == 1 && pixels >= kLanes<C>;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<C>; ++i) {
    if (i < first) continue;
    if (i - first >= channels) {
      square[i] = Vector<C>{};
    } else {
      const T* plane = source + (i - first) * channel_step;
      square[i] = whole ? load(plane) : load_strided(plane, column_step, mask);
    }
  }
}

// The channels of a pixel lie far from those of the next one, which the processor may not foresee.
constexpr std::int64_t kPixelsAhead = 12;
template <class T>
inline void prefetch_pixel(const T* pixel, std::int64_t channels) {
  constexpr std::int64_t kLine = 64 / sizeof(T);
  for (std::int64_t c = 0; c < channels; c += kLine) __builtin_prefetch(pixel + c);
}

// target[pixel][lane] for `channels` channels, zeros in the lanes after them.
template <class T>
inline void pack_panel(const PixelWindow<T>& window, std::int64_t channels, std::int64_t step,
                       Compute<T>* target) {
  using C = Compute<T>;
  constexpr std::int64_t L = kLanes<C>;
  window.for_each_run([&](const T* source, std::int64_t pixel, std::int64_t count) {
    C* to = target + pixel * step;
    if (window.channel_step == 1) {
      const auto tail = mask_between<C>(0, channels % L);
      for (std::int64_t p = 0; p < count; ++p, source += window.column_step, to += step) {
        prefetch_pixel(source + kPixelsAhead * window.column_step, channels);
        std::int64_t c = 0;
        for (; c + L <= channels; c += L) store(to + c, load(source + c));
        if (c < channels) store(to + c, load_masked(source + c, tail));
      }
      return;
    }
    for (std::int64_t p = 0; p < count; p += L) {
      for (std::int64_t c = 0; c < channels; c += L) {
        Vector<C> square[L];
        load_planes(source + c * window.channel_step + p * window.column_step, window.channel_step,
                    window.column_step, channels - c, count - p, square);
        transpose<C>(square);
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) {
          if (p + i < count) store(to + (p + i) * step + c, square[i]);
        }
      }
    }
  });
}

// target[tile][pixel][row] from planes.
template <class T>
inline void pack_row_tiles_of_planes(const PixelWindow<T>& window, const RowTiles& tiles,
                                     std::int64_t tile_step, Compute<T>* target) {
  using C = Compute<T>;
  constexpr int L = kLanes<C>;
  // A tile takes half of 16 lanes, or several vectors of few lanes.
  constexpr int kSlot = L < 8 ? L : 8, kTiles = L / kSlot, kParts = ceil_divide(kRowTile, L);
  window.for_each_run([&](const T* source, std::int64_t pixel, std::int64_t count) {
    for (std::int64_t tile = 0; tile < tiles.count; tile += kTiles) {
      for (std::int64_t p = 0; p < count; p += L) {
        for (int part = 0; part < kParts; ++part) {
          Vector<C> square[L];
#pragma GCC unroll 2
          for (int t = 0; t < kTiles; ++t) {
            const std::int64_t channel = tiles.first(tile + t) + part * L;
            const std::int64_t rest = tile + t < tiles.count ? tiles.rows(tile + t) - part * L : 0;
            load_planes(source + channel * window.channel_step + p * window.column_step,
                        window.channel_step, window.column_step, rest, count - p, square,
                        t * kSlot);
          }
          transpose<C>(square);
#pragma GCC unroll 2
          for (int t = 0; t < kTiles; ++t) {
            if (tile + t >= tiles.count) break;
            const auto mask =
                mask_between<C>(t * kSlot, t * kSlot + (L < 8 ? kRowTile - part * L : kRowTile));
            C* to = target + (tile + t) * tile_step + (pixel + p) * kRowTile + part * L - t * kSlot;
#pragma GCC unroll 16
            for (int i = 0; i < L; ++i) {
              if (p + i < count) store_masked(to + i * kRowTile, square[i], mask);
            }
          }
        }
      }
    }
  });
}

// target[tile][pixel][row] from adjacent channels. Written in the order of pixels, so that a vector
// may reach into the next one.
template <class T>
inline void pack_row_tiles_of_pixels(const PixelWindow<T>& window, const RowTiles& tiles,
                                     std::int64_t tile_step, Compute<T>* target) {
  using C = Compute<T>;
  constexpr int L = kLanes<C>;
  window.for_each_run([&](const T* source, std::int64_t pixel, std::int64_t count) {
    for (std::int64_t p = 0; p < count; ++p, source += window.column_step) {
      prefetch_pixel(source + kPixelsAhead * window.column_step, tiles.channels);
      C* to = target + (pixel + p) * kRowTile;
      for (std::int64_t tile = 0; tile < tiles.count; ++tile, to += tile_step) {
        const std::int64_t channel = tiles.first(tile);
        const T* from = source + channel;
        if constexpr (std::is_same_v<T, C>) {
          if (channel + kRowTile <= tiles.channels) {
            std::memcpy(to, from, kRowTile * sizeof(C));
            continue;
          }
        } else if (L >= kRowTile && channel + L <= tiles.channels) {
          store(to, load(from));
          continue;
        }
        for (std::int64_t r = 0; r < tiles.rows(tile); ++r) to[r] = to_compute(from[r]);
      }
    }
  });
}

template <class T>
inline void pack_row_tiles(const PixelWindow<T>& window, const RowTiles& tiles,
                           std::int64_t tile_step, Compute<T>* target) {
  if (window.channel_step == 1) {
    pack_row_tiles_of_pixels(window, tiles, tile_step, target);
  } else {
    pack_row_tiles_of_planes(window, tiles, tile_step, target);
  }
}

// `count` elements `step` apart, converted, between `before` and `after` zeros.
template <class T>
inline void pack_padded_line(const T* source, std::int64_t step, std::int64_t before,
                             std::int64_t count, std::int64_t after, std::int64_t target_step,
                             Compute<T>* target) {
  using C = Compute<T>;
  for (std::int64_t i = 0; i < before; ++i) target[i * target_step] = C(0);
  C* to = target + before * target_step;
  if (step == 1 && target_step == 1) {
    std::int64_t i = 0;
    for (; i + kLanes<C> <= count; i += kLanes<C>) store(to + i, load(source + i));
    for (; i < count; ++i) to[i] = to_compute(source[i]);
  } else {
    for (std::int64_t i = 0; i < count; ++i) to[i * target_step] = to_compute(source[i * step]);
  }
  for (std::int64_t i = 0; i < after; ++i) to[(count + i) * target_step] = C(0);
}
