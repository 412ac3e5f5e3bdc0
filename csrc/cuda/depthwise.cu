// The rows of the depthwise kernels.

#include "cuda/depthwise.h"

#include <algorithm>
#include <iterator>

#include "cuda/arithmetic.h"
#include "cuda/elements.h"
#include "cuda/kernels.h"
#include "cuda/rules.h"

namespace handconv {
namespace cuda {
namespace {

// A block fills a class pair of a plane, or 64 positions of it, or more.
Refusal too_many_blocks(const Problem& problem) {
  if (problem.slot == Slot::kWeight) return nullptr;
  const Geometry& g = problem.geometry;
  const bool forward = problem.slot == Slot::kOutput;
  std::int64_t classes = 1, positions = 1;
  for (const Axis& axis : {g.height, g.width}) {
    classes *= forward ? 1 : std::min(axis.stride, axis.input);
    positions *= forward ? axis.output : ceil_divide(axis.input, axis.stride);
  }
  const std::int64_t planes = g.batch * (forward ? g.out_channels : g.in_channels);
  const bool fits = planes * (1 + positions / 64) <= kMostBlocks / classes;
  return fits ? nullptr : "needs fewer blocks than a grid has";
}

Refusal refusal_by_shape(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.in_channels_per_group() != 1 && g.out_channels_per_group() != 1) {
    return "needs one input or one output channel in each group";
  }
  if (g.batch >= std::int64_t{1} << 29) return "needs sizes that fit in an int";
  if (const Refusal reason = too_long_for_int(problem)) return reason;
  return too_many_blocks(problem);
}

Refusal cannot_planes(const Problem& problem) {
  if (problem.layout != Layout::kNchw) return "needs NCHW";
  return refusal_by_shape(problem);
}
Refusal cannot_channels(const Problem& problem) {
  if (problem.layout != Layout::kNhwc) return "needs channels_last";
  return refusal_by_shape(problem);
}

// Every pair of channels is worked on by itself, so sources are read once for each.
Refusal many_channels_in_a_group(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const bool many = g.in_channels_per_group() > 4 || g.out_channels_per_group() > 4;
  return many ? "other kernels are better at groups of more than 4 channels" : nullptr;
}

#include "rows.h"

template <template <class> class KernelClass>
constexpr Kernel planes(Slot slot, const char* summary) {
  return make_row<KernelClass>("cuda.direct.depthwise.planes", slot, Algorithm::kDirect, summary,
                               cannot_planes, many_channels_in_a_group);
}
template <template <class> class KernelClass>
constexpr Kernel channels(Slot slot, const char* summary) {
  return make_row<KernelClass>("cuda.direct.depthwise.channels", slot, Algorithm::kDirect, summary,
                               cannot_channels, many_channels_in_a_group);
}

constexpr const char* kPlanes = "depthwise, tiles of planes in shared memory";
constexpr const char* kChannels = "depthwise, lanes along channels, rows in registers";
constexpr const char* kPlanesWeight =
    "depthwise, all taps of a tile of pixels at once, partial sums added in order";
constexpr const char* kChannelsWeight =
    "depthwise, lanes along channels, all taps at once, partial sums added in order";

constexpr Kernel kRows[] = {planes<DepthwisePlanes>(Slot::kOutput, kPlanes),
                            planes<DepthwisePlanes>(Slot::kInput, kPlanes),
                            planes<DepthwisePlanesWeight>(Slot::kWeight, kPlanesWeight),
                            channels<DepthwiseChannels>(Slot::kOutput, kChannels),
                            channels<DepthwiseChannels>(Slot::kInput, kChannels),
                            channels<DepthwiseChannelsWeight>(Slot::kWeight, kChannelsWeight)};

}  // namespace
}  // namespace cuda

KernelList cuda_depthwise() { return {std::begin(cuda::kRows), std::end(cuda::kRows)}; }

}  // namespace handconv
