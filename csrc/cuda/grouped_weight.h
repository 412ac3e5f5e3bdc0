// The weight gradient of a grouped convolution with few channels in a group, on the ordinary units.
//
// A term of a group is one of its S KH KW pairs of an input channel and a tap. A block holds the
// sums of one or several groups: a thread kFilled output channels x kTerms terms, in 90 registers
// (119 in float64). Threads that are left take every other pixel; their sums are added at the end,
// through shared memory. The block goes through a chunk of the tiles of y, staged in shared memory
// as Compute<T> with the x that they look at, and writes its sums to the workspace; a second launch
// adds the chunks in order.
//
// x (with a halo) and y are read once for every 128 kTerms / chunks of kFilled terms of a group:
// once up to about 16 channels, where 3 x 3 taps are concerned. Per pixel a thread reads kTerms
// values of x and kFilled of y from shared memory for kTerms x kFilled products.
#pragma once

#include <algorithm>

#include "cuda/grouped_tile.h"

namespace handconv {
namespace cuda {
namespace grouped {

constexpr int kTerms = 4;
// Blocks that are wanted, for which pixels are cut into chunks, and the bound of their sums.
constexpr std::int64_t kWantedBlocks = 2048, kPartialBytes = std::int64_t{1} << 26;

struct WeightPlan {
  int groups, group_blocks;        // of a block; of the problem
  int filled_chunks, term_chunks;  // of a group
  int block_term_chunks;           // of a group in one block
  int term_blocks;
  int block_channels;           // the most input channels that the terms of a block need
  int pixel_lanes;              // threads that share sums
  int tile_rows, tile_columns;  // of y
  int row_tiles, column_tiles;
  int row_pitch, plane;  // of x in shared memory
  int outputs;           // elements of y in shared memory
  std::int64_t tiles_of_chunk, chunks;

  HANDCONV_HOST_DEVICE int sums_of_block() const {  // in units of a thread's
    return groups * filled_chunks * block_term_chunks;
  }
};

template <class T>
struct GroupedWeight {
  WeightPlan plan;
  std::int64_t batch, groups;
  int in_channels, out_channels;  // of a group
  AxisOf<int> height, width;
  ImageStrides xs, ys;
  WeightStrides ws;
  const T* x;
  const T* y;
  T* w;
  Compute<T>* partials;  // [chunk][output channel][term]

