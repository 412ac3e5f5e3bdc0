// im2col and a library's GEMM: the textbook's way, and the baseline that the direct kernels are to
// beat. Per sample and group, with k = (ic, kh, kw) and p = (oh, ow),
//
//     Y[oc, p] = sum over k of W[oc, k] X[k, p]
//
// where column p of X, which is built in memory, holds what output pixel p sees. The gradients are
// X = W^T Y, whose columns col2im adds back into an image, and W = Y X^T, summed over the samples.
//
// The matrices are of Compute<T>: the library sees float32 and float64 alone, and 16-bit results
// are rounded once, at the end. How they lie stands in im2col_kernels.h.
//
// Samples are taken in passes whose columns and outputs fit in 256 MB; if those of one sample do
// not, in blocks of its pixels. The GEMM is called for one sample at a time, with operands aligned
// alike, so that the library cannot choose another order of summation for another batch.

#include <algorithm>
#include <iterator>

#include "cuda/arithmetic.h"
#include "cuda/gemm_library.h"
#include "cuda/im2col_kernels.h"
#include "cuda/kernels.h"
#include "cuda/rules.h"

namespace handconv {
namespace cuda {
namespace im2col {
namespace {

constexpr std::int64_t kPassBytes = std::int64_t{1} << 28;

// How a problem is cut into passes, and the parts of the workspace, in elements of Compute<T>.
struct Plan {
  std::int64_t pixels, samples;  // of a pass
  std::int64_t matrix, columns_of_sample, outputs_of_sample, images;

  std::int64_t elements() const {
    return matrix + samples * (columns_of_sample + outputs_of_sample) + images;
  }
};

// Elements that one output pixel adds to columns and outputs.
std::int64_t elements_of_pixel(const Geometry& g) {
  return g.in_channels * g.kernel_area() + g.out_channels;
}

Plan make_plan(const Problem& problem, std::int64_t element_bytes) {
  const Geometry& g = problem.geometry;
  const auto up_to_64 = [](std::int64_t elements) { return round_up<std::int64_t>(elements, 64); };
  const std::int64_t fit = kPassBytes / element_bytes;
  const std::int64_t pixels = std::min(g.output_area(), fit / elements_of_pixel(g));
  const std::int64_t columns = up_to_64(g.in_channels * g.kernel_area() * pixels);
  const std::int64_t outputs = up_to_64(g.out_channels * pixels);
  const bool cut = pixels < g.output_area();
  const std::int64_t samples =
      cut ? 1 : std::clamp(fit / (columns + outputs), std::int64_t{1}, g.batch);
  const bool needs_images = cut && problem.slot == Slot::kInput;
  return {pixels,  samples, up_to_64(g.out_channels * g.in_channels_per_group() * g.kernel_area()),
          columns, outputs, needs_images ? g.in_channels * g.input_area() : 0};
}

template <class T>
class Im2col {
 public:
  using C = Compute<T>;

  static WorkspaceSize workspace(const Problem& problem) {
    return {static_cast<std::size_t>(make_plan(problem, sizeof(C)).elements()) * sizeof(C), 0};
  }

  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace) {
    Im2col(problem, buffers, workspace.shared<C>()).run_passes();
  }

 private:
  Im2col(const Problem& problem, const Buffers& buffers, C* workspace)
      : problem_(problem), plan_(make_plan(problem, sizeof(C))), stream_(buffers.stream) {
    const Geometry& g = problem.geometry;
    C* const columns = workspace + plan_.matrix;
    C* const outputs = columns + plan_.samples * plan_.columns_of_sample;
    C* const images = outputs + plan_.samples * plan_.outputs_of_sample;
    pass_ = {problem.layout == Layout::kNhwc,
             static_cast<int>(g.groups),
             static_cast<int>(g.in_channels_per_group()),
             static_cast<int>(g.out_channels_per_group()),
             int_axis(g.height),
             int_axis(g.width),
             problem.x_strides(),
             problem.y_strides(),
             problem.w_strides,
             static_cast<T*>(buffers.x),
             static_cast<T*>(buffers.w),
             static_cast<T*>(buffers.y),
             static_cast<const T*>(buffers.bias),
             workspace,
             columns,
             outputs,
             images,
             plan_.columns_of_sample,
             plan_.outputs_of_sample,
             0,
             0,
             0,
             0};
  }

  void run_passes() {
    const Geometry& g = problem_.geometry;
    const std::int64_t weights = g.out_channels * pass_.depth();
    if (problem_.slot != Slot::kWeight) launch_over(expand_weight<T>, weights);
    for (std::int64_t n = 0; n < g.batch; n += plan_.samples) {
      pass_.first_sample = n;
      pass_.samples = std::min(plan_.samples, g.batch - n);
      for (std::int64_t p = 0; p < g.output_area(); p += plan_.pixels) {
        pass_.first_pixel = static_cast<int>(p);
        pass_.pixels = static_cast<int>(std::min(plan_.pixels, g.output_area() - p));
        run_pass();
      }
    }
    if (problem_.slot == Slot::kWeight) launch_over(store_weight<T>, weights);
  }

