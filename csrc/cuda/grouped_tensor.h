// Grouped convolution and its input gradient of 16-bit types, in one kernel over gather.h, on
// tensor cores. The source is channels_last, or packed so before; the result may lie in either
// order.
//
// Per group it is the product D (positions x filled) = A (positions x k) B (k x filled), with k =
// (tap, source channel): a step of 16 takes, for example, two taps of 8 channels or four of 4, and
// the 8 columns of an instruction belong to one group, so that what is infinite or NaN in a group
// stays there. A block of 4 warps fills a tile of positions for 4, 2 or 1 groups. The source pixels
// that the tile looks at and the weights, in the order of the fragments, lie in shared memory. A
// warp takes kTiles x 16 positions of one group and all its filled channels: kTiles x kColumns x 4
// sums in registers.
//
// From global memory, for each filled element: the source, (1 + halo) S / F times its size, and the
// weights of the groups once for each tile.
#pragma once

#include "cuda/grouped_gather.h"

namespace handconv {
namespace cuda {
namespace grouped {

struct TensorPlan {
  GatherPlan gather;  // row_pitch in pixels; plane in elements, of a group
  int pixel_pitch;    // elements; padded so that 8 neighbouring pixels lie in different banks
  int steps;          // of 16 terms, in the largest class
};

struct TensorGather {
  Gather gather;
  TensorPlan plan;
  int copy_elements;   // at once: 8, 4, 2 or 1
  bool paired_stores;  // two channels at once
};

// Copies the pixels that the tile sees as [group][row][column][channel], with zeros outside the
// image, kElements at once. The caller waits.
template <class T, int kElements>
HANDCONV_DEVICE void copy_source(const TensorGather& p, const GatherBlock& block,
                                 const TapRange& tap_rows, const TapRange& tap_columns, T* shared) {
  const Gather& gather = p.gather;
  const GatherPlan& plan = p.plan.gather;
  const int pieces = gather.source_channels / kElements, count = plan.groups * pieces;
  const int piece = thread_index() % count, step = kThreads / count;
  const int g = piece / pieces, channel = piece % pieces * kElements;
  const std::int64_t group = block.first_group + g;
  if (thread_index() / count >= step || group >= gather.groups) return;
  const int rows = tap_rows.extent(plan.tile_rows, block.rows.source_step);
  const int columns = tap_columns.extent(plan.tile_columns, block.columns.source_step);
  const ImageStrides& strides = gather.source_strides;
  const T* const image = static_cast<const T*>(gather.source) + block.sample * strides.sample +
                         group * gather.source_channels + channel;
  T* const to = shared + g * plan.plane + channel;
  for (int row = 0, column = thread_index() / count;; column += step) {
    while (column >= columns) {
      column -= columns;
      ++row;
    }
    if (row >= rows) return;
    const int h = tap_rows.origin + row, w = tap_columns.origin + column;
    const bool inside =
        0 <= h && h < gather.rows.source_size && 0 <= w && w < gather.columns.source_size;
    const T* const from = inside ? image + h * strides.row + w * strides.column : image;
    T* const place = to + (row * plan.row_pitch + column) * p.plan.pixel_pitch;
    if constexpr (kElements == 1) {
      *place = inside ? *from : T{0};
    } else {
      copy_async<kElements * sizeof(T)>(place, from, inside);
    }
  }
}

// Where the pairs of terms of each step lie, from a position's corner, in elements; -1 past the
// last.
template <class T>
HANDCONV_DEVICE void stage_offsets(const TensorGather& p, const TapRange& rows,
                                   const TapRange& columns, int steps, int* offsets) {
  const int channels = p.gather.source_channels;
  for (int i = thread_index(); i < steps * 8; i += kThreads) {
    const int tap = 2 * i / channels, channel = 2 * i % channels;
    const int row = rows.at(tap / columns.count), column = columns.at(tap % columns.count);
    offsets[i] = tap < rows.count * columns.count
                     ? (row * p.plan.gather.row_pitch + column) * p.plan.pixel_pitch + channel
                     : -1;
  }
}

// Copies the weights as the fragments B of each [group][step][8 columns]: two registers a lane.
// Zero past the last term or filled channel.
template <class T, int kColumns>
HANDCONV_DEVICE void stage_fragments(const TensorGather& p, const GatherBlock& block, int steps,
                                     std::uint32_t* fragments) {
  const Gather& gather = p.gather;
  const int columns = block.columns.taps,
            terms = block.rows.taps * columns * gather.source_channels;
  const auto bits = [&](std::int64_t group, int term, int f) -> std::uint32_t {
    if (term >= terms || f >= gather.filled_channels || group >= gather.groups) return 0;
    const int s = term % gather.source_channels, tap = term / gather.source_channels;
    const std::int64_t offset = group * gather.w_group + f * gather.w_filled + s * gather.w_source +
                                block.rows.kernel(tap / columns) * gather.w_row +
                                block.columns.kernel(tap % columns) * gather.w_column;
    return static_cast<const T*>(gather.w)[offset].bits;
  };
  for (int i = thread_index(); i < p.plan.gather.groups * steps * kColumns * 64; i += kThreads) {
    const int half = i % 2, lane = i / 2 % kLanes, column = i / 64 % kColumns;
    const int step = i / (64 * kColumns) % steps, g = i / (64 * kColumns) / steps;
    const int term = step * 16 + half * 8 + lane % 4 * 2, f = column * 8 + lane / 4;
    const std::int64_t group = block.first_group + g;
    fragments[i] = bits(group, term, f) | bits(group, term + 1, f) << 16;
  }
}

template <class T>
HANDCONV_DEVICE void store_pair(T* to, float first, float second, bool paired, bool has_second,
                                std::int64_t channel_stride) {
  const T low = from_compute<T>(first), high = from_compute<T>(second);
  if (paired) {
    store_pack(to, Pack<T, 2>{{low, high}});
    return;
  }
  to[0] = low;
  if (has_second) to[channel_stride] = high;
}

template <class T, int kTiles, int kColumns>
HANDCONV_KERNEL(kThreads, 3)
gather_tile_on_tensor_cores(TensorGather p) {
  const Gather& gather = p.gather;
  const GatherPlan& plan = p.plan.gather;
  const GatherBlock block = find_block(gather, plan);
  if (block.first_row >= block.rows.count || block.first_column >= block.columns.count) return;
  T* const source = reinterpret_cast<T*>(shared_memory());
  auto* const fragments = reinterpret_cast<std::uint32_t*>(source + plan.groups * plan.plane);
  auto* const offsets =
      reinterpret_cast<int*>(fragments + plan.groups * p.plan.steps * kColumns * 64);

  const int terms = block.rows.taps * block.columns.taps * gather.source_channels;
  const int steps = (terms + 15) / 16;
  if (steps > 0) {
    const TapRange rows = tap_range(block.rows, block.first_row, 0, block.rows.taps);
    const TapRange columns = tap_range(block.columns, block.first_column, 0, block.columns.taps);
    if (p.copy_elements == 8) copy_source<T, 8>(p, block, rows, columns, source);
    if (p.copy_elements == 4) copy_source<T, 4>(p, block, rows, columns, source);
    if (p.copy_elements == 2) copy_source<T, 2>(p, block, rows, columns, source);
    if (p.copy_elements == 1) copy_source<T, 1>(p, block, rows, columns, source);
    commit_copies();
    stage_offsets<T>(p, rows, columns, steps, offsets);
    stage_fragments<T, kColumns>(p, block, steps, fragments);
    wait_for_copies<0>();
  }
  synchronize_block();

  const int warp = thread_index() / kLanes, lane = thread_index() % kLanes;
  const int row = lane / 4, pair = lane % 4;  // in the fragments
  const std::int64_t group = block.first_group + warp % plan.groups;
  const int first_position = warp / plan.groups * kTiles * 16 + row;
  if (group >= gather.groups) return;  // the whole warp

  float sums[kTiles][kColumns][4];
#pragma unroll
  for (int column = 0; column < kColumns; ++column) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int f = column * 8 + pair * 2 + i % 2;
      const bool has_bias = gather.bias && f < gather.filled_channels;
      const float bias =
          has_bias
              ? to_compute(static_cast<const T*>(gather.bias)[group * gather.filled_channels + f])
              : 0.0f;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) sums[tile][column][i] = bias;
    }
  }

