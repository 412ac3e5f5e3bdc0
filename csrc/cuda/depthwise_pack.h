// Threads along channels (channels_last), for the depthwise kernels that gather: which positions
// and channels a thread fills, weights in shared memory, and rows of sources out of global memory.
//
// A block has `lanes` packs of neighbouring channels x (kPackThreads / lanes) runs of positions,
// neighbours along the row.
#pragma once

#include "cuda/depthwise_axis.h"
#include "cuda/elements.h"

namespace handconv {
namespace cuda {

constexpr int kPackThreads = 128;
constexpr int kRun = 4;  // columns of a thread

struct PackParams {
  Gather gather;
  int lanes;                                    // packs of channels of a block
  int row_length, row_spacing, column_spacing;  // of a thread's runs
  int row_runs, column_runs;                    // that cover the largest class
  int chunk_rows, chunk_columns;                // taps whose weights are in shared memory at a time
  std::int64_t lane_groups, run_groups;
};

// What a thread fills: a run of rows and of columns of a class pair, in a pack of channels.
struct PackThread {
  TapAxis rows, columns;
  std::int64_t n, first_channel, channel;  // the first of the block, and of the thread
  int row, column;
  int lane;
  bool exists;

  HANDCONV_DEVICE PackThread(const PackParams& p, int pack) {
    const Gather& g = p.gather;
    std::int64_t index = block_index();
    const auto take = [&index](std::int64_t count) {
      const std::int64_t part = index % count;
      index /= count;
      return part;
    };
    first_channel = take(p.lane_groups) * p.lanes * pack;
    const int row_class = static_cast<int>(take(g.rows.classes()));
    const int column_class = static_cast<int>(take(g.columns.classes()));
    const std::int64_t first_run = take(p.run_groups) * (kPackThreads / p.lanes);
    const std::int64_t run = first_run + thread_index() / p.lanes;
    n = index;
    rows = ascending_taps(g.rows.axis_class(row_class));
    columns = ascending_taps(g.columns.axis_class(column_class));
    lane = thread_index() % p.lanes;
    channel = first_channel + lane * pack;
    const std::int64_t row_run = run / p.column_runs;
    row = column = 0;
    exists = row_run < p.row_runs && channel < g.groups * g.filled_channels;
    if (!exists) return;
    row = run_start(static_cast<int>(row_run), p.row_length, p.row_spacing);
    column = run_start(static_cast<int>(run % p.column_runs), kRun, p.column_spacing);
    exists = row < rows.count && column < columns.count;
  }
  // The first channel of the source that the thread gathers from.
  HANDCONV_DEVICE std::int64_t source_channel(const Gather& g) const {
    return g.filled_channels == g.source_channels ? channel
                                                  : channel / g.filled_channels * g.source_channels;
  }
};

// The taps whose weights are in shared memory.
struct TapChunk {
  int row, column, rows, columns;  // the first, and how many
};

// Weights of a chunk in shared memory: [row tap][column tap][channel], the channels of a block
// padded so that neighbouring taps begin on other banks.
HANDCONV_HOST_DEVICE inline int weight_pitch(int lanes, int pack) { return lanes * pack + 2; }

template <class T, int kPack>
HANDCONV_DEVICE void stage_weights(const PackParams& p, const PackThread& at, int source,
                                   const TapChunk& chunk, Compute<T>* shared) {
  const Gather& g = p.gather;
  const T* w = static_cast<const T*>(g.w) + source * g.w_source;
  const std::int64_t channels = g.groups * g.filled_channels;
  const int total = p.lanes * kPack * chunk.rows * chunk.columns;
  GridWalk i(thread_index(), kPackThreads, chunk.rows, chunk.columns);
  for (int left = total - thread_index(); left > 0; left -= kPackThreads, i.advance()) {
    const std::int64_t channel = at.first_channel + i.a;
    if (channel >= channels) continue;
    const std::int64_t offset =
        g.filled_channels == 1
            ? channel * g.w_group
            : channel / g.filled_channels * g.w_group + channel % g.filled_channels * g.w_filled;
    shared[(i.b * chunk.columns + i.c) * weight_pitch(p.lanes, kPack) + i.a] =
        to_compute(w[offset + at.rows.kernel(chunk.row + i.b) * g.w_row +
                     at.columns.kernel(chunk.column + i.c) * g.w_column]);
  }
}

// The source of one thread: `row` and `column` are where its first position looks through tap (0,
// 0).
template <class T>
struct PackSource {
  const T* data;  // of the channels of the thread
  int row, column, source_rows, source_columns;
  std::int64_t row_stride, column_stride;

  HANDCONV_DEVICE PackSource(const Gather& g, const PackThread& at)
      : data(static_cast<const T*>(g.source) + at.n * g.source_strides.sample +
             at.source_channel(g) * g.source_strides.channel),
        row(at.row * at.rows.source_step + at.rows.offset),
        column(at.column * at.columns.source_step + at.columns.offset),
        source_rows(g.rows.source_size),
        source_columns(g.columns.source_size),
        row_stride(g.source_strides.row),
        column_stride(g.source_strides.column) {}

  HANDCONV_DEVICE bool has_row(int h) const { return 0 <= h && h < source_rows; }

  // The packs of row h at columns first, first + step, ..; zeros outside the source.
  template <int kCount, int kPack>
  HANDCONV_DEVICE void load_row(Pack<T, kPack> (&packs)[kCount], int h, int first, int step) const {
    std::int64_t offset = h * row_stride + first * column_stride;
    const bool exists = has_row(h);
#pragma unroll
    for (int r = 0; r < kCount; ++r, offset += step * column_stride) {
      const int w = first + r * step;
      packs[r] = Pack<T, kPack>{};
      if (exists && 0 <= w && w < source_columns) packs[r] = load_pack<kPack>(data + offset);
    }
  }
};

template <class T, int kPack>
HANDCONV_DEVICE void bias_of(const Gather& g, const PackThread& at, Compute<T> (&bias)[kPack]) {
  const T* data = static_cast<const T*>(g.bias);
#pragma unroll
  for (int v = 0; v < kPack; ++v) {
    bias[v] = data && at.exists ? to_compute(data[at.channel + v]) : Compute<T>(0);
  }
}

// Stores a run of columns of a row of the class.
template <class T, int kPack>
HANDCONV_DEVICE void store_row(const PackParams& p, const PackThread& at, int row,
                               const Compute<T> (&sums)[kRun][kPack]) {
  const ImageStrides& s = p.gather.filled_strides;
  T* filled = static_cast<T*>(p.gather.filled) + at.n * s.sample + at.channel * s.channel +
              at.rows.filled(row) * s.row;
#pragma unroll
  for (int j = 0; j < kRun; ++j) {
    const int column = at.column + j * p.column_spacing;
    if (column >= at.columns.count) break;
    Pack<T, kPack> pack;
#pragma unroll
    for (int v = 0; v < kPack; ++v) pack[v] = from_compute<T>(sums[j][v]);
    store_pack(filled + at.columns.filled(column) * s.column, pack);
  }
}

}  // namespace cuda
}  // namespace handconv
