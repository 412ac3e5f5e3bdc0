// Grouped convolution and its input gradient with few channels in a group, in one kernel over
// gather.h, on the ordinary units.
//
// A block of 4 warps fills a tile of the positions of one pair of classes, 32 kPixels of them, for
// 4 chunks of kFilled channels: for chunks of several groups if these are small. A warp takes one
// chunk, a lane kPixels positions: kPixels x kFilled sums in registers (at most 128; 166 in
// float64). The source pixels that the tile looks at and the weights lie in shared memory as
// Compute<T>, in stages of some source channels and some rows of taps, so that both fit.
//
// From global memory, for each filled element: the source, (1 + halo) S / F times its size, and the
// weights of the groups once for each tile. Per tap and source channel a lane reads kPixels values
// and kFilled weights (the same in all lanes) from shared memory for kPixels x kFilled products.
#pragma once

#include <algorithm>
#include <numeric>

#include "cuda/gather.h"
#include "cuda/grouped_tile.h"

namespace handconv {
namespace cuda {
namespace grouped {

// How the work is cut. It depends on the shape of one sample alone.
struct GatherPlan {
  int groups;         // of a block
  int filled_chunks;  // of a group
  int group_blocks;
  int tile_rows, tile_columns;    // positions of a class; the columns divide 32
  int row_tiles, column_tiles;    // of the largest class
  int source_channels, tap_rows;  // of a stage
  int row_pitch, plane;  // of the staged source: elements from row to row, channel to channel
  int weights;           // elements of the staged weights
};

struct GroupedGather {
  Gather gather;
  GatherPlan plan;
  bool packed_stores;  // the filled channels are neighbours, aligned and in full chunks
};

// The position of a block.
struct GatherBlock {
  std::int64_t sample;
  int first_group;
  AxisClass rows, columns;
  int first_row, first_column;  // of the tile, among the class's positions
};

HANDCONV_DEVICE GatherBlock find_block(const Gather& gather, const GatherPlan& plan) {
  std::int64_t rest = block_index();
  const auto take = [&](int size) {
    const auto result = static_cast<int>(rest % size);
    rest /= size;
    return result;
  };
  GatherBlock block;
  block.first_group = take(plan.group_blocks) * plan.groups;
  block.first_column = take(plan.column_tiles) * plan.tile_columns;
  block.columns = gather.columns.axis_class(take(gather.columns.classes()));
  block.first_row = take(plan.row_tiles) * plan.tile_rows;
  block.rows = gather.rows.axis_class(take(gather.rows.classes()));
  block.sample = rest;
  return block;
}

// Consecutive taps of one axis and where they look: tap `first + i` of the tile's position j sees
// the source at origin + at(i) + j * source_step.
struct TapRange {
  int first, count, step;
  int origin;

