// Convolutions with 2 to 32 channels in a group, all slots.

#include <iterator>

#include "cuda/arithmetic.h"
#include "cuda/grouped_gather.h"
#include "cuda/grouped_tensor_rows.h"
#include "cuda/grouped_weight.h"
#include "cuda/kernels.h"
#include "cuda/rules.h"

namespace handconv {
namespace cuda {
namespace grouped {
namespace {

constexpr const char* kSimtName = "cuda.direct.grouped.simt";

std::int64_t compute_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
}

// Slots kOutput and kInput.
template <class T>
struct SimtGather {
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem&) { return {}; }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace&) {
    GroupedGather p{make_gather(problem, buffers), {}, false};
    make_gather_plan(problem, sizeof(C), p.plan);
    constexpr int kMany = sizeof(C) == sizeof(double) ? 4 : 8;
    const bool small = pixels_of_lane(problem, sizeof(C)) == 2;
    if (filled_of_lane(problem) == 8) {
      small ? launch_for<2, 8>(problem, p, buffers) : launch_for<kMany, 8>(problem, p, buffers);
    } else {
      small ? launch_for<2, 4>(problem, p, buffers) : launch_for<kMany, 4>(problem, p, buffers);
    }
  }

 private:
  template <int kPixels, int kFilled>
  static void launch_for(const Problem& problem, GroupedGather& p, const Buffers& buffers) {
    p.packed_stores = can_pack<kFilled>(p.gather);
    const std::int64_t elements =
        p.plan.weights + std::int64_t{p.plan.groups} * p.plan.source_channels * p.plan.plane;
    launch(kSimtName, gather_tile<T, kPixels, kFilled>, gather_blocks(p.gather, p.plan), kThreads,
           elements * sizeof(C), buffers.stream, p);
  }

  template <int kFilled>
  static bool can_pack(const Gather& gather) {
    constexpr std::uintptr_t kBytes = std::min<std::size_t>(16, kFilled * sizeof(T));
    return gather.filled_strides.channel == 1 && gather.filled_channels % kFilled == 0 &&
           reinterpret_cast<std::uintptr_t>(gather.filled) % kBytes == 0;
  }
};

// Slot kWeight. The workspace holds the partial sums: at most 64 MB, or one weight.
template <class T>
struct SimtWeight {
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    WeightPlan plan;
    make_weight_plan(problem, sizeof(C), plan);
    const Geometry& g = problem.geometry;
    return {static_cast<std::size_t>(plan.chunks * g.out_channels * g.in_channels_per_group() *
                                     g.kernel_area()) *
                sizeof(C),
            0};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Geometry& g = problem.geometry;
    GroupedWeight<T> p{{},
                       g.batch,
                       g.groups,
                       static_cast<int>(g.in_channels_per_group()),
                       static_cast<int>(g.out_channels_per_group()),
                       int_axis(g.height),
                       int_axis(g.width),
                       problem.x_strides(),
                       problem.y_strides(),
                       problem.w_strides,
                       static_cast<const T*>(buffers.x),
                       static_cast<const T*>(buffers.y),
                       static_cast<T*>(buffers.w),
                       workspace.shared<C>()};
    make_weight_plan(problem, sizeof(C), p.plan);
    filled_of_thread(g) == 8 ? sum_chunks<8>(p, buffers) : sum_chunks<4>(p, buffers);
    launch(kSimtName, add_weight_chunks<T>, ceil_divide<std::int64_t>(p.elements(), kThreads),
           kThreads, 0, buffers.stream, p);
  }

 private:
  template <int kFilled>
  static void sum_chunks(const GroupedWeight<T>& p, const Buffers& buffers) {
    const WeightPlan& plan = p.plan;
    const std::int64_t tiles =
        plan.outputs + std::int64_t{plan.groups} * plan.block_channels * plan.plane;
    const std::int64_t elements = std::max<std::int64_t>(tiles, kTerms * kFilled * kThreads);
    launch(kSimtName, sum_weight_chunk<T, kFilled>,
           plan.chunks * plan.term_blocks * plan.group_blocks, kThreads, elements * sizeof(C),
           buffers.stream, p);
  }
};

constexpr const char* kNoRoom = "needs a tile of the image that fits in shared memory";

