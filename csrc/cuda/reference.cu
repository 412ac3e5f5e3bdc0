// The last CUDA row: the definition of the three operations, one thread for each element that is
// filled. It takes every problem, in 64-bit arithmetic.

#include <iterator>

#include "cuda/arithmetic.h"
#include "cuda/elements.h"
#include "cuda/kernels.h"
#include "cuda/rules.h"

namespace handconv {
namespace cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
struct Definition {
  Problem problem;
  ImageStrides xs, ys;
  const T* x;
  const T* w;
  const T* y;
  const T* bias;
  T* filled;
  std::int64_t elements;
};

HANDCONV_DEVICE bool inside(std::int64_t position, std::int64_t size) {
  return 0 <= position && position < size;
}

// The output that sees input `in` through tap `k`; -1 if none does.
HANDCONV_DEVICE std::int64_t output_position(const Axis& axis, std::int64_t in, std::int64_t k) {
  const std::int64_t distance = in + axis.padding - k * axis.dilation;
  return distance >= 0 && distance % axis.stride == 0 ? distance / axis.stride : -1;
}

HANDCONV_DEVICE std::int64_t offset(const ImageStrides& s, std::int64_t n, std::int64_t c,
                                    std::int64_t h, std::int64_t w) {
  return n * s.sample + c * s.channel + h * s.row + w * s.column;
}

HANDCONV_DEVICE std::int64_t offset(const WeightStrides& s, std::int64_t oc, std::int64_t ic,
                                    std::int64_t kh, std::int64_t kw) {
  return oc * s.out_channel + ic * s.in_channel + kh * s.row + kw * s.column;
}

// y[n, oc, oh, ow] = bias[oc] + sum over ic, kh, kw of w[oc, ic, kh, kw] x[n, ic, oh s - p + kh d,
// ow s - p + kw d]
template <class T>
HANDCONV_KERNEL(kThreads, 1)
fill_output(Definition<T> d) {
  const Geometry& g = d.problem.geometry;
  const std::int64_t index = block_index() * kThreads + thread_index();
  if (index >= d.elements) return;
  const std::int64_t ow = index % g.width.output, oh = index / g.width.output % g.height.output;
  const std::int64_t oc = index / g.output_area() % g.out_channels;
  const std::int64_t n = index / g.output_area() / g.out_channels;
  const std::int64_t channels = g.in_channels_per_group();
  const std::int64_t first = oc / g.out_channels_per_group() * channels;
  Compute<T> sum = d.bias ? to_compute(d.bias[oc]) : Compute<T>(0);
  for (std::int64_t ic = 0; ic < channels; ++ic) {
    for (std::int64_t kh = 0; kh < g.height.kernel; ++kh) {
      const std::int64_t h = g.height.input_position(oh, kh);
      if (!inside(h, g.height.input)) continue;
      for (std::int64_t kw = 0; kw < g.width.kernel; ++kw) {
        const std::int64_t w = g.width.input_position(ow, kw);
        if (!inside(w, g.width.input)) continue;
        sum += to_compute(d.w[offset(d.problem.w_strides, oc, ic, kh, kw)]) *
               to_compute(d.x[offset(d.xs, n, first + ic, h, w)]);
      }
    }
  }
  d.filled[offset(d.ys, n, oc, oh, ow)] = from_compute<T>(sum);
}

// x[n, c, h, w] = bias[c] + sum over oc, kh, kw of w[oc, ic, kh, kw] y[n, oc, oh, ow], for the oh,
// ow that look at h, w
template <class T>
HANDCONV_KERNEL(kThreads, 1)
fill_input(Definition<T> d) {
  const Geometry& g = d.problem.geometry;
  const std::int64_t index = block_index() * kThreads + thread_index();
  if (index >= d.elements) return;
  const std::int64_t w = index % g.width.input, h = index / g.width.input % g.height.input;
  const std::int64_t c = index / g.input_area() % g.in_channels;
  const std::int64_t n = index / g.input_area() / g.in_channels;
  const std::int64_t ic = c % g.in_channels_per_group();
  const std::int64_t first = c / g.in_channels_per_group() * g.out_channels_per_group();
  Compute<T> sum = d.bias ? to_compute(d.bias[c]) : Compute<T>(0);
  for (std::int64_t oc = first; oc < first + g.out_channels_per_group(); ++oc) {
    for (std::int64_t kh = 0; kh < g.height.kernel; ++kh) {
      const std::int64_t oh = output_position(g.height, h, kh);
      if (!inside(oh, g.height.output)) continue;
      for (std::int64_t kw = 0; kw < g.width.kernel; ++kw) {
        const std::int64_t ow = output_position(g.width, w, kw);
        if (!inside(ow, g.width.output)) continue;
        sum += to_compute(d.w[offset(d.problem.w_strides, oc, ic, kh, kw)]) *
               to_compute(d.y[offset(d.ys, n, oc, oh, ow)]);
      }
    }
  }
  d.filled[offset(d.xs, n, c, h, w)] = from_compute<T>(sum);
}

// w[oc, ic, kh, kw] = sum over n, oh, ow of y[n, oc, oh, ow] x[n, ic, oh s - p + kh d, ow s - p +
// kw d]
template <class T>
HANDCONV_KERNEL(kThreads, 1)
fill_weight(Definition<T> d) {
  const Geometry& g = d.problem.geometry;
  const std::int64_t index = block_index() * kThreads + thread_index();
  if (index >= d.elements) return;
  const std::int64_t kw = index % g.width.kernel, kh = index / g.width.kernel % g.height.kernel;
  const std::int64_t ic = index / g.kernel_area() % g.in_channels_per_group();
  const std::int64_t oc = index / g.kernel_area() / g.in_channels_per_group();
  const std::int64_t c = oc / g.out_channels_per_group() * g.in_channels_per_group() + ic;
  Compute<T> sum = 0;
  for (std::int64_t n = 0; n < g.batch; ++n) {
    for (std::int64_t oh = 0; oh < g.height.output; ++oh) {
      const std::int64_t h = g.height.input_position(oh, kh);
      if (!inside(h, g.height.input)) continue;
      for (std::int64_t ow = 0; ow < g.width.output; ++ow) {
        const std::int64_t w = g.width.input_position(ow, kw);
        if (!inside(w, g.width.input)) continue;
        sum += to_compute(d.y[offset(d.ys, n, oc, oh, ow)]) *
               to_compute(d.x[offset(d.xs, n, c, h, w)]);
      }
    }
  }
  d.filled[offset(d.problem.w_strides, oc, ic, kh, kw)] = from_compute<T>(sum);
}

template <class T>
struct ReferenceKernel {
  static WorkspaceSize workspace(const Problem&) { return {}; }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace&) {
    const Geometry& g = problem.geometry;
    const auto pointer = [](void* data) { return static_cast<T*>(data); };
    Definition<T> d{problem,
                    problem.x_strides(),
                    problem.y_strides(),
                    pointer(buffers.x),
                    pointer(buffers.w),
                    pointer(buffers.y),
                    static_cast<const T*>(buffers.bias),
                    nullptr,
                    0};
    const auto launch_over = [&](auto kernel, void* filled, std::int64_t elements) {
      d.filled = pointer(filled);
      d.elements = elements;
      launch("cuda.reference", kernel, ceil_divide<std::int64_t>(elements, kThreads), kThreads, 0,
             buffers.stream, d);
    };
    switch (problem.slot) {
      case Slot::kOutput:
        return launch_over(fill_output<T>, buffers.y, g.batch * g.out_channels * g.output_area());
      case Slot::kInput:
        return launch_over(fill_input<T>, buffers.x, g.batch * g.in_channels * g.input_area());
      case Slot::kWeight:
        return launch_over(fill_weight<T>, buffers.w,
                           g.out_channels * g.in_channels_per_group() * g.kernel_area());
    }
  }
};

#include "rows.h"

constexpr Kernel row(Slot slot) {
  return make_row<ReferenceKernel>("cuda.reference", slot, Algorithm::kReference,
                                   "the definition, one thread for each element", never_refuse,
                                   never_refuse);
}

constexpr Kernel kRows[] = {row(Slot::kOutput), row(Slot::kInput), row(Slot::kWeight)};

}  // namespace
}  // namespace cuda

KernelList cuda_reference() { return {std::begin(cuda::kRows), std::end(cuda::kRows)}; }

}  // namespace handconv
