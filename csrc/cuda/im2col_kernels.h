// The copies that surround the GEMM of im2col.cu: im2col, col2im, and the conversions of w and y to
// and from the matrices W and Y of Compute<T>. One thread for each element that is written.
//
// The matrices lie as the images do, so that neighbouring threads touch neighbouring elements on
// either side of a copy: in NCHW X[k][p] and Y[oc][p] with k = (ic, kh, kw); in NHWC transposed, as
// X^T[p][k] and Y^T[p][oc], with k = (kh, kw, ic).
#pragma once

#include "cuda/elements.h"

namespace handconv {
namespace cuda {
namespace im2col {

constexpr int kThreads = 256;

// One pass, and the parameter of every kernel.
template <class T>
struct Pass {
  using C = Compute<T>;

  bool channels_last;
  int groups, in_channels, out_channels;  // channels per group
  AxisOf<int> height, width;
  ImageStrides xs, ys;
  WeightStrides ws;
  T* x;
  T* w;
  T* y;
  const T* bias;  // null without a bias

  C* matrix;   // W: [group][oc][k]
  C* columns;  // X: [sample][group][k][pixel] or [sample][group][pixel][k]
  C* outputs;  // Y: [sample][oc of all groups][pixel] or [sample][pixel][oc]
  C* images;   // sums of x [c][h][w] while the columns of a sample come in blocks
  std::int64_t columns_of_sample, outputs_of_sample;  // elements from one sample to the next

  std::int64_t first_sample, samples;
  int first_pixel, pixels;  // the pixels of y, in each sample

