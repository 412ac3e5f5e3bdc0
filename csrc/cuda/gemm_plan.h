// How the products of a problem are cut: into samples of one pass, into parts of a sum, into tiles.
// Host code. What decides over the order of a sum looks at one sample alone (slots output and
// input), or at the problem (slot weight), never at the machine.
#pragma once

#include <algorithm>
#include <numeric>

#include "cuda/arithmetic.h"
#include "cuda/gemm_product.h"
#include "cuda/rules.h"

namespace handconv {
namespace cuda {

// Aimed at; one sample may need more.
constexpr std::int64_t kScratchBytes = std::int64_t{256} << 20;

// The most taps that an input position has along an axis: see GatherAxis::axis_class.
inline std::int64_t taps_of_class(const Axis& axis) {
  return ceil_divide<std::int64_t>(axis.kernel, axis.stride / std::gcd(axis.stride, axis.dilation));
}

// One slot's numbers, whichever of output and input is filled.
struct GatherSizes {
  std::int64_t source_channels, filled_channels;  // per group
  std::int64_t source_elements, filled_elements;  // per sample
  std::int64_t filled_area;
  std::int64_t taps;  // of the class that has most

  explicit GatherSizes(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const bool forward = problem.slot == Slot::kOutput;
    const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
    source_channels = forward ? in : out;
    filled_channels = forward ? out : in;
    const std::int64_t x = g.in_channels * g.input_area(), y = g.out_channels * g.output_area();
    source_elements = forward ? x : y;
    filled_elements = forward ? y : x;
    filled_area = forward ? g.output_area() : g.input_area();
    taps = g.kernel_area();
    if (!forward) taps = taps_of_class(g.height) * taps_of_class(g.width);
  }
};

// A sum is cut where the tiles of one sample are too few to fill a GPU and the sum is long.
inline int gather_splits(const Problem& problem, std::int64_t terms_per_split, int most) {
  const GatherSizes sizes(problem);
  const std::int64_t tiles = problem.geometry.groups *
                             ceil_divide<std::int64_t>(sizes.filled_area, 64) *
                             ceil_divide<std::int64_t>(sizes.filled_channels, 64);
  const std::int64_t terms = sizes.taps * sizes.source_channels;
  return static_cast<int>(
      std::clamp<std::int64_t>(std::min(64 / tiles, terms / terms_per_split), 1, most));
}

// Weight gradients: enough parts to fill a GPU, none shorter than 256 pixels, none so many that
// adding them costs more than making them.
inline int weight_splits(const Problem& problem, int tile_m, int tile_n) {
  const Geometry& g = problem.geometry;
  const std::int64_t columns = g.in_channels_per_group() * g.kernel_area();
  const std::int64_t tiles = g.groups * ceil_divide<std::int64_t>(columns, tile_m) *
                             ceil_divide<std::int64_t>(g.out_channels_per_group(), tile_n);
  const std::int64_t pixels = g.batch * g.output_area();
  const std::int64_t bytes = std::max<std::int64_t>(1, g.out_channels * columns * 8);
  const std::int64_t most = std::min(pixels / 256, kScratchBytes / bytes);
  return static_cast<int>(std::clamp<std::int64_t>(ceil_divide<std::int64_t>(512, tiles), 1,
                                                   std::max<std::int64_t>(1, most)));
}

inline TileGrid gather_grid(const Gather& gather, int tile_m, int tile_n, int step_k, int splits) {
  const std::int64_t largest =
      gather.batch * gather.rows.largest_class() * gather.columns.largest_class();
  return {ceil_divide<std::int64_t>(largest, tile_m),
          static_cast<int>(ceil_divide<std::int64_t>(gather.filled_channels, tile_n)),
          gather.rows.classes(),
          gather.columns.classes(),
          static_cast<int>(gather.groups),
          splits,
          tile_m,
          tile_n,
          step_k};
}

// What neither kernel of the family counts: more than an int of samples, or of blocks.
inline Refusal too_many_tiles(const Problem& problem) {
  if (const Refusal reason = too_long_for_int(problem)) return reason;
  const Geometry& g = problem.geometry;
  if (g.batch > (std::int64_t{1} << 30)) return "needs a batch that fits in an int";
  std::int64_t tiles = 0;
  if (problem.slot == Slot::kWeight) {
    tiles = g.groups * ceil_divide<std::int64_t>(g.in_channels_per_group() * g.kernel_area(), 32) *
                ceil_divide<std::int64_t>(g.out_channels_per_group(), 32) +
            2048;
  } else {
    const Gather gather = make_gather(problem, Buffers{});
    tiles = gather_grid(gather, 32, 32, 8, 8).blocks();
  }
  // What a launch packs at once is a sample, or too little to count.
  const std::int64_t in = ceil_divide<std::int64_t>(g.in_channels_per_group(), 32);
  const std::int64_t out = ceil_divide<std::int64_t>(g.out_channels_per_group(), 32);
  const std::int64_t packed =
      std::max({g.groups * in * ceil_divide<std::int64_t>(g.input_area(), 32),
                g.groups * out * ceil_divide<std::int64_t>(g.output_area(), 32),
                std::max(g.out_channels * in, g.in_channels * out) *
                    ceil_divide<std::int64_t>(g.kernel_area(), 32)});
  const std::int64_t terms = GatherSizes(problem).taps * GatherSizes(problem).source_channels;
  if (terms >= (std::int64_t{1} << 30)) return "needs sums that fit in an int";
  return tiles < kMostBlocks && packed < kMostBlocks ? nullptr
                                                     : "needs fewer tiles than a launch has blocks";
}

// Samples of one pass, where every sample takes so many bytes of scratch.
inline std::int64_t samples_of_pass(std::int64_t batch, std::int64_t bytes_per_sample,
                                    std::int64_t scratch = kScratchBytes) {
  if (bytes_per_sample <= 0) return batch;
  return std::clamp<std::int64_t>(scratch / bytes_per_sample, 1, std::max<std::int64_t>(1, batch));
}

// Calls run(pass, first) with the gather of samples first .. first + pass.batch - 1.
template <class T, class Run>
void for_each_pass(const Gather& gather, std::int64_t samples, const Run& run) {
  for (std::int64_t first = 0; first < gather.batch; first += samples) {
    Gather pass = gather;
    pass.batch = std::min(samples, gather.batch - first);
    pass.source = static_cast<const T*>(gather.source) + first * gather.source_strides.sample;
    pass.filled = static_cast<T*>(gather.filled) + first * gather.filled_strides.sample;
    run(pass);
  }
}

}  // namespace cuda
}  // namespace handconv
