// Copies a tile of an image into shared memory: for kernels of groups with few channels.
#pragma once

#include "cuda/arithmetic.h"
#include "cuda/elements.h"

namespace handconv {
namespace cuda {
namespace grouped {

constexpr int kLanes = 32;
constexpr int kWarps = 4;
constexpr int kThreads = kLanes * kWarps;
// The most shared memory of a block: what leaves room for several on a multiprocessor, and what
// there is.
constexpr std::int64_t kPreferredBytes = 56 * 1024, kLargestBytes = 96 * 1024;

// The groups and channels of a tile; at most kThreads channels in all. Groups past the last are
// left out.
struct TileChannels {
  std::int64_t all_groups;
  int group_size;  // channels of a group
  int first_group, groups;
  int first_channel, channels;  // in each group
};
// The pixels of a tile; `origin` may lie outside the image.
struct TilePixels {
  int height, width;  // of the image
  int row_origin, column_origin;
  int rows, columns;
};
// Elements between neighbours of a tile in shared memory.
struct TilePitch {
  int group, channel, row, column;
};

// `image` is the first pixel of the sample. Pixels outside the image are zero.
template <class T>
HANDCONV_DEVICE void stage_tile(const T* image, const ImageStrides& strides,
                                const TileChannels& channels, const TilePixels& pixels,
                                const TilePitch& pitch, Compute<T>* shared) {
  const int count = channels.groups * channels.channels;
  const auto copy = [&](int channel, int row, int column) {
    const int g = channel / channels.channels, c = channel % channels.channels;
    const std::int64_t group = channels.first_group + g;
    if (group >= channels.all_groups) return;
    const int h = pixels.row_origin + row, w = pixels.column_origin + column;
    const bool inside = 0 <= h && h < pixels.height && 0 <= w && w < pixels.width;
    const std::int64_t first =
        (group * channels.group_size + channels.first_channel + c) * strides.channel;
    shared[g * pitch.group + c * pitch.channel + row * pitch.row + column * pitch.column] =
        inside ? to_compute(image[first + h * strides.row + w * strides.column]) : Compute<T>(0);
  };

  if (strides.channel == 1) {  // neighbouring threads take neighbouring channels
    const int channel = thread_index() % count, step = kThreads / count;
    const int start = thread_index() / count;
    if (start >= step) return;
    for (int row = 0, column = start;; column += step) {
      while (column >= pixels.columns) {
        column -= pixels.columns;
        ++row;
      }
      if (row >= pixels.rows) return;
      copy(channel, row, column);
    }
  }
  for (int line = thread_index() / kLanes; line < count * pixels.rows; line += kWarps) {
    for (int column = thread_index() % kLanes; column < pixels.columns; column += kLanes) {
      copy(line / pixels.rows, line % pixels.rows, column);
    }
  }
}

}  // namespace grouped
}  // namespace cuda
}  // namespace handconv