  HANDCONV_DEVICE int at(int i) const { return step < 0 ? (i - count + 1) * step : i * step; }
  HANDCONV_DEVICE int extent(int positions, int source_step) const {
    return (positions - 1) * source_step + (count - 1) * (step < 0 ? -step : step) + 1;
  }
};
HANDCONV_DEVICE TapRange tap_range(const AxisClass& axis, int first_position, int first_tap,
                                   int count) {
  const int lowest = axis.offset_step < 0 ? first_tap + count - 1 : first_tap;
  return {first_tap, count, axis.offset_step, axis.source(first_position, lowest)};
}

// The source channels and taps of one stage.
struct Stage {
  int first_channel, channels;  // in each group
  TapRange rows, columns;
};

// Copies the pixels that the tile sees into shared memory as [group][channel][row][column].
template <class T>
HANDCONV_DEVICE void stage_source(const GroupedGather& p, const GatherBlock& block,
                                  const Stage& stage, Compute<T>* shared) {
  const Gather& gather = p.gather;
  const TileChannels channels{gather.groups, gather.source_channels, block.first_group,
                              p.plan.groups, stage.first_channel,    stage.channels};
  const TilePixels pixels{gather.rows.source_size,
                          gather.columns.source_size,
                          stage.rows.origin,
                          stage.columns.origin,
                          stage.rows.extent(p.plan.tile_rows, block.rows.source_step),
                          stage.columns.extent(p.plan.tile_columns, block.columns.source_step)};
  const TilePitch pitch{stage.channels * p.plan.plane, p.plan.plane, p.plan.row_pitch, 1};
  const T* image =
      static_cast<const T*>(gather.source) + block.sample * gather.source_strides.sample;
  stage_tile(image, gather.source_strides, channels, pixels, pitch, shared);
}

// Copies the weights of the stage into shared memory as [group][channel][tap row][tap
// column][filled], with zeros where a chunk goes past the last filled channel.
template <class T, int kFilled>
HANDCONV_DEVICE void stage_weights(const GroupedGather& p, const GatherBlock& block,
                                   const Stage& stage, Compute<T>* shared) {
  const Gather& gather = p.gather;
  const int padded = p.plan.filled_chunks * kFilled;
  const int taps = stage.rows.count * stage.columns.count;
  const int elements = p.plan.groups * stage.channels * padded * taps;
  for (int i = thread_index(); i < elements; i += kThreads) {
    const int tap = i % taps, s = i / taps % stage.channels;
    const int f = i / taps / stage.channels % padded, g = i / taps / stage.channels / padded;
    const std::int64_t group = block.first_group + g;
    Compute<T> value = 0;
    if (f < gather.filled_channels && group < gather.groups) {
      const int kh = block.rows.kernel(stage.rows.first + tap / stage.columns.count);
      const int kw = block.columns.kernel(tap % stage.columns.count);
      value =
          to_compute(static_cast<const T*>(gather.w)[group * gather.w_group + f * gather.w_filled +
                                                     (stage.first_channel + s) * gather.w_source +
                                                     kh * gather.w_row + kw * gather.w_column]);
    }
    shared[((g * stage.channels + s) * taps + tap) * padded + f] = value;
  }
}

// What one lane fills: the positions lane + 32 j of the tile, and the channels from `filled` on.
struct LaneWork {
  int group, filled;  // of the block, of the group
  int row, column;    // of position 0 in the tile
  int row_step;       // from position to position
};

template <class T, int kPixels, int kFilled>
HANDCONV_DEVICE void accumulate_stage(const GroupedGather& p, const GatherBlock& block,
                                      const Stage& stage, const LaneWork& work,
                                      const Compute<T>* source, const Compute<T>* weights,
                                      Compute<T> (&sums)[kPixels][kFilled]) {
  using C = Compute<T>;
  constexpr int kPack = 16 / sizeof(C);
  const int padded = p.plan.filled_chunks * kFilled;
  const int pixel_step = work.row_step * block.rows.source_step * p.plan.row_pitch;
  const C* corner = source + work.group * stage.channels * p.plan.plane +
                    work.row * block.rows.source_step * p.plan.row_pitch +
                    work.column * block.columns.source_step;
  const C* weight = weights +
                    work.group * stage.channels * stage.rows.count * stage.columns.count * padded +
                    work.filled;
  for (int s = 0; s < stage.channels; ++s, corner += p.plan.plane) {
    for (int r = 0; r < stage.rows.count; ++r) {
      const C* pixel = corner + stage.rows.at(r) * p.plan.row_pitch + stage.columns.at(0);
      for (int c = 0; c < stage.columns.count; ++c) {
        C values[kPixels];
#pragma unroll
        for (int j = 0; j < kPixels; ++j) values[j] = pixel[j * pixel_step];
#pragma unroll
        for (int f = 0; f < kFilled; f += kPack) {
          const Pack<C, kPack> factors = load_pack<kPack>(weight + f);
#pragma unroll
          for (int i = 0; i < kPack; ++i) {
#pragma unroll
            for (int j = 0; j < kPixels; ++j) sums[j][f + i] += factors[i] * values[j];
          }
        }
        pixel += stage.columns.step;
        weight += padded;
      }
    }
  }
}

template <class T, int kPixels, int kFilled>
HANDCONV_DEVICE void store_tile(const GroupedGather& p, const GatherBlock& block,
                                const LaneWork& work, const Compute<T> (&sums)[kPixels][kFilled]) {
  constexpr int kPack = std::min<int>(kFilled, 16 / sizeof(T));
  const Gather& gather = p.gather;
  const ImageStrides& strides = gather.filled_strides;
  const std::int64_t group = block.first_group + work.group;
  const int column = block.first_column + work.column;
  T* const channel = static_cast<T*>(gather.filled) + block.sample * strides.sample +
                     (group * gather.filled_channels + work.filled) * strides.channel +
                     block.columns.filled(column) * strides.column;
#pragma unroll
  for (int j = 0; j < kPixels; ++j) {
    const int row = block.first_row + work.row + j * work.row_step;
    if (row >= block.rows.count || column >= block.columns.count) continue;
    T* const pixel = channel + block.rows.filled(row) * strides.row;
    if (p.packed_stores) {
#pragma unroll
      for (int f = 0; f < kFilled; f += kPack) {
        Pack<T, kPack> pack;
#pragma unroll
        for (int i = 0; i < kPack; ++i) pack[i] = from_compute<T>(sums[j][f + i]);
        store_pack(pixel + f, pack);
      }
    } else {
#pragma unroll
      for (int f = 0; f < kFilled; ++f) {
        if (work.filled + f >= gather.filled_channels) break;
        pixel[f * strides.channel] = from_compute<T>(sums[j][f]);
      }
    }
  }
}

template <class T, int kPixels, int kFilled>
HANDCONV_KERNEL(kThreads, sizeof(Compute<T>) == 8 ? 3 : 4)
gather_tile(GroupedGather p) {
  using C = Compute<T>;
  const GatherBlock block = find_block(p.gather, p.plan);
  if (block.first_row >= block.rows.count || block.first_column >= block.columns.count) return;
  C* const weights = reinterpret_cast<C*>(shared_memory());
  C* const source = weights + p.plan.weights;

  const int warp = thread_index() / kLanes, lane = thread_index() % kLanes;
  const LaneWork work{warp / p.plan.filled_chunks, warp % p.plan.filled_chunks * kFilled,
                      lane / p.plan.tile_columns, lane % p.plan.tile_columns,
                      kLanes / p.plan.tile_columns};
  const std::int64_t group = block.first_group + work.group;
  const bool works = work.group < p.plan.groups && group < p.gather.groups;

  C sums[kPixels][kFilled];
#pragma unroll
  for (int f = 0; f < kFilled; ++f) {
    const bool has_bias = p.gather.bias && works && work.filled + f < p.gather.filled_channels;
    const C bias = has_bias
                       ? to_compute(static_cast<const T*>(
                             p.gather.bias)[group * p.gather.filled_channels + work.filled + f])
                       : C(0);
#pragma unroll
    for (int j = 0; j < kPixels; ++j) sums[j][f] = bias;
  }

  const int channels = p.gather.source_channels, taps = block.columns.taps ? block.rows.taps : 0;
  for (int s = 0; s < channels; s += p.plan.source_channels) {
    for (int tap = 0; tap < taps; tap += p.plan.tap_rows) {
      const int tap_rows = std::min(p.plan.tap_rows, taps - tap);
      const Stage stage{s, std::min(p.plan.source_channels, channels - s),
                        tap_range(block.rows, block.first_row, tap, tap_rows),
                        tap_range(block.columns, block.first_column, 0, block.columns.taps)};
      synchronize_block();
      stage_weights<T, kFilled>(p, block, stage, weights);
      stage_source<T>(p, block, stage, source);
      synchronize_block();
      if (works) accumulate_stage<T>(p, block, stage, work, source, weights, sums);
    }
  }
  if (works) store_tile<T>(p, block, work, sums);
}

// The most taps of a class, and how far apart their source positions are.
struct TapSpread {
  std::int64_t taps, distance, source_step;

