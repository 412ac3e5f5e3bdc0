// The rows of 16-bit types on tensor cores: what is packed, passes, parts and launches. Host code.
#pragma once

#include <algorithm>

#include "cuda/arithmetic.h"
#include "cuda/gemm_pack.h"
#include "cuda/gemm_parts.h"
#include "cuda/grouped_tensor.h"
#include "cuda/grouped_tensor_weight_plan.h"

namespace handconv {
namespace cuda {
namespace grouped {

constexpr const char* kTensorName = "cuda.direct.grouped.tensor_cores";

// Slots kOutput and kInput of 16-bit types. The workspace holds the packed samples of a pass: at
// most kScratchBytes, or one sample; nothing in channels_last.
template <class T>
struct TensorGatherKernel {
  static WorkspaceSize workspace(const Problem& problem) {
    if (problem.layout == Layout::kNhwc) return {};
    const Gather gather = make_gather(problem, Buffers{});
    return {static_cast<std::size_t>(samples_at_once(gather) * packed_bytes(gather)), 0};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    if constexpr (sizeof(T) == 2) {
      const Gather gather = make_gather(problem, buffers);
      if (problem.layout == Layout::kNhwc) return run_pass(problem, gather, buffers);
      T* const packed = workspace.shared<T>();
      for_each_pass<T>(gather, samples_at_once(gather), [&](Gather pass) {
        const PackedImage image = packed_source(gather);
        pack_image(pass.source, pass.source_strides, packed, image, pass.batch, 1,
                   pass.groups * pass.source_channels, pass.rows.source_size,
                   pass.columns.source_size, buffers.stream);
        pass.source = packed;
        pass.source_strides = image.strides;
        run_pass(problem, pass, buffers);
      });
    }
  }

 private:
  // The channels of all groups lie side by side: the last pack of a pixel alone is filled up.
  static PackedImage packed_source(const Gather& gather) {
    return packed_image<T>(gather.groups * gather.source_channels, 1, gather.rows.source_size,
                           gather.columns.source_size);
  }
  static std::int64_t packed_bytes(const Gather& gather) {
    return packed_source(gather).strides.sample * sizeof(T);
  }
  static std::int64_t samples_at_once(const Gather& gather) {
    return samples_of_pass(gather.batch, packed_bytes(gather));
  }

  // Samples whose source is channels_last.
  static void run_pass(const Problem& problem, const Gather& gather, const Buffers& buffers) {
    TensorGather p{gather, {}, 1, false};
    make_tensor_plan(problem, p.plan);
    for (int elements = 8; elements > 1; elements /= 2) {
      if (gather.source_channels % elements != 0) continue;
      if (!is_aligned(gather.source, elements * sizeof(T))) continue;
      p.copy_elements = elements;
      break;
    }
    p.paired_stores = problem.layout == Layout::kNhwc && gather.filled_channels % 2 == 0 &&
                      is_aligned(gather.filled, 4);
    switch (columns_of_warp(problem)) {
      case 1:
        return launch_for<1>(p, buffers);
      case 2:
        return launch_for<2>(p, buffers);
      default:
        return launch_for<4>(p, buffers);
    }
  }

  template <int kColumns>
  static void launch_for(const TensorGather& p, const Buffers& buffers) {
    launch(kTensorName, gather_tile_on_tensor_cores<T, tiles_of_warp(kColumns), kColumns>,
           gather_blocks(p.gather, p.plan.gather), kThreads, shared_bytes(p.plan, kColumns),
           buffers.stream, p);
  }
};

// Slot kWeight of 16-bit types. The workspace holds the packed samples of a pass, at most
// kScratchBytes or one sample, and nothing in channels_last; and the parts of the sums, at most
// twice kTensorPartBytes, or 4 weights in float for every pass.
template <class T>
struct TensorWeightKernel {
  static WorkspaceSize workspace(const Problem& problem) {
    const Passes passes(problem);
    const std::int64_t part_bytes = passes.elements * sizeof(float);
    return {static_cast<std::size_t>(passes.packed_bytes() + passes.parts() * part_bytes), 0};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    if constexpr (sizeof(T) == 2) {
      const Passes passes(problem);
      const Geometry& g = problem.geometry;
      const ImageStrides xs = problem.x_strides(), ys = problem.y_strides();
      T* const packed_x = workspace.shared<T>();
      T* const packed_y = packed_x + passes.samples * passes.x.strides.sample;
      auto* const parts =
          reinterpret_cast<float*>(workspace.shared<std::byte>() + passes.packed_bytes());
      for (std::int64_t pass = 0; pass < passes.count; ++pass) {
        const std::int64_t first = pass * passes.samples;
        const std::int64_t batch = std::min(passes.samples, g.batch - first);
        const T* x = static_cast<const T*>(buffers.x) + first * xs.sample;
        const T* y = static_cast<const T*>(buffers.y) + first * ys.sample;
        if (passes.packs) {
          pack_image(x, xs, packed_x, passes.x, batch, 1, g.in_channels, g.height.input,
                     g.width.input, buffers.stream);
          pack_image(y, ys, packed_y, passes.y, batch, 1, g.out_channels, g.height.output,
                     g.width.output, buffers.stream);
        }
        launch_sums(passes, g, batch, passes.packs ? packed_x : x, passes.packs ? packed_y : y,
                    parts + pass * passes.plan.parts() * passes.elements, buffers.stream);
      }
      add_all(passes, problem, buffers, parts);
    }
  }