  HANDCONV_HOST_DEVICE int taps() const { return height.kernel * width.kernel; }
  HANDCONV_HOST_DEVICE int terms() const { return in_channels * taps(); }
  HANDCONV_HOST_DEVICE std::int64_t elements() const { return groups * out_channels * terms(); }
};

// The position of a block, and the input channels that its terms need.
struct WeightBlock {
  int first_group;
  int first_term_chunk, term_chunks;
  int first_channel, channels;
  std::int64_t chunk;
};

template <class T>
HANDCONV_DEVICE WeightBlock find_block(const GroupedWeight<T>& p) {
  const WeightPlan& plan = p.plan;
  WeightBlock block;
  block.first_group = static_cast<int>(block_index() % plan.group_blocks) * plan.groups;
  const std::int64_t rest = block_index() / plan.group_blocks;
  block.first_term_chunk = static_cast<int>(rest % plan.term_blocks) * plan.block_term_chunks;
  block.term_chunks = std::min(plan.block_term_chunks, plan.term_chunks - block.first_term_chunk);
  block.chunk = rest / plan.term_blocks;
  const int last_term =
      std::min((block.first_term_chunk + block.term_chunks) * kTerms, p.terms()) - 1;
  block.first_channel = block.first_term_chunk * kTerms / p.taps();
  block.channels = last_term / p.taps() - block.first_channel + 1;
  return block;
}

// A thread's sums: for its group the output channels from `filled` and the terms from `term` on,
// over the pixels pixel_lane + i * pixel_lanes of every tile.
struct ThreadSums {
  int group, filled, term, pixel_lane;
};
HANDCONV_DEVICE ThreadSums find_sums(const WeightPlan& plan, const WeightBlock& block, int filled,
                                     int thread) {
  const int sums = thread % plan.sums_of_block(), chunk = sums / plan.filled_chunks;
  return {chunk / plan.block_term_chunks, sums % plan.filled_chunks * filled,
          (block.first_term_chunk + chunk % plan.block_term_chunks) * kTerms,
          thread / plan.sums_of_block()};
}

// Copies a tile of y as [row][column][group][channel], and of x as [group][channel][row][column].
template <class T, int kFilled>
HANDCONV_DEVICE void stage_tiles(const GroupedWeight<T>& p, const WeightBlock& block,
                                 std::int64_t sample, int first_row, int first_column,
                                 Compute<T>* outputs, Compute<T>* inputs) {
  const WeightPlan& plan = p.plan;
  const int padded = plan.filled_chunks * kFilled, pixel = plan.groups * padded;
  stage_tile(
      p.y + sample * p.ys.sample, p.ys,
      TileChannels{p.groups, p.out_channels, block.first_group, plan.groups, 0, p.out_channels},
      TilePixels{p.height.output, p.width.output, first_row, first_column, plan.tile_rows,
                 plan.tile_columns},
      TilePitch{padded, 1, plan.tile_columns * pixel, pixel}, outputs);
  stage_tile(p.x + sample * p.xs.sample, p.xs,
             TileChannels{p.groups, p.in_channels, block.first_group, plan.groups,
                          block.first_channel, block.channels},
             TilePixels{p.height.input, p.width.input, p.height.input_position(first_row, 0),
                        p.width.input_position(first_column, 0),
                        (plan.tile_rows - 1) * p.height.stride + p.height.receptive_field(),
                        (plan.tile_columns - 1) * p.width.stride + p.width.receptive_field()},
             TilePitch{block.channels * plan.plane, plan.plane, plan.row_pitch, 1}, inputs);
}

// Adds the products of a staged tile, of which `rows` x `columns` pixels exist.
template <class T, int kFilled>
HANDCONV_DEVICE void accumulate_tile(const GroupedWeight<T>& p, int rows, int columns,
                                     const ThreadSums& thread, const int (&term_offsets)[kTerms],
                                     const Compute<T>* outputs, const Compute<T>* inputs,
                                     Compute<T> (&sums)[kTerms][kFilled]) {
  using C = Compute<T>;
  constexpr int kPack = 16 / sizeof(C);
  const WeightPlan& plan = p.plan;
  const int padded = plan.filled_chunks * kFilled;
  for (int row = 0, column = thread.pixel_lane;; column += plan.pixel_lanes) {
    while (column >= columns) {
      column -= columns;
      ++row;
    }
    if (row >= rows) return;
    const C* y = outputs +
                 ((row * plan.tile_columns + column) * plan.groups + thread.group) * padded +
                 thread.filled;
    const C* x = inputs + row * p.height.stride * plan.row_pitch + column * p.width.stride;
    C values[kTerms];
#pragma unroll
    for (int t = 0; t < kTerms; ++t) values[t] = x[term_offsets[t]];
#pragma unroll
    for (int f = 0; f < kFilled; f += kPack) {
      const Pack<C, kPack> factors = load_pack<kPack>(y + f);
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
#pragma unroll
        for (int t = 0; t < kTerms; ++t) sums[t][f + i] += factors[i] * values[t];
      }
    }
  }
}

// Adds the sums of the threads that share them, in the order of their pixels, and writes them.
template <class T, int kFilled>
HANDCONV_DEVICE void store_partials(const GroupedWeight<T>& p, const WeightBlock& block,
                                    const Compute<T> (&sums)[kTerms][kFilled],
                                    Compute<T>* scratch) {
  const int in_block = p.plan.sums_of_block();
  synchronize_block();
#pragma unroll
  for (int t = 0; t < kTerms; ++t) {
#pragma unroll
    for (int f = 0; f < kFilled; ++f)
      scratch[(t * kFilled + f) * kThreads + thread_index()] = sums[t][f];
  }
  synchronize_block();
  Compute<T>* const partials = p.partials + block.chunk * p.elements();
  for (int i = thread_index(); i < in_block * kTerms * kFilled; i += kThreads) {
    const int owner = i % in_block, index = i / in_block;
    const ThreadSums thread = find_sums(p.plan, block, kFilled, owner);
    const int term = thread.term + index / kFilled, filled = thread.filled + index % kFilled;
    const std::int64_t group = block.first_group + thread.group;
    if (term >= p.terms() || filled >= p.out_channels || group >= p.groups) continue;
    Compute<T> sum = 0;
    for (int lane = 0; lane < p.plan.pixel_lanes; ++lane) {
      sum += scratch[index * kThreads + lane * in_block + owner];
    }
    partials[(group * p.out_channels + filled) * p.terms() + term] = sum;
  }
}

template <class T, int kFilled>
HANDCONV_KERNEL(kThreads, 4)
sum_weight_chunk(GroupedWeight<T> p) {
  using C = Compute<T>;
  const WeightPlan& plan = p.plan;
  const WeightBlock block = find_block(p);
  const ThreadSums thread = find_sums(plan, block, kFilled, thread_index());
  const bool works =
      thread.pixel_lane < plan.pixel_lanes && block.first_group + thread.group < p.groups;
  C* const outputs = reinterpret_cast<C*>(shared_memory());
  C* const inputs = outputs + plan.outputs;

  int term_offsets[kTerms];
#pragma unroll
  for (int t = 0; t < kTerms; ++t) {
    // Terms past the last of the block repeat it; their sums are not stored.
    const int last = std::min(p.terms(), (block.first_channel + block.channels) * p.taps()) - 1;
    const int term = std::min(thread.term + t, last), tap = term % p.taps();
    const int channel = thread.group * block.channels + term / p.taps() - block.first_channel;
    term_offsets[t] = channel * plan.plane +
                      tap / p.width.kernel * p.height.dilation * plan.row_pitch +
                      tap % p.width.kernel * p.width.dilation;
  }
  C sums[kTerms][kFilled] = {};

  const std::int64_t first = block.chunk * plan.tiles_of_chunk;
  const std::int64_t tiles = p.batch * plan.row_tiles * plan.column_tiles;
  for (std::int64_t tile = first; tile < std::min(first + plan.tiles_of_chunk, tiles); ++tile) {
    const int first_column = static_cast<int>(tile % plan.column_tiles) * plan.tile_columns;
    const std::int64_t rest = tile / plan.column_tiles;
    const int first_row = static_cast<int>(rest % plan.row_tiles) * plan.tile_rows;
    synchronize_block();
    stage_tiles<T, kFilled>(p, block, rest / plan.row_tiles, first_row, first_column, outputs,
                            inputs);
    synchronize_block();
    if (!works) continue;
    accumulate_tile<T>(p, std::min(plan.tile_rows, p.height.output - first_row),
                       std::min(plan.tile_columns, p.width.output - first_column), thread,
                       term_offsets, outputs, inputs, sums);
  }
  store_partials<T>(p, block, sums, outputs);
}

// w = the sum of its partial sums, in the order of the chunks; one thread for each element.
template <class T>
HANDCONV_KERNEL(kThreads, 1)
add_weight_chunks(GroupedWeight<T> p) {
  const std::int64_t index = block_index() * kThreads + thread_index();
  if (index >= p.elements()) return;
  Compute<T> sum = 0;
  for (std::int64_t chunk = 0; chunk < p.plan.chunks; ++chunk) {
    sum += p.partials[chunk * p.elements() + index];
  }
  const auto term = static_cast<int>(index % p.terms());
  const int ic = term / p.taps(), tap = term % p.taps();
  p.w[index / p.terms() * p.ws.out_channel + ic * p.ws.in_channel +
      tap / p.width.kernel * p.ws.row + tap % p.width.kernel * p.ws.column] = from_compute<T>(sum);
}

inline int filled_of_thread(const Geometry& g) { return g.out_channels_per_group() > 4 ? 8 : 4; }

// Chooses the largest tile of y that fits in `bytes` with its x.
inline bool plan_tile(const Geometry& g, int filled, std::int64_t element_bytes, std::int64_t bytes,
                      WeightPlan& plan) {
  constexpr int kTiles[][2] = {{8, 32}, {16, 16}, {8, 16}, {8, 8}, {4, 8}, {2, 8}, {1, 8}, {1, 1}};
  for (const auto& [rows, columns] : kTiles) {
    // Larger tiles than the image would stay empty.
    const bool too_wide = columns > 8 && columns >= 2 * g.width.output;
    const bool too_high = rows > 4 && rows >= 2 * g.height.output;
    if (too_wide || too_high) continue;
    const std::int64_t pitch = (columns - 1) * g.width.stride + g.width.receptive_field();
    if (pitch > bytes) continue;
    const std::int64_t plane =
        ((rows - 1) * g.height.stride + g.height.receptive_field()) * pitch | 1;
    const std::int64_t outputs =
        std::int64_t{rows} * columns * plan.groups * plan.filled_chunks * filled;
    if ((outputs + plan.groups * plan.block_channels * plane) * element_bytes > bytes) continue;
    plan.tile_rows = rows;
    plan.tile_columns = columns;
    plan.row_pitch = static_cast<int>(pitch);
    plan.plane = static_cast<int>(plane);
    plan.outputs = static_cast<int>(outputs);
    return true;
  }
  return false;
}

// False where not even the smallest tile fits in shared memory.
inline bool make_weight_plan(const Problem& problem, std::int64_t element_bytes, WeightPlan& plan) {
  const Geometry& g = problem.geometry;
  const int filled = filled_of_thread(g);
  const std::int64_t terms = g.in_channels_per_group() * g.kernel_area();
  const std::int64_t widest = std::max(g.in_channels_per_group(), g.out_channels_per_group());
  plan.filled_chunks =
      static_cast<int>(ceil_divide<std::int64_t>(g.out_channels_per_group(), filled));
  plan.term_chunks = static_cast<int>(ceil_divide<std::int64_t>(terms, kTerms));
  plan.block_term_chunks = std::min(plan.term_chunks, kThreads / plan.filled_chunks);
  plan.term_blocks =
      static_cast<int>(ceil_divide<std::int64_t>(plan.term_chunks, plan.block_term_chunks));
  const std::int64_t block_terms = std::int64_t{kTerms} * plan.block_term_chunks;
  plan.block_channels = static_cast<int>(std::min(
      g.in_channels_per_group(), (block_terms + g.kernel_area() - 2) / g.kernel_area() + 1));
  const int threads_of_group = plan.filled_chunks * plan.block_term_chunks;
  plan.groups = static_cast<int>(std::min({std::int64_t{kThreads / threads_of_group},
                                           std::max(std::int64_t{1}, 32 / widest), g.groups}));
  plan.group_blocks = static_cast<int>(ceil_divide<std::int64_t>(g.groups, plan.groups));
  plan.pixel_lanes = kThreads / plan.sums_of_block();
  if (!plan_tile(g, filled, element_bytes, kPreferredBytes, plan) &&
      !plan_tile(g, filled, element_bytes, kLargestBytes, plan)) {
    return false;
  }
  plan.row_tiles = static_cast<int>(ceil_divide<std::int64_t>(g.height.output, plan.tile_rows));
  plan.column_tiles =
      static_cast<int>(ceil_divide<std::int64_t>(g.width.output, plan.tile_columns));
  const std::int64_t tiles = g.batch * plan.row_tiles * plan.column_tiles;
  const std::int64_t fit = kPartialBytes / (g.out_channels * terms * element_bytes);
  const std::int64_t wanted = kWantedBlocks / (plan.group_blocks * plan.term_blocks);
  // At least one, for an empty batch too, of which no launch comes.
  plan.tiles_of_chunk = std::max(
      std::int64_t{1},
      ceil_divide<std::int64_t>(tiles, std::max(std::int64_t{1}, std::min({wanted, fit, tiles}))));
  plan.chunks = ceil_divide<std::int64_t>(tiles, plan.tiles_of_chunk);
  return true;
}

}  // namespace grouped
}  // namespace cuda
}  // namespace handconv
