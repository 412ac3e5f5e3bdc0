// The rows of implicit matrix products on tensor cores: what is packed, passes, parts and launches.
//
// The kernels read whole, aligned packs of channels, channels innermost. Other images are packed
// into the workspace first, samples in passes: one element more to write and to read for every
// element of the source, against k / 64 and more reads of it by the product, and the product needs
// no second way to load. Images that have whole packs but are not aligned, which only a slice of a
// tensor is, go to the ordinary arithmetic units.

#include "cuda/gemm_parts.h"
#include "cuda/gemm_rows.h"
#include "cuda/gemm_tensor_weight.h"

namespace handconv {
namespace cuda {
namespace {

constexpr const char* kName = "cuda.direct.gemm.tensor_cores";

inline std::int64_t whole_lines(std::int64_t bytes) { return round_up<std::int64_t>(bytes, 64); }

template <int kN_>
struct TileN {
  static constexpr int kN = kN_;
};

// A wide tile reads less; a narrow one makes more blocks. No sum depends on it.
template <class Run>
void with_tile(std::int64_t n, std::int64_t blocks_of_wide, const Run& run) {
  constexpr int kEnoughBlocks = 128;
  if (n > 64 && blocks_of_wide >= kEnoughBlocks) return run(TileN<128>{});
  run(TileN<64>{});
}

// How a gather is cut, from the problem alone.
template <class T>
struct GatherPlan {
  static constexpr int kTermsPerSplit = 1024, kMostSplits = 2;
  GatherSizes sizes;
  PackedImage image;
  bool packs;  // the source
  int splits;
  std::int64_t image_bytes, part_bytes;  // of a sample
  std::int64_t weight_bytes;
  std::int64_t samples;  // of a pass

  explicit GatherPlan(const Problem& problem) : sizes(problem) {
    const Geometry& g = problem.geometry;
    const bool forward = problem.slot == Slot::kOutput;
    image =
        packed_image<T>(sizes.source_channels, g.groups, forward ? g.height.input : g.height.output,
                        forward ? g.width.input : g.width.output);
    packs = !has_whole_packs<T>(problem.layout, sizes.source_channels);
    splits = gather_splits(problem, kTermsPerSplit, kMostSplits);
    image_bytes = packs ? image.strides.sample * sizeof(T) : 0;
    part_bytes = splits > 1 ? splits * sizes.filled_elements * sizeof(float) : 0;
    weight_bytes =
        whole_lines(g.groups * sizes.filled_channels * g.kernel_area() * image.packs * kPackBytes);
    samples = samples_of_pass(g.batch, image_bytes + part_bytes);
  }

  std::size_t workspace_bytes() const {
    return weight_bytes + whole_lines(samples * image_bytes) + samples * part_bytes;
  }
};

template <class T>
struct GatherLaunches {
  const Problem& problem;
  const Buffers& buffers;
  const GatherPlan<T>& plan;
  T* weight;
  T* image;
  float* parts;  // null if sums are not cut

  void run_pass(const Gather& gather) const {
    const Geometry& g = problem.geometry;
    if (plan.packs) {
      pack_image(gather.source, gather.source_strides, image, plan.image, gather.batch, g.groups,
                 gather.source_channels, gather.rows.source_size, gather.columns.source_size,
                 buffers.stream);
    }
    launch_product(gather, in_packs(gather));
    if (!parts) return;
    launch_add_parts(
        image_part_sum<T>(parts, gather.bias, gather.filled, plan.splits, gather.batch,
                          gather.filled_channels * gather.groups, gather.rows.filled_size,
                          gather.columns.filled_size, gather.filled_strides),
        buffers.stream);
  }

  // The same gather over packs of source channels, and the packed weight.
  Gather in_packs(Gather gather) const {
    const std::int64_t tap = plan.image.group;  // padded source channels
    gather.source_channels = plan.image.packs;
    gather.source_strides = plan.image.strides;
    gather.source = plan.packs ? image : gather.source;
    gather.w = weight;
    gather.w_source = kPackSize<T>;
    gather.w_column = tap;
    gather.w_row = gather.columns.kernel_size * tap;
    gather.w_filled = gather.rows.kernel_size * gather.w_row;
    gather.w_group = gather.filled_channels * gather.w_filled;
    return gather;
  }