  // Steps in the staged source, in elements: by a row or a column of positions.
  const int row_step = block.rows.source_step * plan.row_pitch * p.plan.pixel_pitch;
  const int column_step = block.columns.source_step * p.plan.pixel_pitch;
  const int tile_step = 16 / plan.tile_columns * row_step;
  const int half_step = plan.tile_columns == 16 ? 8 * column_step : row_step;
  const T* const corner = source + warp % plan.groups * plan.plane +
                          first_position / plan.tile_columns * row_step +
                          first_position % plan.tile_columns * column_step;
  const std::uint32_t* const weights =
      fragments + warp % plan.groups * steps * kColumns * 64 + lane * 2;
  const auto load = [](const T* from, int offset) {
    return offset < 0 ? 0u : *reinterpret_cast<const std::uint32_t*>(from + offset);
  };
  for (int step = 0; step < steps; ++step) {
    const int low = offsets[step * 8 + pair], high = offsets[step * 8 + pair + 4];
    std::uint32_t b[kColumns][2];
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      const auto fragment = load_pack<2>(weights + (step * kColumns + column) * 64);
      b[column][0] = fragment[0];
      b[column][1] = fragment[1];
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const T* const upper = corner + tile * tile_step;
      const T* const lower = upper + half_step;
      const std::uint32_t a[4] = {load(upper, low), load(lower, low), load(upper, high),
                                  load(lower, high)};
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        multiply_add_16816<T>(sums[tile][column], a, b[column]);
      }
    }
  }

  const ImageStrides& strides = gather.filled_strides;
  T* const image = static_cast<T*>(gather.filled) + block.sample * strides.sample +
                   group * gather.filled_channels * strides.channel;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = first_position + tile * 16 + half * 8;
      const int i = block.first_row + position / plan.tile_columns;
      const int j = block.first_column + position % plan.tile_columns;
      if (i >= block.rows.count || j >= block.columns.count) continue;
      T* const pixel =
          image + block.rows.filled(i) * strides.row + block.columns.filled(j) * strides.column;
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        const int f = column * 8 + pair * 2;
        if (f >= gather.filled_channels) continue;
        store_pair(pixel + f * strides.channel, sums[tile][column][half * 2],
                   sums[tile][column][half * 2 + 1], p.paired_stores,
                   f + 1 < gather.filled_channels, strides.channel);
      }
    }
  }
}

