// The second launch of a product whose sums are cut: adds the parts of every element in order.
#pragma once

#include "cuda/arithmetic.h"
#include "cuda/elements.h"

namespace handconv {
namespace cuda {

// result[i] = round(bias + parts[0][i] + parts[1][i] + ...), for elements that are dense in the
// order of `sizes` in the parts, and lie anywhere in the result.
template <class T>
struct PartSum {
  const Compute<T>* parts;
  const T* bias;  // null without a bias
  T* result;
  std::int64_t elements;  // of one part
  int splits;
  std::int64_t sizes[4];    // the slowest first
  std::int64_t strides[4];  // in the result
  std::int64_t last_size;   // of sizes[3], so many exist in the result
  int channel;              // the one of the four that the bias runs along
};

constexpr int kPartThreads = 256;

template <class T>
HANDCONV_KERNEL(kPartThreads, 1)
add_parts(PartSum<T> p) {
  const std::int64_t element = block_index() * kPartThreads + thread_index();
  if (element >= p.elements) return;
  std::int64_t rest = element, to = 0, channel = 0;
#pragma unroll
  for (int i = 3; i >= 0; --i) {
    const std::int64_t digit = rest % p.sizes[i];
    rest /= p.sizes[i];
    to += digit * p.strides[i];
    if (i == p.channel) channel = digit;
    if (i == 3 && digit >= p.last_size) return;
  }
  Compute<T> sum = p.parts[element];
  for (int s = 1; s < p.splits; ++s) sum += p.parts[s * p.elements + element];
  if (p.bias) sum += to_compute(p.bias[channel]);
  p.result[to] = from_compute<T>(sum);
}

template <class T>
void launch_add_parts(PartSum<T> sum, void* stream) {
  sum.elements = sum.sizes[0] * sum.sizes[1] * sum.sizes[2] * sum.sizes[3];
  launch("cuda.direct.gemm: add_parts", add_parts<T>,
         ceil_divide<std::int64_t>(sum.elements, kPartThreads), kPartThreads, 0, stream, sum);
}

// The parts of an image (x or y): dense in the memory order of the image itself.
template <class T>
PartSum<T> image_part_sum(const Compute<T>* parts, const void* bias, void* result, int splits,
                          std::int64_t batch, std::int64_t channels, std::int64_t rows,
                          std::int64_t columns, const ImageStrides& strides) {
  PartSum<T> sum{parts, static_cast<const T*>(bias), static_cast<T*>(result), 0, splits, {}, {}, 0,
                 0};
  const bool channels_last = strides.channel == 1 && channels > 1;
  sum.channel = channels_last ? 3 : 1;
  const std::int64_t nchw[4][2] = {{batch, strides.sample},
                                   {channels, strides.channel},
                                   {rows, strides.row},
                                   {columns, strides.column}};
  constexpr int kOrders[2][4] = {{0, 1, 2, 3}, {0, 2, 3, 1}};
  for (int i = 0; i < 4; ++i) {
    sum.sizes[i] = nchw[kOrders[channels_last][i]][0];
    sum.strides[i] = nchw[kOrders[channels_last][i]][1];
  }
  sum.last_size = sum.sizes[3];
  return sum;
}

// The parts of a weight: dense (OC, KH, KW, C / groups), perhaps with some channels more.
template <class T>
PartSum<T> weight_part_sum(const Problem& problem, const Buffers& buffers, const Compute<T>* parts,
                           int splits, std::int64_t padded_channels) {
  const Geometry& g = problem.geometry;
  const WeightStrides& w = problem.w_strides;
  return {parts,
          nullptr,
          static_cast<T*>(buffers.w),
          0,
          splits,
          {g.out_channels, g.height.kernel, g.width.kernel, padded_channels},
          {w.out_channel, w.row, w.column, w.in_channel},
          g.in_channels_per_group(),
          -1};
}

}  // namespace cuda
}  // namespace handconv
