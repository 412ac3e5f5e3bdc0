// The weight gradient of a grouped convolution of 16-bit types in channels_last, or packed so
// before, on tensor cores.
//
// A unit is a few groups whose output channels fill 16 rows, or a group with up to 32 of them. Per
// unit it is the product D (output channels x columns) = A (output channels x pixels of y) B
// (pixels x columns), where a column is an input channel of the unit, seen through a tap; 8 of them
// make a tile. The sums of pairs of different groups are not stored: no element of D sees other
// channels than its own. A warp holds 16 x 8 kWeightColumns sums, in 72 registers; other warps of a
// block take other rows, columns or units, or other pixels, of which each makes a part of its own.
//
// A block goes through a chunk of the tiles of y, staged with the x that they look at as [pixel]
// [channel]. Pixels stand in the rows of both fragments, so that a transposed load takes 16 of them
// from wherever stride and dilation put them. A second launch adds the parts in order.
//
// From global memory: y once, and x once with its halo, for every 4 chunks of kWeightColumns
// columns of a unit: once up to 32 channels and 3 x 3 taps. Per 16 pixels a warp reads 16 x (16 + 8
// kWeightColumns) elements from shared memory.
#pragma once

#include <algorithm>

#include "cuda/grouped_tile.h"

namespace handconv {
namespace cuda {
namespace grouped {

constexpr int kWeightColumns = 18;  // tiles of 8 columns in a warp
constexpr int kPackElements = 8;    // of 16 bytes

struct TensorWeightPlan {
  int unit_groups, units, unit_blocks;  // groups of a unit; units of a block
  int filled_tiles, source_tiles;       // of 16 output, of 8 input channels of a unit
  int column_chunks, chunk_columns;     // of a unit; in tiles of columns
  int block_jobs, job_blocks;  // a job is a pair of a filled tile and a chunk of columns of a unit
  int pixel_lanes;             // warps with the same job
  int tile_rows, tile_columns, row_tiles, column_tiles;  // of y
  int row_pitch;                                         // of x in shared memory, in pixels
  int x_pitch, y_pitch;  // elements from pixel to pixel: an odd number of packs
  int x_elements, y_elements;
  std::int64_t tiles_of_chunk, chunks;

  HANDCONV_HOST_DEVICE int jobs() const { return filled_tiles * column_chunks; }
  HANDCONV_HOST_DEVICE std::int64_t parts() const { return chunks * pixel_lanes; }
};

template <class T>
struct TensorWeightSums {
  TensorWeightPlan plan;
  std::int64_t batch, groups;
  int in_channels, out_channels;  // of a group
  AxisOf<int> height, width;
  ImageStrides xs, ys;
  const T* x;
  const T* y;
  int x_copy, y_copy;  // elements copied at once: 8, 4, 2 or 1
  float* parts;        // [part][output channel][tap][input channel]