  HANDCONV_HOST_DEVICE int taps() const { return height.kernel * width.kernel; }
  HANDCONV_HOST_DEVICE int depth() const { return in_channels * taps(); }
  HANDCONV_HOST_DEVICE bool is_first() const { return first_pixel == 0; }
  HANDCONV_HOST_DEVICE bool is_last() const {
    return first_pixel + pixels == height.output * width.output;
  }
};

// Splits index = rest * size + result: returns the result and leaves the rest.
HANDCONV_DEVICE int take_last(std::int64_t& index, int size) {
  if (index >> 32 == 0) {  // 64-bit division takes several times as long
    const auto number = static_cast<std::uint32_t>(index);
    index = number / static_cast<std::uint32_t>(size);
    return static_cast<int>(number % static_cast<std::uint32_t>(size));
  }
  const auto result = static_cast<int>(index % size);
  index /= size;
  return result;
}

HANDCONV_DEVICE std::int64_t element_index() { return block_index() * kThreads + thread_index(); }

// A row of X.
struct Row {
  int ic, kh, kw;
};
template <class T>
HANDCONV_DEVICE Row row_of(const Pass<T>& pass, int k) {
  if (pass.channels_last) {
    const int tap = k / pass.in_channels;
    return {k % pass.in_channels, tap / pass.width.kernel, tap % pass.width.kernel};
  }
  const int tap = k % pass.taps();
  return {k / pass.taps(), tap / pass.width.kernel, tap % pass.width.kernel};
}
template <class T>
HANDCONV_DEVICE int index_of(const Pass<T>& pass, const Row& row) {
  const int tap = row.kh * pass.width.kernel + row.kw;
  return pass.channels_last ? tap * pass.in_channels + row.ic : row.ic * pass.taps() + tap;
}

// Of element `index` of W, an offset into the tensor w.
template <class T>
HANDCONV_DEVICE std::int64_t weight_offset(const Pass<T>& pass, std::int64_t index) {
  const Row row = row_of(pass, take_last(index, pass.depth()));
  return index * pass.ws.out_channel + row.ic * pass.ws.in_channel + row.kh * pass.ws.row +
         row.kw * pass.ws.column;
}

template <class T>
HANDCONV_DEVICE std::int64_t weight_elements(const Pass<T>& pass) {
  return std::int64_t{pass.groups} * pass.out_channels * pass.depth();
}

template <class T>
HANDCONV_KERNEL(kThreads, 1)
expand_weight(Pass<T> pass) {
  const std::int64_t index = element_index();
  if (index >= weight_elements(pass)) return;
  pass.matrix[index] = to_compute(pass.w[weight_offset(pass, index)]);
}

template <class T>
HANDCONV_KERNEL(kThreads, 1)
store_weight(Pass<T> pass) {
  const std::int64_t index = element_index();
  if (index >= weight_elements(pass)) return;
  pass.w[weight_offset(pass, index)] = from_compute<T>(pass.matrix[index]);
}

// im2col: one thread for each element of X, zero in the padding. Writes it once and reads it at
// most once.
template <class T>
HANDCONV_KERNEL(kThreads, 1)
build_columns(Pass<T> pass) {
  std::int64_t rest = element_index();
  if (rest >= pass.samples * pass.groups * pass.depth() * pass.pixels) return;
  const int minor = take_last(rest, pass.channels_last ? pass.depth() : pass.pixels);
  const int major = take_last(rest, pass.channels_last ? pass.pixels : pass.depth());
  const int group = take_last(rest, pass.groups);
  const int pixel = pass.first_pixel + (pass.channels_last ? major : minor);
  const Row row = row_of(pass, pass.channels_last ? minor : major);
  const int h = pass.height.input_position(pixel / pass.width.output, row.kh);
  const int w = pass.width.input_position(pixel % pass.width.output, row.kw);
  Compute<T> value = 0;
  if (0 <= h && h < pass.height.input && 0 <= w && w < pass.width.input) {
    value = to_compute(pass.x[(pass.first_sample + rest) * pass.xs.sample +
                              (group * pass.in_channels + row.ic) * pass.xs.channel +
                              h * pass.xs.row + w * pass.xs.column]);
  }
  // The indices within a sample run on as the elements lie.
  pass.columns[rest * (pass.columns_of_sample -
                       std::int64_t{pass.groups} * pass.depth() * pass.pixels) +
               element_index()] = value;
}

// An element of Y: its channel, its place in `outputs` and in the tensor y.
struct OutputElement {
  int oc;
  std::int64_t in_outputs, in_y;
};
template <class T>
HANDCONV_DEVICE OutputElement output_element(const Pass<T>& pass, std::int64_t rest) {
  const int channels = pass.groups * pass.out_channels;
  const int minor = take_last(rest, pass.channels_last ? channels : pass.pixels);
  const int major = take_last(rest, pass.channels_last ? pass.pixels : channels);
  const int oc = pass.channels_last ? minor : major;
  const int pixel = pass.first_pixel + (pass.channels_last ? major : minor);
  const std::int64_t width = pass.channels_last ? channels : pass.pixels;
  // Pixels of a dense image are evenly spaced.
  return {
      oc, rest * pass.outputs_of_sample + major * width + minor,
      (pass.first_sample + rest) * pass.ys.sample + oc * pass.ys.channel + pixel * pass.ys.column};
}

template <class T>
HANDCONV_DEVICE std::int64_t output_elements(const Pass<T>& pass) {
  return pass.samples * pass.groups * pass.out_channels * pass.pixels;
}

template <class T>
HANDCONV_KERNEL(kThreads, 1)
expand_outputs(Pass<T> pass) {
  if (element_index() >= output_elements(pass)) return;
  const OutputElement element = output_element(pass, element_index());
  pass.outputs[element.in_outputs] = to_compute(pass.y[element.in_y]);
}

template <class T>
HANDCONV_KERNEL(kThreads, 1)
store_outputs(Pass<T> pass) {
  if (element_index() >= output_elements(pass)) return;
  const OutputElement element = output_element(pass, element_index());
  const Compute<T> bias = pass.bias ? to_compute(pass.bias[element.oc]) : Compute<T>(0);
  pass.y[element.in_y] = from_compute<T>(pass.outputs[element.in_outputs] + bias);
}

// The output position that sees input position `in` through tap `k`; -1 if none does.
HANDCONV_DEVICE int output_position(const AxisOf<int>& axis, int in, int k) {
  const int distance = in + axis.padding - k * axis.dilation;
  if (distance < 0 || distance % axis.stride != 0) return -1;
  const int out = distance / axis.stride;
  return out < axis.output ? out : -1;
}

// The sum of what the columns of this pass hold of one element of x.
template <class T>
HANDCONV_DEVICE Compute<T> sum_columns(const Pass<T>& pass, std::int64_t sample, int c, int h,
                                       int w) {
  const int depth = pass.depth();
  const Compute<T>* columns = pass.columns + sample * pass.columns_of_sample +
                              static_cast<std::int64_t>(c / pass.in_channels) * depth * pass.pixels;
  Compute<T> sum = 0;
  for (int kh = 0; kh < pass.height.kernel; ++kh) {
    const int oh = output_position(pass.height, h, kh);
    if (oh < 0) continue;
    for (int kw = 0; kw < pass.width.kernel; ++kw) {
      const int ow = output_position(pass.width, w, kw);
      const int pixel = oh * pass.width.output + ow - pass.first_pixel;
      if (ow < 0 || pixel < 0 || pixel >= pass.pixels) continue;
      const int k = index_of(pass, {c % pass.in_channels, kh, kw});
      sum += columns[pass.channels_last ? std::int64_t{pixel} * depth + k
                                        : std::int64_t{k} * pass.pixels + pixel];
    }
  }
  return sum;
}

// col2im as a gather: one thread for each element of x. Reads the columns once and writes x once;
// where a sample's columns come in blocks, it reads and writes `images` between them.
template <class T>
HANDCONV_KERNEL(kThreads, 1)
add_columns(Pass<T> pass) {
  std::int64_t rest = element_index();
  const std::int64_t size = pass.xs.sample;  // elements of a sample
  if (rest >= pass.samples * size) return;
  const int channels = pass.groups * pass.in_channels;
  const int first = take_last(rest, pass.channels_last ? channels : pass.width.input);
  const int second = take_last(rest, pass.channels_last ? pass.width.input : pass.height.input);
  const int third = take_last(rest, pass.channels_last ? pass.height.input : channels);
  const int c = pass.channels_last ? first : third;
  const int w = pass.channels_last ? second : first, h = pass.channels_last ? third : second;
  const std::int64_t place = element_index() - rest * size;
  Compute<T> sum = sum_columns(pass, rest, c, h, w);
  if (!pass.is_first()) sum = pass.images[place] + sum;
  if (!pass.is_last()) {
    pass.images[place] = sum;
    return;
  }
  if (pass.bias) sum += to_compute(pass.bias[c]);
  pass.x[pass.first_sample * size + element_index()] = from_compute<T>(sum);
}

}  // namespace im2col
}  // namespace cuda
}  // namespace handconv