  void launch_product(const Gather& original, const Gather& gather) const {
    const bool channels_last = problem.layout == Layout::kNhwc;
    const auto grid_of = [&](int tile_n) {
      return gather_grid(gather, kTileM, tile_n, kStepPacks, plan.splits);
    };
    with_tile(gather.filled_channels, grid_of(128).blocks(), [&](auto tile) {
      constexpr int kN = decltype(tile)::kN;
      const TensorParams<GatherProduct, T> params{
          {gather, grid_of(kN), false},
          static_cast<const T*>(gather.source),
          static_cast<const T*>(gather.w),
          static_cast<const T*>(gather.bias),
          static_cast<T*>(gather.filled),
          parts,
          gather.batch * plan.sizes.filled_elements,
          !channels_last,
          has_whole_packs<T>(problem.layout, gather.filled_channels) &&
              is_aligned(original.filled)};
      launch(kName, multiply_gather<T, kN>, params.view.grid.blocks(), kTensorThreads,
             sizeof(TensorMemory<kN>), buffers.stream, params);
    });
  }
};

// How a weight gradient is cut, from the problem alone. Every pass has parts of its own.
template <class T>
struct WeightPlan {
  PackedImage x, y;
  bool packs_x, packs_y;
  std::int64_t x_bytes, y_bytes;  // of a sample
  std::int64_t samples, passes;
  int splits;  // of a pass
  std::int64_t part_size;

  explicit WeightPlan(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
    x = packed_image<T>(in, g.groups, g.height.input, g.width.input);
    y = packed_image<T>(out, g.groups, g.height.output, g.width.output);
    packs_x = !has_whole_packs<T>(problem.layout, in);
    packs_y = !has_whole_packs<T>(problem.layout, out);
    x_bytes = packs_x ? x.strides.sample * sizeof(T) : 0;
    y_bytes = packs_y ? y.strides.sample * sizeof(T) : 0;
    samples = samples_of_pass(g.batch, x_bytes + y_bytes);
    passes = ceil_divide<std::int64_t>(g.batch, samples);
    splits = static_cast<int>(std::max<std::int64_t>(
        1, weight_splits(problem, kTileM, out > 64 ? kWideWeightTile<T> : 64) / passes));
    part_size = g.out_channels * g.kernel_area() * x.group;
  }