  std::int64_t extent(std::int64_t positions, std::int64_t taps_at_once) const {
    return (positions - 1) * source_step + (std::min(taps, taps_at_once) - 1) * distance + 1;
  }
};
inline TapSpread spread_of(const Axis& axis, bool transposed) {
  if (!transposed) return {axis.kernel, axis.dilation, axis.stride};
  const std::int64_t divisor = std::gcd(axis.stride, axis.dilation);
  return {(axis.kernel - 1) / (axis.stride / divisor) + 1, axis.dilation / divisor, 1};
}

// The plan, with stages of the most channels and rows of taps that fit in `bytes`; false if none
// do.
inline bool plan_stages(const Problem& problem, int filled, std::int64_t element_bytes,
                        std::int64_t bytes, GatherPlan& plan) {
  const bool transposed = problem.slot == Slot::kInput;
  const Geometry& g = problem.geometry;
  const TapSpread rows = spread_of(g.height, transposed), columns = spread_of(g.width, transposed);
  const std::int64_t source = transposed ? g.out_channels_per_group() : g.in_channels_per_group();
  const std::int64_t pitch = columns.extent(plan.tile_columns, columns.taps);
  if (pitch > bytes) return false;
  for (std::int64_t tap_rows = rows.taps; tap_rows >= 1; tap_rows /= 2) {
    // An odd number of elements: neighbouring channels then lie in different banks.
    const std::int64_t plane = rows.extent(plan.tile_rows, tap_rows) * pitch | 1;
    for (std::int64_t channels = source; channels >= 1; channels /= 2) {
      const std::int64_t weights =
          (plan.groups * channels * tap_rows * columns.taps * plan.filled_chunks * filled + 3) / 4 *
          4;
      if ((plan.groups * channels * plane + weights) * element_bytes > bytes) continue;
      plan.source_channels = static_cast<int>(channels);
      plan.tap_rows = static_cast<int>(tap_rows);
      plan.row_pitch = static_cast<int>(pitch);
      plan.plane = static_cast<int>(plane);
      plan.weights = static_cast<int>(weights);
      return true;
    }
  }
  return false;
}

// Positions a lane: few for small images, whose tiles would be empty otherwise.
inline int pixels_of_lane(const Problem& problem, std::int64_t element_bytes) {
  const GatherAxis rows = make_gather_axis(problem.geometry.height, problem.slot);
  const GatherAxis columns = make_gather_axis(problem.geometry.width, problem.slot);
  const bool small = rows.largest_class() <= 8 || columns.largest_class() <= 8;
  return small ? 2 : element_bytes == 8 ? 4 : 8;
}
inline int filled_of_lane(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const std::int64_t filled =
      problem.slot == Slot::kInput ? g.in_channels_per_group() : g.out_channels_per_group();
  return filled > 4 ? 8 : 4;
}

// False where not even the smallest stage fits in shared memory.
inline bool make_gather_plan(const Problem& problem, std::int64_t element_bytes, GatherPlan& plan) {
  const Geometry& g = problem.geometry;
  const std::int64_t channels =
      problem.slot == Slot::kInput ? g.in_channels_per_group() : g.out_channels_per_group();
  const GatherAxis rows = make_gather_axis(g.height, problem.slot);
  const GatherAxis columns = make_gather_axis(g.width, problem.slot);
  const int filled = filled_of_lane(problem), pixels = pixels_of_lane(problem, element_bytes);
  const auto up = [](std::int64_t a, std::int64_t b) { return static_cast<int>((a + b - 1) / b); };
  plan.filled_chunks = up(channels, filled);
  plan.groups = static_cast<int>(std::min<std::int64_t>(kWarps / plan.filled_chunks, g.groups));
  plan.group_blocks = up(g.groups, plan.groups);
  plan.tile_columns = columns.largest_class() <= 8 ? 8 : columns.largest_class() <= 16 ? 16 : 32;
  if (pixels == 2) plan.tile_columns = std::min(plan.tile_columns, 16);
  plan.tile_rows = pixels * kLanes / plan.tile_columns;
  plan.row_tiles = up(rows.largest_class(), plan.tile_rows);
  plan.column_tiles = up(columns.largest_class(), plan.tile_columns);
  return plan_stages(problem, filled, element_bytes, kPreferredBytes, plan) ||
         plan_stages(problem, filled, element_bytes, kLargestBytes, plan);
}

inline std::int64_t gather_blocks(const Gather& gather, const GatherPlan& plan) {
  return gather.batch * plan.group_blocks * gather.rows.classes() * plan.row_tiles *
         gather.columns.classes() * plan.column_tiles;
}

}  // namespace grouped
}  // namespace cuda
}  // namespace handconv
