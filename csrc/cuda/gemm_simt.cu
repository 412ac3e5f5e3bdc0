// The rows of implicit matrix products on the ordinary arithmetic units: tiles, parts and launches.

#include <type_traits>

#include "cuda/gemm_parts.h"
#include "cuda/gemm_plan.h"
#include "cuda/gemm_rows.h"
#include "cuda/gemm_simt.h"

namespace handconv {
namespace cuda {
namespace {

// Tiles, by preference: for many channels of each side, for few, for few filled channels.
using LargeShape = SimtShape<128, 128, 8, 8, 8>;
using MediumShape = SimtShape<64, 64, 16, 4, 4>;
using NarrowShape = SimtShape<128, 32, 16, 4, 4>;

// Sums are cut at multiples of this, a multiple of the kK of every shape.
constexpr int kSplitStep = 16;

// The tile changes no result: a sum runs over k in order in all of them.
template <class T, class Run>
void with_simt_shape(std::int64_t m, std::int64_t n, std::int64_t products, const Run& run) {
  if (n <= 32) return run(NarrowShape{});
  if constexpr (std::is_same_v<T, float>) {
    constexpr int kEnoughBlocks = 160;
    if (n > 64 &&
        products * ceil_divide<std::int64_t>(m, 128) * ceil_divide<std::int64_t>(n, 128) >=
            kEnoughBlocks) {
      return run(LargeShape{});
    }
  }
  run(MediumShape{});
}

template <class T, class Shape, class View>
void launch_simt(const SimtParams<View, T>& params, void* stream) {
  launch("cuda.direct.gemm.simt", multiply_simt<T, Shape, View>, params.view.grid.blocks(),
         Shape::kThreads, sizeof(SimtMemory<T, Shape>), stream, params);
}

template <class T>
struct GatherLaunches {
  static constexpr int kTermsPerSplit = 512, kMostSplits = 4;
  // Parts of one pass start at multiples of the parts of a pass's elements.
  static std::int64_t part_bytes(const Problem& problem, int splits) {
    return splits == 1 ? 0 : splits * GatherSizes(problem).filled_elements * sizeof(Compute<T>);
  }

  static WorkspaceSize workspace(const Problem& problem) {
    const std::int64_t bytes = part_bytes(problem, splits_of(problem));
    return {static_cast<std::size_t>(bytes * samples_of_pass(problem.geometry.batch, bytes)), 0};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const int splits = splits_of(problem);
    const std::int64_t samples =
        samples_of_pass(problem.geometry.batch, part_bytes(problem, splits));
    for_each_pass<T>(make_gather(problem, buffers), samples, [&](const Gather& gather) {
      const std::int64_t elements = gather.batch * GatherSizes(problem).filled_elements;
      auto* parts = splits > 1 ? workspace.shared<Compute<T>>() : nullptr;
      launch_product(problem, gather, splits, parts, elements, buffers.stream);
      if (!parts) return;
      launch_add_parts(
          image_part_sum<T>(parts, gather.bias, gather.filled, splits, gather.batch,
                            gather.filled_channels * gather.groups, gather.rows.filled_size,
                            gather.columns.filled_size, gather.filled_strides),
          buffers.stream);
    });
  }

 private:
  static int splits_of(const Problem& problem) {
    return gather_splits(problem, kTermsPerSplit, kMostSplits);
  }

  static void launch_product(const Problem& problem, const Gather& gather, int splits,
                             Compute<T>* parts, std::int64_t elements, void* stream) {
    const bool channels_last = problem.layout == Layout::kNhwc;
    const std::int64_t pixels =
        gather.batch * gather.rows.largest_class() * gather.columns.largest_class();
    const std::int64_t products =
        gather.groups * splits * gather.rows.classes() * gather.columns.classes();
    with_simt_shape<T>(pixels, gather.filled_channels, products, [&](auto shape) {
      using Shape = decltype(shape);
      const TileGrid grid = gather_grid(gather, Shape::kM, Shape::kN, kSplitStep, splits);
      const SimtParams<GatherProduct, T> params{{gather, grid, !channels_last},
                                                static_cast<const T*>(gather.source),
                                                static_cast<const T*>(gather.w),
                                                static_cast<const T*>(gather.bias),
                                                static_cast<T*>(gather.filled),
                                                parts,
                                                elements,
                                                channels_last,
                                                gather.w_source <= gather.w_filled,
                                                !channels_last};
      launch_simt<T, Shape>(params, stream);
    });
  }
};

template <class T>
struct WeightLaunches {
  static WorkspaceSize workspace(const Problem& problem) {
    return {static_cast<std::size_t>(splits_of(problem) * elements(problem)) * sizeof(Compute<T>),
            0};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    const Geometry& g = problem.geometry;
    const int splits = splits_of(problem);
    auto* parts = workspace.shared<Compute<T>>();
    const std::int64_t columns = g.in_channels_per_group() * g.kernel_area();
    with_simt_shape<T>(columns, g.out_channels_per_group(), g.groups * splits, [&](auto shape) {
      using Shape = decltype(shape);
      const TileGrid grid{
          ceil_divide<std::int64_t>(columns, Shape::kM),
          static_cast<int>(ceil_divide<std::int64_t>(g.out_channels_per_group(), Shape::kN)),
          1,
          1,
          static_cast<int>(g.groups),
          splits,
          Shape::kM,
          Shape::kN,
          kSplitStep};
      const bool along_k = problem.layout == Layout::kNchw;  // along pixels
      const SimtParams<WeightProduct, T> params{
          {int_geometry(g), problem.x_strides(), problem.y_strides(),
           g.out_channels_per_group() * problem.y_strides().channel, 1, grid},
          static_cast<const T*>(buffers.x),
          static_cast<const T*>(buffers.y),
          nullptr,
          nullptr,
          parts,
          elements(problem),
          along_k,
          along_k,
          true};
      launch_simt<T, Shape>(params, buffers.stream);
    });
    launch_add_parts(weight_part_sum<T>(problem, buffers, parts, splits, g.in_channels_per_group()),
                     buffers.stream);
  }

 private:
  static std::int64_t elements(const Problem& problem) {
    const Geometry& g = problem.geometry;
    return g.out_channels * g.in_channels_per_group() * g.kernel_area();
  }
  // By the tile that makes most tiles, whichever runs: the order of a sum is the same in all. Parts
  // are rounded to steps of 16 pixels in all of them too.
  static int splits_of(const Problem& problem) { return weight_splits(problem, 64, 64); }
};

}  // namespace

template <class T>
WorkspaceSize SimtGather<T>::workspace(const Problem& problem) {
  return GatherLaunches<T>::workspace(problem);
}
template <class T>
void SimtGather<T>::run(const Problem& problem, const Buffers& buffers,
                        const Workspace& workspace) {
  GatherLaunches<T>::run(problem, buffers, workspace);
}
template <class T>
WorkspaceSize SimtWeight<T>::workspace(const Problem& problem) {
  return WeightLaunches<T>::workspace(problem);
}
template <class T>
void SimtWeight<T>::run(const Problem& problem, const Buffers& buffers,
                        const Workspace& workspace) {
  WeightLaunches<T>::run(problem, buffers, workspace);
}

template struct SimtGather<float>;
template struct SimtGather<double>;
template struct SimtGather<Float16>;
template struct SimtGather<BFloat16>;
template struct SimtWeight<float>;
template struct SimtWeight<double>;
template struct SimtWeight<Float16>;
template struct SimtWeight<BFloat16>;

}  // namespace cuda
}  // namespace handconv