  std::size_t workspace_bytes() const {
    return whole_lines(samples * x_bytes) + whole_lines(samples * y_bytes) +
           passes * splits * part_size * sizeof(float);
  }
};

template <class T>
void launch_weight_product(const Problem& problem, const WeightPlan<T>& plan, const T* x,
                           const T* y, float* parts, std::int64_t batch, void* stream) {
  const Geometry& g = problem.geometry;
  const std::int64_t out = g.out_channels_per_group();
  const auto launch_tile = [&](auto tile) {
    constexpr int kN = decltype(tile)::kN;
    constexpr int kPacksM = kTileM / kPackSize<T>;
    const TileGrid grid{ceil_divide<std::int64_t>(plan.x.packs * g.kernel_area(), kPacksM),
                        static_cast<int>(ceil_divide<std::int64_t>(out, kN)),
                        1,
                        1,
                        static_cast<int>(g.groups),
                        plan.splits,
                        kPacksM,
                        kN,
                        kStepPixels<T>};
    GeometryOf<int> geometry = int_geometry(g);
    geometry.batch = static_cast<int>(batch);
    geometry.in_channels = geometry.groups * plan.x.packs;
    const TensorParams<WeightProduct, T> params{
        {geometry, plan.x.strides, plan.y.strides, plan.y.group, kPackSize<T>, grid},
        x,
        y,
        nullptr,
        nullptr,
        parts,
        plan.part_size,
        true,
        false};
    launch(kName, multiply_weight<T, kN>, grid.blocks(), kTensorThreads, sizeof(TensorMemory<kN>),
           stream, params);
  };
  if (out > 64) return launch_tile(TileN<kWideWeightTile<T>>{});
  launch_tile(TileN<64>{});
}

}  // namespace

template <class T>
WorkspaceSize TensorGather<T>::workspace(const Problem& problem) {
  const GatherPlan<T> plan(problem);
  std::size_t bytes = plan.workspace_bytes();
  if (!plan.packs) bytes = std::max(bytes, SimtGather<T>::workspace(problem).shared);
  return {bytes, 0};
}

template <class T>
void TensorGather<T>::run(const Problem& problem, const Buffers& buffers,
                          const Workspace& workspace) {
  const GatherPlan<T> plan(problem);
  const Gather gather = make_gather(problem, buffers);
  if (!plan.packs && !is_aligned(gather.source)) {
    return SimtGather<T>::run(problem, buffers, workspace);
  }
  auto* const base = workspace.shared<std::byte>();
  std::byte* const image = base + plan.weight_bytes;
  std::byte* const parts = image + whole_lines(plan.samples * plan.image_bytes);
  const GatherLaunches<T> launches{problem,
                                   buffers,
                                   plan,
                                   reinterpret_cast<T*>(base),
                                   reinterpret_cast<T*>(image),
                                   plan.splits > 1 ? reinterpret_cast<float*>(parts) : nullptr};
  pack_weight(gather, launches.weight, buffers.stream);
  for_each_pass<T>(gather, plan.samples, [&](const Gather& pass) { launches.run_pass(pass); });
}

template <class T>
WorkspaceSize TensorWeight<T>::workspace(const Problem& problem) {
  const WeightPlan<T> plan(problem);
  std::size_t bytes = plan.workspace_bytes();
  if (!plan.packs_x || !plan.packs_y) {
    bytes = std::max(bytes, SimtWeight<T>::workspace(problem).shared);
  }
  return {bytes, 0};
}

template <class T>
void TensorWeight<T>::run(const Problem& problem, const Buffers& buffers,
                          const Workspace& workspace) {
  const WeightPlan<T> plan(problem);
  if ((!plan.packs_x && !is_aligned(buffers.x)) || (!plan.packs_y && !is_aligned(buffers.y))) {
    return SimtWeight<T>::run(problem, buffers, workspace);
  }
  const Geometry& g = problem.geometry;
  auto* const base = workspace.shared<std::byte>();
  T* const packed_x = reinterpret_cast<T*>(base);
  std::byte* const behind_x = base + whole_lines(plan.samples * plan.x_bytes);
  T* const packed_y = reinterpret_cast<T*>(behind_x);
  auto* const parts = reinterpret_cast<float*>(behind_x + whole_lines(plan.samples * plan.y_bytes));
  const ImageStrides xs = problem.x_strides(), ys = problem.y_strides();
  for (std::int64_t pass = 0; pass < plan.passes; ++pass) {
    const std::int64_t first = pass * plan.samples;
    const std::int64_t batch = std::min(plan.samples, g.batch - first);
    const T* x = static_cast<const T*>(buffers.x) + first * xs.sample;
    const T* y = static_cast<const T*>(buffers.y) + first * ys.sample;
    if (plan.packs_x) {
      pack_image(x, xs, packed_x, plan.x, batch, g.groups, g.in_channels_per_group(),
                 g.height.input, g.width.input, buffers.stream);
    }
    if (plan.packs_y) {
      pack_image(y, ys, packed_y, plan.y, batch, g.groups, g.out_channels_per_group(),
                 g.height.output, g.width.output, buffers.stream);
    }
    launch_weight_product(problem, plan, plan.packs_x ? packed_x : x, plan.packs_y ? packed_y : y,
                          parts + pass * plan.splits * plan.part_size, batch, buffers.stream);
  }
  launch_add_parts(weight_part_sum<T>(problem, buffers, parts,
                                      static_cast<int>(plan.passes * plan.splits), plan.x.group),
                   buffers.stream);
}

template struct TensorGather<float>;
template struct TensorGather<Float16>;
template struct TensorGather<BFloat16>;
template struct TensorWeight<float>;
template struct TensorWeight<Float16>;
template struct TensorWeight<BFloat16>;

}  // namespace cuda
}  // namespace handconv
