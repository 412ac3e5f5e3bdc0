// The last row of the table: the definition of the three operations, written as it stands in a
// textbook. It takes every problem, and every other kernel is tested against it.

#include "cpu/kernels.h"
#include "cpu/scalar.h"
#include "cpu/threads.h"

namespace handconv {
namespace {

template <class T>
struct Image {
  T* data;
  ImageStrides strides;

  T& at(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) const {
    return data[n * strides.sample + c * strides.channel + h * strides.row + w * strides.column];
  }
};

template <class T>
struct Tensors {
  Geometry geometry;
  Image<T> x, y;
  T* w_data;
  WeightStrides w_strides;
  const T* bias;

  Tensors(const Problem& problem, const Buffers& buffers)
      : geometry(problem.geometry),
        x{static_cast<T*>(buffers.x), problem.x_strides()},
        y{static_cast<T*>(buffers.y), problem.y_strides()},
        w_data(static_cast<T*>(buffers.w)),
        w_strides(problem.w_strides),
        bias(static_cast<const T*>(buffers.bias)) {}

  // ic counts within the group of oc.
  T& w(std::int64_t oc, std::int64_t ic, std::int64_t kh, std::int64_t kw) const {
    return w_data[oc * w_strides.out_channel + ic * w_strides.in_channel + kh * w_strides.row +
                  kw * w_strides.column];
  }
  Compute<T> bias_or_zero(std::int64_t channel) const {
    return bias ? to_compute(bias[channel]) : Compute<T>(0);
  }
};

bool inside(std::int64_t position, std::int64_t size) { return 0 <= position && position < size; }

// Which output sees input `in` through tap `k`; -1 if none does.
std::int64_t output_position(const Axis& axis, std::int64_t in, std::int64_t k) {
  const std::int64_t distance = in + axis.padding - k * axis.dilation;
  return distance >= 0 && distance % axis.stride == 0 ? distance / axis.stride : -1;
}

// y[n, oc, oh, ow] = bias[oc] + sum over ic, kh, kw of w[oc, ic, kh, kw] x[n, ic, oh s - p + kh d,
// ow s - p + kw d]
template <class T>
void fill_output(const Tensors<T>& t, std::int64_t n, std::int64_t oc) {
  const Geometry& g = t.geometry;
  const std::int64_t channels = g.in_channels_per_group();
  const std::int64_t first_channel = oc / g.out_channels_per_group() * channels;
  for (std::int64_t oh = 0; oh < g.height.output; ++oh) {
    for (std::int64_t ow = 0; ow < g.width.output; ++ow) {
      Compute<T> sum = t.bias_or_zero(oc);
      for (std::int64_t ic = 0; ic < channels; ++ic) {
        for (std::int64_t kh = 0; kh < g.height.kernel; ++kh) {
          for (std::int64_t kw = 0; kw < g.width.kernel; ++kw) {
            const auto h = g.height.input_position(oh, kh), w = g.width.input_position(ow, kw);
            if (!inside(h, g.height.input) || !inside(w, g.width.input)) continue;
            sum +=
                to_compute(t.w(oc, ic, kh, kw)) * to_compute(t.x.at(n, first_channel + ic, h, w));
          }
        }
      }
      t.y.at(n, oc, oh, ow) = from_compute<T>(sum);
    }
  }
}

// x[n, c, h, w] = bias[c] + sum over oc, kh, kw of w[oc, ic, kh, kw] y[n, oc, oh, ow], for the oh,
// ow that look at h, w
template <class T>
void fill_input(const Tensors<T>& t, std::int64_t n, std::int64_t c) {
  const Geometry& g = t.geometry;
  const std::int64_t group = c / g.in_channels_per_group(), ic = c % g.in_channels_per_group();
  const std::int64_t channels = g.out_channels_per_group();
  for (std::int64_t h = 0; h < g.height.input; ++h) {
    for (std::int64_t w = 0; w < g.width.input; ++w) {
      Compute<T> sum = t.bias_or_zero(c);
      for (std::int64_t oc = group * channels; oc < (group + 1) * channels; ++oc) {
        for (std::int64_t kh = 0; kh < g.height.kernel; ++kh) {
          for (std::int64_t kw = 0; kw < g.width.kernel; ++kw) {
            const auto oh = output_position(g.height, h, kh), ow = output_position(g.width, w, kw);
            if (!inside(oh, g.height.output) || !inside(ow, g.width.output)) continue;
            sum += to_compute(t.w(oc, ic, kh, kw)) * to_compute(t.y.at(n, oc, oh, ow));
          }
        }
      }
      t.x.at(n, c, h, w) = from_compute<T>(sum);
    }
  }
}

// w[oc, ic, kh, kw] = sum over n, oh, ow of y[n, oc, oh, ow] x[n, ic, oh s - p + kh d, ow s - p +
// kw d]
template <class T>
void fill_weight(const Tensors<T>& t, std::int64_t oc, std::int64_t ic) {
  const Geometry& g = t.geometry;
  const std::int64_t c = oc / g.out_channels_per_group() * g.in_channels_per_group() + ic;
  for (std::int64_t kh = 0; kh < g.height.kernel; ++kh) {
    for (std::int64_t kw = 0; kw < g.width.kernel; ++kw) {
      Compute<T> sum = 0;
      for (std::int64_t n = 0; n < g.batch; ++n) {
        for (std::int64_t oh = 0; oh < g.height.output; ++oh) {
          for (std::int64_t ow = 0; ow < g.width.output; ++ow) {
            const auto h = g.height.input_position(oh, kh), w = g.width.input_position(ow, kw);
            if (!inside(h, g.height.input) || !inside(w, g.width.input)) continue;
            sum += to_compute(t.y.at(n, oc, oh, ow)) * to_compute(t.x.at(n, c, h, w));
          }
        }
      }
      t.w(oc, ic, kh, kw) = from_compute<T>(sum);
    }
  }
}

template <class T>
using PlaneFunction = void (*)(const Tensors<T>&, std::int64_t, std::int64_t);

// One item of work for every pair of leading indices of what is filled.
template <class T>
void for_planes(const Tensors<T>& tensors, std::int64_t outer, std::int64_t inner,
                PlaneFunction<T> fill) {
  const Geometry& g = tensors.geometry;
  const std::int64_t multiply_adds =
      g.batch * g.output_area() * g.out_channels * g.in_channels_per_group() * g.kernel_area();
  parallel_for(outer * inner, multiply_adds / (outer * inner),
               [&](std::int64_t item, int) { fill(tensors, item / inner, item % inner); });
}

void run_reference(const Problem& problem, const Buffers& buffers, const Workspace&) {
  visit_dtype(problem.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Tensors<T> tensors(problem, buffers);
    const Geometry& g = problem.geometry;
    switch (problem.slot) {
      case Slot::kOutput:
        return for_planes(tensors, g.batch, g.out_channels, fill_output<T>);
      case Slot::kInput:
        return for_planes(tensors, g.batch, g.in_channels, fill_input<T>);
      case Slot::kWeight:
        return for_planes(tensors, g.out_channels, g.in_channels_per_group(), fill_weight<T>);
    }
  });
}

Refusal accept(const Problem&) { return nullptr; }
WorkspaceSize no_workspace(const Problem&) { return {}; }

constexpr Kernel row(Slot slot) {
  return {"cpu.reference",
          Device::kCpu,
          slot,
          Algorithm::kReference,
          "the definition, in plain loops",
          accept,
          accept,
          no_workspace,
          run_reference};
}

constexpr Kernel kRows[] = {row(Slot::kOutput), row(Slot::kInput), row(Slot::kWeight)};

}  // namespace

KernelList reference_kernels() { return {std::begin(kRows), std::end(kRows)}; }

}  // namespace handconv
