// A convolution and its transpose as one thing: every element that is filled gathers source
// elements through a list of taps.
//
// Per axis, the filled positions fall into classes, and within a class everything is linear: the
// i-th position of a class is first + i * step, and through a tap it reads the source at i *
// source_step + tap.offset, where that lies inside the source. The convolution has one class (step
// 1, source step s). Its transpose has s: position h gets something from tap k only if h + p - k d
// is a multiple of the stride s, so the class h mod s has taps of its own, no others, and reads y
// with step 1. Kernels therefore know neither stride nor dilation nor padding nor which of the two
// operations they run.
#pragma once

#include <cstdint>
#include <vector>

#include "geometry.h"

namespace handconv {

struct Tap {
  std::int64_t kernel;  // index along this axis of w
  std::int64_t offset;  // in source elements, may point outside
};

template <class T>
struct Span {
  const T* first;
  std::int64_t count;

  const T* begin() const { return first; }
  const T* end() const { return first + count; }
  const T& operator[](std::int64_t i) const { return first[i]; }
};

struct AxisClass {
  std::int64_t first, step, count;
  std::int64_t source_step;
  Span<Tap> taps;  // may be empty: then the class gets the bias alone
};

struct Range {
  std::int64_t first, last;
};

// One axis of the gather.
class AxisTaps {
 public:
  AxisTaps(const Axis& axis, Slot filled);
  // Of the positions [first, last) that are filled and what they meet of the source, as an axis of
  // its own; `first` is a multiple of the classes' step.
  AxisTaps(const AxisTaps& whole, Range filled);
  AxisTaps(AxisTaps&&) noexcept;
  ~AxisTaps();

  Span<AxisClass> classes() const { return {classes_, class_count_}; }
  std::int64_t source_size, filled_size, kernel_size;
  // Of a part: where its source begins in that of the whole.
  std::int64_t source_first = 0;

 private:
  void refer_to_storage();

  std::vector<AxisClass> class_storage_;
  std::vector<Tap> tap_storage_;
  const AxisClass* classes_;
  std::int64_t class_count_;
};

// The whole gather: filled[n, g, f, .] = bias[g, f] + sum over s and taps of w[g, f, s, tap] *
// source[n, g, s, .]
struct Gather {
  Gather(const Problem& problem, const Buffers& buffers);
  // The part of `whole` that fills these columns. `element_bytes`: of the images' elements.
  Gather(const Gather& whole, Range filled_columns, std::int64_t element_bytes);

  std::int64_t batch, groups;
  std::int64_t source_channels, filled_channels;  // per group
  AxisTaps rows, columns;
  ImageStrides source_strides, filled_strides;
  // Terms of a partial sum, at most: more would stay longer in registers, but round worse.
  std::int64_t block_terms;
  std::int64_t w_group, w_filled, w_source, w_row, w_column;  // strides of w in elements
  const void* source;
  void* filled;
  const void* w;
  const void* bias;

  std::int64_t kernel_area() const { return rows.kernel_size * columns.kernel_size; }
  std::int64_t source_area() const { return rows.source_size * columns.source_size; }
  std::int64_t filled_area() const { return rows.filled_size * columns.filled_size; }
  // Elements of the source and of the filled image, of one group of a sample and of all.
  std::int64_t group_elements() const {
    return source_channels * source_area() + filled_channels * filled_area();
  }
  std::int64_t elements() const { return batch * groups * group_elements(); }
  // Multiply-adds per filled element; an estimate, made for sharing out work.
  std::int64_t cost_per_element() const { return source_channels * kernel_area(); }
};

// The outputs whose window meets the input, not the padding, at tap `k`.
Range outputs_inside(const Axis& axis, std::int64_t k);

}  // namespace handconv