Refusal few_channels(const Problem& problem) {
  const auto few = [](std::int64_t channels) { return 2 <= channels && channels <= 32; };
  const Geometry& g = problem.geometry;
  if (g.groups < 2) return "needs at least two groups";
  return few(g.in_channels_per_group()) && few(g.out_channels_per_group())
             ? nullptr
             : "needs 2 to 32 channels in a group, in x and in y";
}

Refusal cannot(const Problem& problem) {
  if (const Refusal reason = too_long_for_int(problem)) return reason;
  if (const Refusal reason = few_channels(problem)) return reason;
  const std::int64_t bytes = compute_bytes(problem.dtype);
  if (problem.slot == Slot::kWeight) {
    WeightPlan plan;
    return make_weight_plan(problem, bytes, plan) ? nullptr : kNoRoom;
  }
  GatherPlan plan;
  if (!make_gather_plan(problem, bytes, plan)) return kNoRoom;
  return gather_blocks(make_gather(problem, Buffers{}), plan) <= kMostBlocks ? nullptr
                                                                             : "needs fewer tiles";
}

// Of the launch that packs a sample of x or of y.
std::int64_t pack_blocks(const Geometry& g) {
  const auto blocks = [](std::int64_t channels, std::int64_t pixels) {
    return ceil_divide<std::int64_t>(channels, kPackTile) *
           ceil_divide<std::int64_t>(pixels, kPackTile);
  };
  return std::max(blocks(g.in_channels, g.input_area()), blocks(g.out_channels, g.output_area()));
}

Refusal cannot_sum_weight_on_tensor_cores(const Geometry& g) {
  TensorWeightPlan plan;
  if (!make_tensor_weight_plan(g, g.batch, 1, plan)) return kNoRoom;
  const std::int64_t units = std::int64_t{plan.unit_blocks} * plan.job_blocks;
  const std::int64_t elements = g.out_channels * g.in_channels_per_group() * g.kernel_area();
  const bool fits =
      units < kMostBlocks - 2 * kTensorBlocks && elements < kMostBlocks / kPartRuns * kPartThreads;
  return fits ? nullptr : "needs fewer channels";
}

Refusal cannot_on_tensor_cores(const Problem& problem) {
  if (const Refusal reason = too_long_for_int(problem)) return reason;
  if (const Refusal reason = few_channels(problem)) return reason;
  const bool is_16_bit = problem.dtype == DType::kFloat16 || problem.dtype == DType::kBFloat16;
  if (!is_16_bit) return "needs float16 or bfloat16";
  const Geometry& g = problem.geometry;
  if (pack_blocks(g) > kMostBlocks) return "needs fewer tiles";
  if (problem.slot == Slot::kWeight) return cannot_sum_weight_on_tensor_cores(g);
  const std::int64_t channels =
      problem.slot == Slot::kInput ? g.out_channels_per_group() : g.in_channels_per_group();
  if (channels % 2 != 0) return "needs an even number of channels in a group";
  TensorPlan plan;
  if (!make_tensor_plan(problem, plan)) return kNoRoom;
  return gather_blocks(make_gather(problem, Buffers{}), plan.gather) <= kMostBlocks
             ? nullptr
             : "needs fewer tiles";
}

#include "rows.h"

template <template <class> class KernelClass>
constexpr Kernel simt(Slot slot, const char* summary) {
  return make_row<KernelClass>(kSimtName, slot, Algorithm::kDirect, summary, cannot, never_refuse);
}

template <template <class> class KernelClass>
constexpr Kernel tensor_cores(Slot slot) {
  return make_row<KernelClass>(kTensorName, slot, Algorithm::kDirect,
                               "2 to 32 channels a group of 16-bit types, tensor cores",
                               cannot_on_tensor_cores, never_refuse);
}

constexpr Kernel kRows[] = {
    tensor_cores<TensorGatherKernel>(Slot::kOutput),
    tensor_cores<TensorGatherKernel>(Slot::kInput),
    tensor_cores<TensorWeightKernel>(Slot::kWeight),
    simt<SimtGather>(Slot::kOutput, "2 to 32 channels a group, tiles in shared memory"),
    simt<SimtGather>(Slot::kInput, "2 to 32 channels a group, tiles in shared memory"),
    simt<SimtWeight>(Slot::kWeight, "2 to 32 channels a group, sums in registers"),
};

}  // namespace
}  // namespace grouped
}  // namespace cuda

KernelList cuda_grouped() {
  return {std::begin(cuda::grouped::kRows), std::end(cuda::grouped::kRows)};
}

}  // namespace handconv
