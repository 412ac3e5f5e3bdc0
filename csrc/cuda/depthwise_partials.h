// The weight gradient of depthwise groups: what its two kernels share.
//
// w[oc, ic] belongs to a pair of an output and an input channel; pair = oc * (C / groups) + ic.
// Blocks sum over a chunk of the pixels of one pair (or of neighbouring pairs) for a tile of taps,
// and write partials[chunk][pair][tap]; a second launch adds the chunks in order. Chunks are cut by
// the shape alone.
#pragma once

#include <type_traits>

#include "cuda/arithmetic.h"
#include "cuda/depthwise_axis.h"
#include "cuda/elements.h"

namespace handconv {
namespace cuda {

struct WeightSums {
  std::int64_t batch, pairs;
  int in_channels, out_channels;  // per group
  AxisOf<int> rows, columns;
  ImageStrides xs, ys;
  WeightStrides ws;
  const void* x;
  const void* y;
  void* w;
  void* partials;  // of Compute<T>
  std::int64_t chunks;
  int tap_rows, tap_columns;            // of a tile of taps
  int tap_row_tiles, tap_column_tiles;  // that cover the kernel

  HANDCONV_HOST_DEVICE std::int64_t taps() const {
    return static_cast<std::int64_t>(rows.kernel) * columns.kernel;
  }
  HANDCONV_HOST_DEVICE int tap_tiles() const { return tap_row_tiles * tap_column_tiles; }
  HANDCONV_HOST_DEVICE std::int64_t y_channel(std::int64_t pair) const {
    return pair / in_channels;
  }
  HANDCONV_HOST_DEVICE std::int64_t x_channel(std::int64_t pair) const {
    return y_channel(pair) / out_channels * in_channels + pair % in_channels;
  }
};

// Part `index` of `total` items that are cut into `parts` of nearly the same length.
struct ItemRange {
  std::int64_t begin, end;
};
HANDCONV_HOST_DEVICE inline ItemRange part_of(std::int64_t total, std::int64_t parts,
                                              std::int64_t index) {
  const std::int64_t length = total / parts, rest = total % parts;
  const std::int64_t begin = index * length + (index < rest ? index : rest);
  return {begin, begin + length + (index < rest ? 1 : 0)};
}

// A tile of taps: the first, and how many exist.
struct TapTile {
  int row, column, rows, columns;

  HANDCONV_DEVICE TapTile(const WeightSums& s, int tile) {
    row = tile / s.tap_column_tiles * s.tap_rows;
    column = tile % s.tap_column_tiles * s.tap_columns;
    rows = s.rows.kernel - row < s.tap_rows ? s.rows.kernel - row : s.tap_rows;
    columns = s.columns.kernel - column < s.tap_columns ? s.columns.kernel - column : s.tap_columns;
  }
};

template <int kRows, int kColumns, class C>
using TapSums = C[kRows][kColumns];

// Sums per tile of taps and item, cut into so many chunks: enough blocks for any GPU, and no sum
// longer than kLongest items.
// So the workspace has at most (2048 + others + items * others / 64) times the sums of a tile of
// taps.
inline std::int64_t chunk_count(std::int64_t items, std::int64_t others) {
  constexpr std::int64_t kBlocks = 2048, kLongest = 64;
  const std::int64_t wanted = ceil_divide(kBlocks, others);
  const std::int64_t least = ceil_divide(items, kLongest);
  const std::int64_t chunks = wanted > least ? wanted : least;
  return chunks < items ? chunks : items;
}

constexpr int kPartialThreads = 128;

template <class T>
HANDCONV_KERNEL(kPartialThreads, 8)
add_partials(WeightSums s) {
  using C = Compute<T>;
  constexpr int kBatch = 8;  // loads under way
  const std::int64_t elements = s.pairs * s.taps();
  const std::int64_t element = block_index() * kPartialThreads + thread_index();
  if (element >= elements) return;
  const C* partials = static_cast<const C*>(s.partials) + element;
  C sum = 0;
  for (std::int64_t chunk = 0; chunk < s.chunks; chunk += kBatch) {
    C values[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      values[i] = chunk + i < s.chunks ? partials[(chunk + i) * elements] : C(0);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) sum += values[i];
  }
  const std::int64_t pair = element / s.taps();
  const int tap = static_cast<int>(element % s.taps());
  static_cast<T*>(
      s.w)[s.y_channel(pair) * s.ws.out_channel + pair % s.in_channels * s.ws.in_channel +
           tap / s.columns.kernel * s.ws.row + tap % s.columns.kernel * s.ws.column] =
      from_compute<T>(sum);
}

template <class T>
void launch_add_partials(const char* name, const WeightSums& sums, void* stream) {
  launch(name, add_partials<T>,
         ceil_divide<std::int64_t>(sums.pairs * sums.taps(), kPartialThreads), kPartialThreads, 0,
         stream, sums);
}

// Without buffers, chunks and tiles of taps.
inline WeightSums make_weight_sums(const Problem& problem) {
  const Geometry& g = problem.geometry;
  WeightSums sums{};
  sums.batch = g.batch;
  sums.pairs = g.out_channels * g.in_channels_per_group();
  sums.in_channels = static_cast<int>(g.in_channels_per_group());
  sums.out_channels = static_cast<int>(g.out_channels_per_group());
  sums.rows = int_axis(g.height);
  sums.columns = int_axis(g.width);
  sums.xs = problem.x_strides();
  sums.ys = problem.y_strides();
  sums.ws = problem.w_strides;
  return sums;
}

inline void set_tap_tile(WeightSums& sums, int rows, int columns) {
  sums.tap_rows = rows;
  sums.tap_columns = columns;
  sums.tap_row_tiles = ceil_divide(sums.rows.kernel, rows);
  sums.tap_column_tiles = ceil_divide(sums.columns.kernel, columns);
}

inline void set_buffers(WeightSums& sums, const Buffers& buffers, void* partials) {
  sums.x = buffers.x;
  sums.y = buffers.y;
  sums.w = buffers.w;
  sums.partials = partials;
}

template <class T>
WorkspaceSize partials_size(const WeightSums& sums) {
  const std::int64_t elements = sums.chunks * sums.pairs * sums.taps();
  return {static_cast<std::size_t>(elements) * sizeof(Compute<T>), 0};
}

// The side of a tile of taps: the kernel's own for 3x3 and 5x5, else 7.
inline int tap_side(const WeightSums& sums) {
  const int longest =
      sums.rows.kernel > sums.columns.kernel ? sums.rows.kernel : sums.columns.kernel;
  return longest <= 3 ? 3 : longest <= 5 ? 5 : 7;
}

// start(std::integral_constant<int, side>{}) for the side that tap_side gave.
template <class Start>
void start_for_tap_side(const WeightSums& sums, const Start& start) {
  switch (sums.tap_rows) {
    case 3:
      return start(std::integral_constant<int, 3>{});
    case 5:
      return start(std::integral_constant<int, 5>{});
    default:
      return start(std::integral_constant<int, 7>{});
  }
}

}  // namespace cuda
}  // namespace handconv
