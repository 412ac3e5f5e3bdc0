// The weight of the kernels of planes.h and flat_planes.h, packed for their tiles:
//
//     [group][class][tile of channels][source channel][tap][channel of the tile]
//
// Weights of small groups are read once for few pixels where planes are small, so that packing
// counts: where some axis of w is contiguous, squares of filled channels by that axis are
// transposed in registers.
template <class T>
class PlaneWeightPacker {
 public:
  using C = Compute<T>;

  PlaneWeightPacker(const Gather& gather, std::int64_t group)
      : gather_(gather),
        group_(group),
        w_(static_cast<const T*>(gather.w) + group * gather.w_group),
        taps_are_contiguous_(gather.w_column == 1 && gather.w_row == gather.columns.kernel_size) {}

  // All tiles of one group and class.
  void pack(const AxisClass& rows, const AxisClass& columns, C* to) const {
    const std::int64_t steps = gather_.source_channels * rows.taps.count * columns.taps.count;
    std::int64_t first = 0, width = 0, done = 0;  // channels of the tile, and of it packed
    while (first < gather_.filled_channels) {
      Strip strip{first, 0, 0, {}};
      while (first < gather_.filled_channels && strip.channels < L) {
        if (done == 0) width = tile_channels(gather_.filled_channels - first);
        const std::int64_t count = width - done < L ? width - done : L;
        if (strip.channels + count > L) break;
        strip.tiles[strip.tile_count++] = {to + done, strip.channels, width,
                                           mask_between<C>(strip.channels, strip.channels + count)};
        strip.channels += count;
        first += count;
        done += count;
        if (done == width) {
          to += steps * width;
          done = 0;
        }
      }
      pack_strip(rows, columns, strip);
    }
  }

  // The bias of the group, or zeros.
  void pack_bias(std::int64_t padded_filled, C* to) const {
    const auto* bias = static_cast<const T*>(gather_.bias);
    for (std::int64_t f = 0; f < padded_filled; ++f) {
      to[f] = bias && f < gather_.filled_channels
                  ? to_compute(bias[group_ * gather_.filled_channels + f])
                  : C(0);
    }
  }

 private:
  static constexpr std::int64_t L = kLanes<C>;

  struct StripTile {
    C* to;
    std::int64_t lane, width;
    Mask<C> mask;  // its lanes
  };
  // As many tiles as fit in a vector of filled channels, or a vector's part of one.
  struct Strip {
    std::int64_t first, channels;  // padding included
    int tile_count;
    StripTile tiles[L];
  };

  void pack_strip(const AxisClass& rows, const AxisClass& columns, const Strip& strip) const {
    const T* w = w_ + strip.first * gather_.w_filled;
    const std::int64_t rest = gather_.filled_channels - strip.first;
    const std::int64_t exist = rest < strip.channels ? rest : strip.channels;
    const std::int64_t area = rows.taps.count * columns.taps.count;
    if (gather_.w_source == 1 && gather_.w_filled != 1) {
      for_taps(rows, columns, [&](std::int64_t tap, std::int64_t offset, std::int64_t) {
        for (std::int64_t s = 0; s < gather_.source_channels; s += L) {
          Vector<C> square[L];
          const std::int64_t left = gather_.source_channels - s;
          load_square(w + offset + s, exist, mask_between<C>(0, left), square);
          for (std::int64_t i = 0; i < L && i < left; ++i)
            write(strip, (s + i) * area + tap, square[i]);
        }
      });
    } else if (taps_are_contiguous_ && gather_.w_filled != 1) {
      for (std::int64_t s = 0; s < gather_.source_channels; ++s) {
        for (std::int64_t k = 0; k < gather_.kernel_area(); k += L) {
          Vector<C> square[L];
          load_square(w + s * gather_.w_source + k, exist,
                      mask_between<C>(0, gather_.kernel_area() - k), square);
          for_taps(rows, columns, [&](std::int64_t tap, std::int64_t, std::int64_t in_kernel) {
            if (in_kernel >= k && in_kernel < k + L)
              write(strip, s * area + tap, square[in_kernel - k]);
          });
        }
      }
    } else {
      for (std::int64_t s = 0; s < gather_.source_channels; ++s) {
        for_taps(rows, columns, [&](std::int64_t tap, std::int64_t offset, std::int64_t) {
          write(strip, s * area + tap,
                load_strided(w + s * gather_.w_source + offset, gather_.w_filled,
                             mask_between<C>(0, exist)));
        });
      }
    }
  }

  // visit(index within the class, offset in w, index within the kernel)
  template <class Visit>
  HANDCONV_INLINE void for_taps(const AxisClass& rows, const AxisClass& columns,
                                const Visit& visit) const {
    std::int64_t tap = 0;
    for (const Tap& row : rows.taps) {
      for (const Tap& column : columns.taps) {
        visit(tap++, row.kernel * gather_.w_row + column.kernel * gather_.w_column,
              row.kernel * gather_.columns.kernel_size + column.kernel);
      }
    }
  }

  // Filled channels as rows, transposed to lanes; those that do not exist are zero.
  void load_square(const T* w, std::int64_t exist, Mask<C> mask, Vector<C> (&square)[L]) const {
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < L; ++i) {
      square[i] = i < exist ? load_masked(w + i * gather_.w_filled, mask) : Vector<C>{};
    }
    transpose<C>(square);
  }

  HANDCONV_INLINE void write(const Strip& strip, std::int64_t step, Vector<C> lanes) const {
    for (int t = 0; t < strip.tile_count; ++t) {
      const StripTile& tile = strip.tiles[t];
      store_masked(tile.to + step * tile.width - tile.lane, lanes, tile.mask);
    }
  }

  const Gather& gather_;
  const std::int64_t group_;
  const T* w_;
  bool taps_are_contiguous_;
};
