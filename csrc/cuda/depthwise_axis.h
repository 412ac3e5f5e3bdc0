// What the depthwise kernels share about one axis: taps in ascending order of the source, and the
// runs of positions that one thread fills.
//
// With a source step of 1, positions that lie one dilation apart look at each other's source: what
// position i sees through tap t, position i + dilation sees through tap t - 1. So a thread takes a
// run of positions `spacing` = dilation apart, and a source that it has loaded serves up to as many
// taps as the run is long: it slides.
#pragma once

#include <numeric>

#include "cuda/arithmetic.h"
#include "cuda/gather.h"

namespace handconv {
namespace cuda {

// As AxisClass, with dilation > 0: position i reads, through tap t, the source at i * source_step +
// offset + t * dilation and the kernel index kernel_first + t * kernel_step.
struct TapAxis {
  int first, step, count;
  int source_step;
  int taps;
  int kernel_first, kernel_step;
  int offset, dilation;

  HANDCONV_HOST_DEVICE int filled(int i) const { return first + i * step; }
  HANDCONV_HOST_DEVICE int kernel(int tap) const { return kernel_first + tap * kernel_step; }
};

HANDCONV_HOST_DEVICE inline TapAxis ascending_taps(const AxisClass& c) {
  const int last = c.taps - 1;
  if (c.offset_step > 0 || c.taps == 0) {
    return {c.first,        c.step,        c.count,        c.source_step, c.taps,
            c.kernel_first, c.kernel_step, c.offset_first, c.offset_step};
  }
  return {c.first,        c.step,         c.count,           c.source_step, c.taps,
          c.kernel(last), -c.kernel_step, c.source(0, last), -c.offset_step};
}

// What all classes of an axis have in common.
struct AxisShape {
  int classes, largest_class;
  int source_step, dilation;
  int most_taps;    // of any class
  bool equal_taps;  // every class has as many

  // Runs slide; the spacing is bounded so that no position past the last overflows an int.
  bool slides() const { return source_step == 1 && dilation <= 1 << 20; }
};

inline AxisShape axis_shape(const GatherAxis& axis) {
  if (!axis.transposed) {
    return {1, axis.filled_size, axis.stride, axis.dilation, axis.kernel_size, true};
  }
  const int divisor = std::gcd(axis.stride, axis.dilation);
  const int period = axis.stride / divisor;
  return {axis.classes(),
          axis.largest_class(),
          1,
          axis.dilation / divisor,
          ceil_divide(axis.kernel_size, period),
          axis.stride == 1};
}

// Runs of `length` positions, `spacing` apart, that cover `count` positions, and the first position
// of a run: runs 0 .. spacing - 1 interleave, and so on.
HANDCONV_HOST_DEVICE inline int run_count(int count, int length, int spacing) {
  const std::int64_t block = static_cast<std::int64_t>(length) * spacing;
  const std::int64_t runs = ceil_divide<std::int64_t>(count, block) * spacing;
  return static_cast<int>(runs < count ? runs : count);
}
HANDCONV_HOST_DEVICE inline int run_start(int run, int length, int spacing) {
  return run / spacing * length * spacing + run % spacing;
}

// The smallest of least, 2 least, 4 least, .. most that is at least `count`; `most` if none is.
inline int power_of_two(int count, int least, int most) {
  int power = least;
  while (power < count && power < most) power *= 2;
  return power;
}

// An index into (.., b_size, c_size) in parts, which goes on by a fixed step without division.
struct GridWalk {
  int a, b, c;
  int step_a, step_b, step_c;
  int b_size, c_size;

  HANDCONV_HOST_DEVICE GridWalk(std::int64_t start, int step, int rows, int columns)
      : b_size(rows), c_size(columns) {
    a = static_cast<int>(start / columns / rows);
    b = static_cast<int>(start / columns % rows);
    c = static_cast<int>(start % columns);
    step_a = step / columns / rows;
    step_b = step / columns % rows;
    step_c = step % columns;
  }
  HANDCONV_HOST_DEVICE void advance() {
    c += step_c;
    b += step_b;
    a += step_a;
    if (c >= c_size) {
      c -= c_size;
      ++b;
    }
    if (b >= b_size) {
      b -= b_size;
      ++a;
    }
  }
};

}  // namespace cuda
}  // namespace handconv
