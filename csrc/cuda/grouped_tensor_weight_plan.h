// How the weight gradient of grouped_tensor_weight.h is cut, from the problem alone. Host code.
#pragma once

#include <algorithm>

#include "cuda/gemm_plan.h"
#include "cuda/grouped_tensor_weight.h"

namespace handconv {
namespace cuda {
namespace grouped {

// Blocks that are wanted, for which pixels are cut into chunks; the fewest pixels of a chunk, as in
// weight_splits; about the most bytes of the parts.
constexpr std::int64_t kTensorBlocks = 1024, kPixelsOfChunk = 256;
constexpr std::int64_t kTensorPartBytes = std::int64_t{1} << 26;
// More parts than kPartsAtOnce are added in two launches: every kPartRuns-th first.
constexpr std::int64_t kPartsAtOnce = 64, kPartRuns = 16;

inline std::int64_t shared_bytes(const TensorWeightPlan& plan) {
  return 2 * (kPackElements + std::int64_t{plan.x_elements} + plan.y_elements);
}

// Chooses the largest tile of y of at least `pixels` that fits in `bytes` with its x.
inline bool plan_tile(const Geometry& g, std::int64_t bytes, int pixels, TensorWeightPlan& plan) {
  constexpr int kTiles[][2] = {{16, 16}, {8, 16}, {8, 8}, {4, 8}, {2, 8}, {1, 8}, {1, 1}};
  plan.x_pitch = (plan.units * plan.source_tiles | 1) * kPackElements;
  plan.y_pitch = (plan.units * plan.filled_tiles * 2 | 1) * kPackElements;
  for (const auto& [rows, columns] : kTiles) {
    if (rows * columns < pixels) return false;
    // Larger tiles than the image would stay empty.
    if (columns > 8 && (columns >= 2 * g.width.output || rows >= 2 * g.height.output)) continue;
    const std::int64_t pitch = (columns - 1) * g.width.stride + g.width.receptive_field();
    if (pitch > bytes) continue;
    const std::int64_t height = (rows - 1) * g.height.stride + g.height.receptive_field();
    const std::int64_t x = height * pitch * plan.x_pitch, y = rows * columns * plan.y_pitch;
    if (2 * (kPackElements + x + y) > bytes) continue;
    plan.tile_rows = rows;
    plan.tile_columns = columns;
    plan.row_pitch = static_cast<int>(pitch);
    plan.x_elements = static_cast<int>(x);
    plan.y_elements = static_cast<int>(y);
    return true;
  }
  return false;
}

inline bool plan_units(const Geometry& g, TensorWeightPlan& plan) {
  const std::int64_t units = ceil_divide<std::int64_t>(g.groups, plan.unit_groups);
  const int most = static_cast<int>(std::min<std::int64_t>(kWarps / plan.block_jobs, units));
  for (const std::int64_t bytes : {kPreferredBytes, kLargestBytes}) {
    for (plan.units = most; plan.units >= 1; --plan.units) {
      // Of smaller tiles the halo would be most.
      const bool is_last = bytes == kLargestBytes && plan.units == 1;
      if (!plan_tile(g, bytes, is_last ? 1 : 32, plan)) continue;
      plan.unit_blocks = static_cast<int>(ceil_divide<std::int64_t>(units, plan.units));
      plan.pixel_lanes = kWarps / (plan.units * plan.block_jobs);
      return true;
    }
  }
  return false;
}

// For `passes` launches of `batch` samples each. False where not even the smallest tile fits in
// shared memory.
inline bool make_tensor_weight_plan(const Geometry& g, std::int64_t batch, std::int64_t passes,
                                    TensorWeightPlan& plan) {
  const auto in = static_cast<int>(g.in_channels_per_group());
  const auto out = static_cast<int>(g.out_channels_per_group());
  if (g.kernel_area() > kLargestBytes) return false;
  plan = {};
  plan.unit_groups = static_cast<int>(
      std::clamp<std::int64_t>(g.groups, 1, std::max(1, std::min(16 / out, 32 / in))));
  plan.filled_tiles = static_cast<int>(ceil_divide<std::int64_t>(plan.unit_groups * out, 16));
  plan.source_tiles = static_cast<int>(ceil_divide<std::int64_t>(plan.unit_groups * in, 8));
  const std::int64_t columns = g.kernel_area() * plan.source_tiles;
  plan.column_chunks = static_cast<int>(ceil_divide<std::int64_t>(columns, kWeightColumns));
  plan.chunk_columns = static_cast<int>(ceil_divide<std::int64_t>(
                           ceil_divide<std::int64_t>(columns, plan.column_chunks), 2)) *
                       2;
  plan.job_blocks = static_cast<int>(ceil_divide<std::int64_t>(plan.jobs(), kWarps));
  plan.block_jobs = static_cast<int>(ceil_divide<std::int64_t>(plan.jobs(), plan.job_blocks));
  if (!plan_units(g, plan)) return false;
  plan.row_tiles = static_cast<int>(ceil_divide<std::int64_t>(g.height.output, plan.tile_rows));
  plan.column_tiles =
      static_cast<int>(ceil_divide<std::int64_t>(g.width.output, plan.tile_columns));

  const std::int64_t tiles = batch * plan.row_tiles * plan.column_tiles;
  const std::int64_t part = g.out_channels * in * g.kernel_area() * sizeof(float);
  const std::int64_t wanted = kTensorBlocks / (std::int64_t{plan.unit_blocks} * plan.job_blocks);
  const std::int64_t fit = kTensorPartBytes / (part * plan.pixel_lanes);
  const std::int64_t long_enough = batch * g.output_area() / kPixelsOfChunk;
  const std::int64_t most = std::min({wanted / passes, fit / passes, long_enough, tiles});
  plan.tiles_of_chunk =
      std::max<std::int64_t>(1, ceil_divide<std::int64_t>(tiles, std::max<std::int64_t>(1, most)));
  plan.chunks = ceil_divide<std::int64_t>(tiles, plan.tiles_of_chunk);
  // Empty chunks, so that the first launch that adds has runs of equal length.
  if (plan.chunks > kPartsAtOnce)
    plan.chunks = ceil_divide<std::int64_t>(plan.chunks, kPartRuns) * kPartRuns;
  return true;
}

}  // namespace grouped
}  // namespace cuda
}  // namespace handconv
