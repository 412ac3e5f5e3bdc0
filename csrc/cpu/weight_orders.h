// Weights as vectors of filled channels, packed from w in the order in which its elements adjoin.

// Where the weights of a tap lie, in steps of a block's vectors: the source channel s at first + s
// * step.
struct TapPlace {
  std::int64_t first, step;  // step 0: no position reads through the tap
};

// Calls write(tap, s, lanes) for every tap and source channel, if some of them adjoin in w; else
// returns false. squares(offset, count, visit) calls visit(lanes) for `count` elements of every
// filled channel that adjoin from that offset on.
template <class Squares, class Write>
HANDCONV_INLINE bool write_adjacent(const Gather& gather, const Squares& squares,
                                    const Write& write) {
  const std::int64_t area = gather.kernel_area(), sources = gather.source_channels,
                     width = gather.columns.kernel_size;
  const bool taps_adjoin = gather.w_column == 1 && gather.w_row == width;
  const bool sources_adjoin =
      gather.w_source == 1 && gather.w_column == sources && gather.w_row == sources * width;
  std::int64_t tap = 0, s = 0;
  if (gather.w_filled == 1) return false;
  if (taps_adjoin && gather.w_source == area) {
    squares(0, sources * area, [&](auto lanes) __attribute__((always_inline)) {
      write(tap, s, lanes);
      if (++tap == area) {
        tap = 0;
        ++s;
      }
    });
  } else if (sources_adjoin) {
    squares(0, sources * area, [&](auto lanes) __attribute__((always_inline)) {
      write(tap, s, lanes);
      if (++s == sources) {
        s = 0;
        ++tap;
      }
    });
  } else if (taps_adjoin) {
    for (; s < sources; ++s) {
      tap = 0;
      squares(s * gather.w_source, area,
              [&](auto lanes) __attribute__((always_inline)) { write(tap++, s, lanes); });
    }
  } else {
    return false;
  }
  return true;
}

inline std::int64_t tap_offset(const Gather& gather, std::int64_t tap) {
  const std::int64_t width = gather.columns.kernel_size;
  return tap / width * gather.w_row + tap % width * gather.w_column;
}
