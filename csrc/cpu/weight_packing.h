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

// So many planes are too many streams for the processor to foresee.
constexpr std::int64_t kPlaneAhead = 48;

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
      __builtin_prefetch(plane + kPlaneAhead);
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

// target[tile][pixel][row] from planes. Where a vector has rows of one tile alone it may reach into
// the next pixel, which is then written after it.
template <class T, int kRows>
inline void pack_row_tiles_of_planes(const PixelWindow<T>& window, const RowTiles& tiles,
                                     std::int64_t tile_step, Compute<T>* target) {
  using C = Compute<T>;
  constexpr int L = kLanes<C>;
  // A tile takes half of 16 lanes, or several vectors of few lanes.
  constexpr int kSlot = L < 8 ? L : 8, kTiles = L / kSlot, kParts = ceil_divide(kRows, L);
  constexpr bool kReaches = kTiles == 1 && kVectorBytes < 64;
  window.for_each_run([&](const T* source, std::int64_t pixel, std::int64_t count) {
    for (std::int64_t tile = 0; tile < tiles.count; tile += kTiles) {
      for (std::int64_t p = 0; p < count; p += L) {
        for (int turn = 0; turn < kParts; ++turn) {
          const int part = kReaches ? kParts - 1 - turn : turn;
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
                mask_between<C>(t * kSlot, t * kSlot + (L < 8 ? kRows - part * L : kRows));
            C* to = target + (tile + t) * tile_step + (pixel + p) * kRows + part * L - t * kSlot;
#pragma GCC unroll 16
            for (int i = 0; i < L; ++i) {
              if (kReaches && p + i < count) {
                store(to + i * kRows, square[i]);
              } else if (p + i < count) {
                store_masked(to + i * kRows, square[i], mask);
              }
            }
          }
        }
      }
    }
  });
}

// target[tile][pixel][row] from adjacent channels. Written in the order of pixels, so that a vector
// may reach into the next one.
template <class T, int kRows>
inline void pack_row_tiles_of_pixels(const PixelWindow<T>& window, const RowTiles& tiles,
                                     std::int64_t tile_step, Compute<T>* target) {
  using C = Compute<T>;
  constexpr int L = kLanes<C>;
  window.for_each_run([&](const T* source, std::int64_t pixel, std::int64_t count) {
    for (std::int64_t p = 0; p < count; ++p, source += window.column_step) {
      prefetch_pixel(source + kPixelsAhead * window.column_step, tiles.channels);
      C* to = target + (pixel + p) * kRows;
      for (std::int64_t tile = 0; tile < tiles.count; ++tile, to += tile_step) {
        const std::int64_t channel = tiles.first(tile);
        const T* from = source + channel;
        if constexpr (std::is_same_v<T, C>) {
          if (channel + kRows <= tiles.channels) {
            std::memcpy(to, from, kRows * sizeof(C));
            continue;
          }
        } else if (L >= kRows && channel + L <= tiles.channels) {
          store(to, load(from));
          continue;
        }
        for (std::int64_t r = 0; r < tiles.rows(tile); ++r) to[r] = to_compute(from[r]);
      }
    }
  });
}

// Tiles of kRows rows lie that far apart in memory.
template <class T, int kRows = kRowTile>
inline void pack_row_tiles(const PixelWindow<T>& window, const RowTiles& tiles,
                           std::int64_t tile_step, Compute<T>* target) {
  if (window.channel_step == 1) {
    pack_row_tiles_of_pixels<T, kRows>(window, tiles, tile_step, target);
  } else {
    pack_row_tiles_of_planes<T, kRows>(window, tiles, tile_step, target);
  }
}

// Four neighbouring elements of a vector that starts at a pixel.
template <class C, int... I>
HANDCONV_INLINE void store_quads(C* target, std::int64_t step, Vector<C> pixels,
                                 std::integer_sequence<int, I...>) {
  typedef C Quad __attribute__((vector_size(4 * sizeof(C))));
  (
      [&] {
        const Quad quad =
            __builtin_shufflevector(pixels, pixels, 4 * I, 4 * I + 1, 4 * I + 2, 4 * I + 3);
        std::memcpy(target + I * step, &quad, sizeof quad);
      }(),
      ...);
}

// target[pixel][channel] for pixels of up to 4 planes. Written in the order of pixels, so that four
// elements may reach into the next ones, or past the last one.
template <class T>
inline void interleave_planes(const T* source, std::int64_t channel_step, std::int64_t channels,
                              std::int64_t count, Compute<T>* target) {
  using C = Compute<T>;
  constexpr int L = kLanes<C>;
  std::int64_t p = 0;
  if constexpr (L >= 4) {
    constexpr std::make_integer_sequence<int, L> lanes;
    constexpr std::make_integer_sequence<int, L / 4> quads;
    for (; p + L <= count; p += L, target += L * channels) {
      Vector<C> planes[4] = {};
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        if (c < channels) planes[c] = load(source + c * channel_step + p);
      }
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const Vector<C> even = interleave(planes[0], planes[2], half, lanes);
        const Vector<C> odd = interleave(planes[1], planes[3], half, lanes);
        C* to = target + half * (L / 2) * channels;
        store_quads(to, channels, interleave(even, odd, 0, lanes), quads);
        store_quads(to + L / 4 * channels, channels, interleave(even, odd, 1, lanes), quads);
      }
    }
  }
  for (; p < count; ++p, target += channels) {
    for (std::int64_t c = 0; c < channels; ++c) {
      target[c] = to_compute(source[c * channel_step + p]);
    }
  }
}

// `count` adjacent elements, converted.
template <class T>
inline void convert(const T* source, std::int64_t count, Compute<T>* target) {
  using C = Compute<T>;
  std::int64_t i = 0;
  for (; i + kLanes<C> <= count; i += kLanes<C>) store(target + i, load(source + i));
  for (; i < count; ++i) target[i] = to_compute(source[i]);
}