  void run_pass() {
    const Geometry& g = problem_.geometry;
    const std::int64_t columns = pass_.samples * pass_.groups * pass_.depth() * pass_.pixels;
    const std::int64_t outputs = pass_.samples * g.out_channels * pass_.pixels;
    if (problem_.slot == Slot::kInput) {
      launch_over(expand_outputs<T>, outputs);
      multiply_samples();
      launch_over(add_columns<T>, pass_.samples * g.in_channels * g.input_area());
      return;
    }
    launch_over(build_columns<T>, columns);
    if (problem_.slot == Slot::kWeight) launch_over(expand_outputs<T>, outputs);
    multiply_samples();
    if (problem_.slot == Slot::kOutput) launch_over(store_outputs<T>, outputs);
  }

  void launch_over(void (*kernel)(Pass<T>), std::int64_t elements) {
    launch("cuda.im2col", kernel, ceil_divide<std::int64_t>(elements, kThreads), kThreads, 0,
           stream_, pass_);
  }

  void multiply_samples() {
    for (std::int64_t sample = 0; sample < pass_.samples; ++sample) {
      multiply_matrices(product_of(sample), stream_);
    }
  }

  // Of the three matrices of a sample one is the product of the other two; the batch is the groups.
  BatchedProduct product_of(std::int64_t sample) const {
    const std::int64_t k = pass_.depth(), p = pass_.pixels, oc = pass_.out_channels;
    const bool last = pass_.channels_last;
    const Operand w{pass_.matrix, oc * k, k, 1};  // rows oc, columns k
    const Operand x{pass_.columns + sample * pass_.columns_of_sample, k * p, last ? 1 : p,
                    last ? k : 1};  // rows k, columns p
    const Operand y{pass_.outputs + sample * pass_.outputs_of_sample, last ? oc : oc * p,
                    last ? 1 : p, last ? oc * pass_.groups : 1};  // rows oc, columns p
    switch (problem_.slot) {
      case Slot::kOutput:  // Y = W X, or Y^T = X^T W^T
        return last ? product(transposed(x), transposed(w), transposed(y), p, oc, k, false)
                    : product(w, x, y, oc, p, k, false);
      case Slot::kInput:  // X = W^T Y, or X^T = Y^T W
        return last ? product(transposed(y), w, transposed(x), p, k, oc, false)
                    : product(transposed(w), y, x, k, p, oc, false);
      default:  // W += Y X^T
        return product(y, transposed(x), w, oc, k, p,
                       pass_.first_sample + sample > 0 || !pass_.is_first());
    }
  }

  using Operand = MatrixBatch<C*>;

  static Operand transposed(const Operand& a) {
    return {a.data, a.batch_stride, a.column_stride, a.row_stride};
  }

  BatchedProduct product(const Operand& a, const Operand& b, const Operand& c, std::int64_t m,
                         std::int64_t n, std::int64_t k, bool accumulate) const {
    constexpr DType kDType = sizeof(C) == sizeof(double) ? DType::kFloat64 : DType::kFloat32;
    return {kDType,
            pass_.groups,
            m,
            n,
            k,
            {a.data, a.batch_stride, a.row_stride, a.column_stride},
            {b.data, b.batch_stride, b.row_stride, b.column_stride},
            {c.data, c.batch_stride, c.row_stride, c.column_stride},
            accumulate,
            problem_.allows_tf32};
  }

  const Problem& problem_;
  const Plan plan_;
  void* stream_;
  Pass<T> pass_;
};

Refusal cannot(const Problem& problem) {
  if (const Refusal reason = too_long_for_int(problem)) return reason;
  const std::int64_t largest = kPassBytes / static_cast<std::int64_t>(sizeof(double));
  if (problem.geometry.output_area() >= std::int64_t{1} << 31) return "needs fewer output pixels";
  return elements_of_pixel(problem.geometry) <= largest
             ? nullptr
             : "needs a column of the image matrix to fit in 256 MB";
}

#include "rows.h"

constexpr Kernel row(Slot slot, const char* summary) {
  return make_row<Im2col>("cuda.im2col", slot, Algorithm::kIm2col, summary, cannot, never_refuse);
}

constexpr Kernel kRows[] = {
    row(Slot::kOutput, "im2col and the GEMM of torch's library"),
    row(Slot::kInput, "the GEMM of torch's library and col2im"),
    row(Slot::kWeight, "im2col and the GEMM of torch's library, summed over samples"),
};

}  // namespace
}  // namespace im2col
}  // namespace cuda

KernelList cuda_im2col() {
  return {std::begin(cuda::im2col::kRows), std::end(cuda::im2col::kRows)};
}

}  // namespace handconv