// Of 8 filled channels, and of 16 positions, in a warp.
inline int columns_of_warp(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const std::int64_t filled =
      problem.slot == Slot::kInput ? g.in_channels_per_group() : g.out_channels_per_group();
  return filled <= 8 ? 1 : filled <= 16 ? 2 : 4;
}
constexpr int tiles_of_warp(int columns) { return columns == 4 ? 4 : 8; }

inline std::int64_t shared_bytes(const TensorPlan& plan, int columns) {
  const std::int64_t groups = plan.gather.groups;
  return groups * plan.gather.plane * 2 + groups * plan.steps * columns * 64 * 4 + plan.steps * 32;
}

// False where the source or the weights do not fit in shared memory.
inline bool make_tensor_plan(const Problem& problem, TensorPlan& plan) {
  const Geometry& g = problem.geometry;
  const bool transposed = problem.slot == Slot::kInput;
  const GatherAxis rows = make_gather_axis(g.height, problem.slot);
  const GatherAxis columns = make_gather_axis(g.width, problem.slot);
  const TapSpread tap_rows = spread_of(g.height, transposed);
  const TapSpread tap_columns = spread_of(g.width, transposed);
  const std::int64_t channels = transposed ? g.out_channels_per_group() : g.in_channels_per_group();
  const int filled = columns_of_warp(problem), tiles = tiles_of_warp(filled);
  const std::int64_t steps =
      ceil_divide<std::int64_t>(tap_rows.taps * tap_columns.taps * channels, 16);
  GatherPlan& gather = plan.gather;
  gather = {};
  gather.tile_columns = columns.largest_class() <= 8 ? 8 : 16;
  plan.pixel_pitch = static_cast<int>(channels <= 8 ? channels : channels + 8);
  const std::int64_t pitch = tap_columns.extent(gather.tile_columns, tap_columns.taps);
  if (pitch * plan.pixel_pitch > kLargestBytes || steps > kLargestBytes / 32) return false;
  for (const std::int64_t bytes : {kPreferredBytes, kLargestBytes}) {
    for (int groups = kWarps; groups >= 1; groups /= 2) {
      if (groups > g.groups) continue;
      gather.groups = groups;
      gather.tile_rows = kWarps / groups * tiles * 16 / gather.tile_columns;
      const std::int64_t pixels = pitch * tap_rows.extent(gather.tile_rows, tap_rows.taps);
      if (pixels * plan.pixel_pitch > kLargestBytes) continue;
      gather.row_pitch = static_cast<int>(pitch);
      gather.plane = static_cast<int>(round_up<std::int64_t>(pixels * plan.pixel_pitch, 8));
      plan.steps = static_cast<int>(steps);
      if (shared_bytes(plan, filled) > bytes) continue;
      gather.group_blocks = static_cast<int>(ceil_divide<std::int64_t>(g.groups, groups));
      gather.row_tiles =
          static_cast<int>(ceil_divide<std::int64_t>(rows.largest_class(), gather.tile_rows));
      gather.column_tiles =
          static_cast<int>(ceil_divide<std::int64_t>(columns.largest_class(), gather.tile_columns));
      return true;
    }
  }
  return false;
}

}  // namespace grouped
}  // namespace cuda
}  // namespace handconv