 private:
  struct Passes {
    bool packs;
    PackedImage x, y;  // as the sums read them
    std::int64_t samples, count;
    std::int64_t elements;  // of a part
    TensorWeightPlan plan;

    explicit Passes(const Problem& problem) {
      const Geometry& g = problem.geometry;
      packs = problem.layout != Layout::kNhwc;
      x = {0, problem.x_strides(), 0};
      y = {0, problem.y_strides(), 0};
      samples = std::max<std::int64_t>(1, g.batch);
      if (packs) {
        x = packed_image<T>(g.in_channels, 1, g.height.input, g.width.input);
        y = packed_image<T>(g.out_channels, 1, g.height.output, g.width.output);
        samples = samples_of_pass(g.batch, sample_bytes());
      }
      count = ceil_divide<std::int64_t>(g.batch, samples);
      elements = g.out_channels * g.in_channels_per_group() * g.kernel_area();
      make_tensor_weight_plan(g, samples, count, plan);
    }

    std::int64_t sample_bytes() const { return (x.strides.sample + y.strides.sample) * sizeof(T); }
    std::int64_t packed_bytes() const { return packs ? samples * sample_bytes() : 0; }
    std::int64_t parts() const { return count * plan.parts(); }
  };

  // Pieces that neither a unit nor a pixel cuts.
  static int copy_elements(const T* image, const ImageStrides& strides, std::int64_t unit) {
    for (int elements = 8; elements > 1; elements /= 2) {
      const bool whole = unit % elements == 0 && strides.column % elements == 0;
      if (whole && is_aligned(image, elements * sizeof(T))) return elements;
    }
    return 1;
  }

  static void launch_sums(const Passes& passes, const Geometry& g, std::int64_t batch, const T* x,
                          const T* y, float* parts, void* stream) {
    const TensorWeightPlan& plan = passes.plan;
    const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
    const TensorWeightSums<T> p{plan,
                                batch,
                                g.groups,
                                static_cast<int>(in),
                                static_cast<int>(out),
                                int_axis(g.height),
                                int_axis(g.width),
                                passes.x.strides,
                                passes.y.strides,
                                x,
                                y,
                                copy_elements(x, passes.x.strides, plan.unit_groups * in),
                                copy_elements(y, passes.y.strides, plan.unit_groups * out),
                                parts};
    launch(kTensorName, sum_weight_on_tensor_cores<T>,
           plan.chunks * plan.unit_blocks * plan.job_blocks, kThreads, shared_bytes(plan), stream,
           p);
  }

  // Few elements with many parts are few threads with long sums: every kPartRuns-th part is added
  // into the first ones, in place, and then these.
  static void add_all(const Passes& passes, const Problem& problem, const Buffers& buffers,
                      float* parts) {
    std::int64_t count = passes.parts();
    if (count > kPartsAtOnce && count % kPartRuns == 0) {
      PartSum<float> runs{parts, nullptr, parts, 0, static_cast<int>(count / kPartRuns),
                          {},    {},      0,     -1};
      const std::int64_t sizes[4] = {1, 1, kPartRuns, passes.elements};
      const std::int64_t strides[4] = {0, 0, passes.elements, 1};
      std::copy_n(sizes, 4, runs.sizes);
      std::copy_n(strides, 4, runs.strides);
      runs.last_size = passes.elements;
      launch_add_parts(runs, buffers.stream);
      count = kPartRuns;
    }
    launch_add_parts(weight_part_sum<T>(problem, buffers, parts, static_cast<int>(count),
                                        problem.geometry.in_channels_per_group()),
                     buffers.stream);
  }
};

}  // namespace grouped
}  // namespace cuda
}  // namespace handconv