  HANDCONV_HOST_DEVICE int taps() const { return height.kernel * width.kernel; }
  HANDCONV_HOST_DEVICE std::int64_t elements() const {
    return groups * out_channels * in_channels * taps();
  }
};

// The channels of the units of a block, which are neighbours in the image.
struct UnitChannels {
  std::int64_t first, all;
  int of_unit, units;
  int unit_pitch, pixel_pitch, row_pitch;  // in shared memory, in elements
};

// Copies a tile as [row][column][unit][channel], zeros outside the image, kElements at once.
// Pieces past the last channel are left out. The caller waits.
template <class T, int kElements>
HANDCONV_DEVICE void copy_units(const T* image, const ImageStrides& strides,
                                const UnitChannels& channels, const TilePixels& pixels, T* shared) {
  const int pieces = channels.of_unit / kElements, count = pieces * channels.units;
  const int piece = thread_index() % count, step = kThreads / count;
  const int unit = piece / pieces, offset = piece % pieces * kElements;
  const std::int64_t channel = channels.first + unit * channels.of_unit + offset;
  if (thread_index() / count >= step || channel >= channels.all) return;
  const T* const source = image + channel;
  T* const to = shared + unit * channels.unit_pitch + offset;
  for (int row = 0, column = thread_index() / count;; column += step) {
    while (column >= pixels.columns) {
      column -= pixels.columns;
      ++row;
    }
    if (row >= pixels.rows) return;
    const int h = pixels.row_origin + row, w = pixels.column_origin + column;
    const bool inside = 0 <= h && h < pixels.height && 0 <= w && w < pixels.width;
    const T* const from = inside ? source + h * strides.row + w * strides.column : source;
    T* const place = to + row * channels.row_pitch + column * channels.pixel_pitch;
    if constexpr (kElements == 1) {
      *place = inside ? *from : T{0};
    } else {
      copy_async<kElements * sizeof(T)>(place, from, inside);
    }
  }
}
template <class T>
HANDCONV_DEVICE void copy_units(const T* image, const ImageStrides& strides,
                                const UnitChannels& channels, const TilePixels& pixels,
                                int elements, T* shared) {
  if (elements == 8) copy_units<T, 8>(image, strides, channels, pixels, shared);
  if (elements == 4) copy_units<T, 4>(image, strides, channels, pixels, shared);
  if (elements == 2) copy_units<T, 2>(image, strides, channels, pixels, shared);
  if (elements == 1) copy_units<T, 1>(image, strides, channels, pixels, shared);
}

// A tile of y, of which `rows` x `columns` pixels exist.
struct WeightTile {
  std::int64_t sample;
  int row, column, rows, columns;
};
template <class T>
HANDCONV_DEVICE WeightTile find_tile(const TensorWeightSums<T>& p, std::int64_t index) {
  const TensorWeightPlan& plan = p.plan;
  const int column = static_cast<int>(index % plan.column_tiles) * plan.tile_columns;
  const std::int64_t rest = index / plan.column_tiles;
  const int row = static_cast<int>(rest % plan.row_tiles) * plan.tile_rows;
  return {rest / plan.row_tiles, row, column, std::min(plan.tile_rows, p.height.output - row),
          std::min(plan.tile_columns, p.width.output - column)};
}

template <class T>
HANDCONV_DEVICE void copy_tile(const TensorWeightSums<T>& p, const WeightTile& tile,
                               std::int64_t first_group, T* x, T* y) {
  const TensorWeightPlan& plan = p.plan;
  copy_units(p.x + tile.sample * p.xs.sample, p.xs,
             UnitChannels{first_group * p.in_channels, p.groups * p.in_channels,
                          plan.unit_groups * p.in_channels, plan.units, plan.source_tiles * 8,
                          plan.x_pitch, plan.row_pitch * plan.x_pitch},
             TilePixels{p.height.input, p.width.input, p.height.input_position(tile.row, 0),
                        p.width.input_position(tile.column, 0),
                        (tile.rows - 1) * p.height.stride + p.height.receptive_field(),
                        (tile.columns - 1) * p.width.stride + p.width.receptive_field()},
             p.x_copy, x);
  copy_units(
      p.y + tile.sample * p.ys.sample, p.ys,
      UnitChannels{first_group * p.out_channels, p.groups * p.out_channels,
                   plan.unit_groups * p.out_channels, plan.units, plan.filled_tiles * 16,
                   plan.y_pitch, plan.tile_columns * plan.y_pitch},
      TilePixels{p.height.output, p.width.output, tile.row, tile.column, tile.rows, tile.columns},
      p.y_copy, y);
  commit_copies();
}

// What a warp sums up.
struct WarpJob {
  int unit, filled_tile, pixel_lane;
  int first_column, columns;  // in tiles of 8
  bool exists;
};
HANDCONV_DEVICE WarpJob find_job(const TensorWeightPlan& plan, int taps, int job_block) {
  const int warp = thread_index() / kLanes, in_block = warp % (plan.units * plan.block_jobs);
  const int job = job_block * plan.block_jobs + in_block % plan.block_jobs;
  const int first_column = job / plan.filled_tiles * plan.chunk_columns;
  const int pixel_lane = warp / (plan.units * plan.block_jobs);
  return {in_block / plan.block_jobs,
          job % plan.filled_tiles,
          pixel_lane,
          first_column,
          std::min(plan.chunk_columns, taps * plan.source_tiles - first_column),
          job < plan.jobs() && pixel_lane < plan.pixel_lanes};
}

using ColumnOffsets = int[kWeightColumns / 2];
using ColumnSums = float[kWeightColumns][4];

// Adds the products of a staged tile, 16 pixels at once. Both fragments come from the lane's pixel:
// that of matrix row lane % 8, in the upper half of the pixels for the lanes from 16 on. A pixel
// past the last is a row of zeros.
template <class T>
HANDCONV_DEVICE void multiply_tile(const TensorWeightSums<T>& p, const WeightTile& tile,
                                   const WarpJob& job, const ColumnOffsets& offsets, const T* zeros,
                                   const T* x, const T* y, ColumnSums& sums) {
  const TensorWeightPlan& plan = p.plan;
  const int lane = thread_index() % kLanes;
  const int pixels = tile.rows * tile.columns;
  const T* const rows_of_a =
      y + (job.unit * plan.filled_tiles + job.filled_tile) * 16 + lane / 8 % 2 * 8;
  for (int first = job.pixel_lane * 16; first < pixels; first += plan.pixel_lanes * 16) {
    const int pixel = first + lane % 8 + lane / 16 * 8;
    const int row = pixel / tile.columns, column = pixel % tile.columns;
    const bool exists = pixel < pixels;
    const T* const corner =
        exists
            ? x + (row * p.height.stride * plan.row_pitch + column * p.width.stride) * plan.x_pitch
            : zeros;
    std::uint32_t a[4];
    load_matrices_transposed(
        a, exists ? rows_of_a + (row * plan.tile_columns + column) * plan.y_pitch : zeros);
#pragma unroll
    for (int i = 0; i < kWeightColumns; i += 2) {
      if (i >= job.columns) break;
      std::uint32_t r[4];
      load_matrices_transposed(r, corner + (exists ? offsets[i / 2] : 0));
      const std::uint32_t left[2] = {r[0], r[2]}, right[2] = {r[1], r[3]};
      multiply_add_16816<T>(sums[i], a, left);
      multiply_add_16816<T>(sums[i + 1], a, right);
    }
  }
}

// Writes the sums of channels of one group.
template <class T>
HANDCONV_DEVICE void store_part(const TensorWeightSums<T>& p, const WarpJob& job,
                                std::int64_t first_group, std::int64_t chunk,
                                const ColumnSums& sums) {
  const TensorWeightPlan& plan = p.plan;
  const int row = thread_index() % kLanes / 4, pair = thread_index() % 4;
  float* const part = p.parts + (chunk * plan.pixel_lanes + job.pixel_lane) * p.elements();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int oc = job.filled_tile * 16 + half * 8 + row;  // of the unit
    const int group = oc / p.out_channels;
    if (group >= plan.unit_groups || first_group + group >= p.groups) continue;
    float* const channel = part + (first_group * p.out_channels + oc) * p.taps() * p.in_channels;
#pragma unroll
    for (int i = 0; i < kWeightColumns; ++i) {
      if (i >= job.columns) break;
      const int tile = job.first_column + i, tap = tile / plan.source_tiles;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int ic = tile % plan.source_tiles * 8 + pair * 2 + j - group * p.in_channels;
        if (ic < 0 || ic >= p.in_channels) continue;
        channel[tap * p.in_channels + ic] = sums[i][half * 2 + j];
      }
    }
  }
}

template <class T>
HANDCONV_KERNEL(kThreads, 3)
sum_weight_on_tensor_cores(TensorWeightSums<T> p) {
  const TensorWeightPlan& plan = p.plan;
  const auto unit_block = static_cast<int>(block_index() % plan.unit_blocks);
  const std::int64_t rest = block_index() / plan.unit_blocks;
  const WarpJob job = find_job(plan, p.taps(), static_cast<int>(rest % plan.job_blocks));
  const std::int64_t chunk = rest / plan.job_blocks;
  const std::int64_t first_group = std::int64_t{unit_block} * plan.units * plan.unit_groups;
  T* const zeros = reinterpret_cast<T*>(shared_memory());
  T* const x = zeros + kPackElements;
  T* const y = x + plan.x_elements;
  if (thread_index() < kPackElements) zeros[thread_index()] = T{0};

  ColumnOffsets offsets;
#pragma unroll
  for (int i = 0; i < kWeightColumns; i += 2) {
    // A tile past the last repeats it; its sums are not stored.
    const int tile =
        job.first_column + std::min(i + thread_index() % kLanes / 8 % 2, job.columns - 1);
    const int tap = tile / plan.source_tiles;
    const int pixel = tap / p.width.kernel * p.height.dilation * plan.row_pitch +
                      tap % p.width.kernel * p.width.dilation;
    offsets[i / 2] =
        pixel * plan.x_pitch + (job.unit * plan.source_tiles + tile % plan.source_tiles) * 8;
  }
  ColumnSums sums = {};

  const std::int64_t tiles = p.batch * plan.row_tiles * plan.column_tiles;
  const std::int64_t first = chunk * plan.tiles_of_chunk;
  for (std::int64_t i = first; i < std::min(first + plan.tiles_of_chunk, tiles); ++i) {
    const WeightTile tile = find_tile(p, i);
    synchronize_block();
    copy_tile(p, tile, first_group, x, y);
    wait_for_copies<0>();
    synchronize_block();
    if (job.exists) multiply_tile(p, tile, job, offsets, zeros, x, y, sums);
  }
  if (job.exists) store_part(p, job, first_group + job.unit * plan.unit_groups, chunk, sums);
}

}  // namespace grouped
}  // namespace cuda
}  // namespace handconv
