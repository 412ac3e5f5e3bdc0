// Tiles of planes (NCHW) in shared memory, for the depthwise kernels: which positions a block of
// threads takes, and how it stages the source that they look at.
//
// A block holds `planes` planes of a source, each thread of it two columns of one plane, with a run
// of 8 rows in each. The columns of a thread are column_threads apart, so that the lanes of a warp
// read neighbours from shared memory.
#pragma once

#include "cuda/depthwise_axis.h"
#include "cuda/elements.h"

namespace handconv {
namespace cuda {

constexpr int kTileThreads = 128;
constexpr int kRunRows = 8;
constexpr int kRunColumns = 2;

struct PlaneTile {
  int column_threads, row_threads, planes;  // of a block
  int rows, columns;                        // positions of a plane in a tile
  int row_spacing;                          // of the runs; 1 if they do not slide
  int row_tiles, column_tiles;              // that cover the positions of a plane
  int pitch, plane_size;                    // of the staged source, in elements of Compute<T>

  HANDCONV_HOST_DEVICE int columns_of_threads() const { return column_threads * kRunColumns; }
};

// The place of a thread in its block. Threads past the last plane of the block have plane >=
// planes.
struct PlaneThread {
  int plane, row, column;  // the plane, and the first position of the thread within the tile
};
HANDCONV_HOST_DEVICE inline PlaneThread plane_thread(const PlaneTile& tile, int thread) {
  const int run = thread / tile.column_threads % tile.row_threads;
  return {thread / tile.column_threads / tile.row_threads,
          run_start(run, kRunRows, tile.row_spacing), thread % tile.column_threads};
}

// Positions of one axis whose source a block stages.
struct PlaneAxis {
  int count, source_step, taps, dilation;
  bool slides;

  std::int64_t extent(std::int64_t positions) const {
    return (positions - 1) * source_step + static_cast<std::int64_t>(taps - 1) * dilation + 1;
  }
};

inline int columns_of_tile(const PlaneAxis& axis) {
  if (axis.count <= 16) return power_of_two(axis.count, 8, 16) / kRunColumns;
  int best = 0;
  std::int64_t least = 0;
  for (int threads = 32; threads >= 8; threads /= 2) {
    const int columns = threads * kRunColumns;
    const std::int64_t tiles = ceil_divide(axis.count, columns);
    const std::int64_t cost = tiles * (columns + axis.extent(columns));  // to fill and to stage
    if (best == 0 || cost < least) {
      best = threads;
      least = cost;
    }
  }
  return best;
}

inline PlaneTile tile_of(const PlaneAxis& rows, const PlaneAxis& columns, int column_threads,
                         int row_threads) {
  PlaneTile tile{};
  tile.column_threads = column_threads;
  const bool spaced = rows.slides && rows.dilation <= row_threads;
  tile.row_spacing = spaced ? rows.dilation : 1;
  tile.row_threads = row_threads / tile.row_spacing * tile.row_spacing;
  tile.planes = kTileThreads / (tile.row_threads * column_threads);
  tile.rows = tile.row_threads * kRunRows;
  tile.columns = tile.columns_of_threads();
  tile.row_tiles = ceil_divide(rows.count, tile.rows);
  tile.column_tiles = ceil_divide(columns.count, tile.columns);

  // The lanes of a warp should fall on different banks: those of one row do, and the next run of
  // rows or the next plane should go on where they end.
  const std::int64_t extent = columns.extent(tile.columns);
  std::int64_t pitch = extent;
  if (column_threads == 16) pitch += (6 - pitch % 4) % 4;
  if (column_threads == 8) pitch |= 1;
  std::int64_t plane = rows.extent(tile.rows) * pitch;
  const int threads = column_threads * tile.row_threads;
  if (threads < 32) {
    plane = round_up<std::int64_t>(plane, 2 * threads) + threads;
  }
  constexpr std::int64_t kTooLarge = 1 << 20;
  tile.pitch = static_cast<int>(pitch < kTooLarge ? pitch : kTooLarge);
  tile.plane_size = static_cast<int>(plane < kTooLarge ? plane : kTooLarge);
  return tile;
}

// The tile for planes of that shape; none (planes = 0) if shared memory cannot hold it. A plane
// needs `extra` elements of size `element` beside its source.
inline PlaneTile choose_tile(const PlaneAxis& rows, const PlaneAxis& columns, std::int64_t extra,
                             std::int64_t element) {
  constexpr std::int64_t kGood = 48 * 1024, kMost = 92 * 1024;
  int column_threads = columns_of_tile(columns);
  const int runs = run_count(rows.count, kRunRows, rows.slides ? rows.dilation : 1);
  int row_threads = power_of_two(runs, 1, kTileThreads / column_threads);
  for (;;) {
    PlaneTile tile = tile_of(rows, columns, column_threads, row_threads);
    const auto bytes = [&] { return tile.planes * (tile.plane_size + extra) * element; };
    while (tile.planes > 1 && bytes() > kGood) tile.planes /= 2;
    if (bytes() <= kMost) return tile;
    if (row_threads > 1) {
      row_threads /= 2;
    } else if (column_threads > 4) {
      column_threads /= 2;
    } else {
      tile.planes = 0;
      return tile;
    }
  }
}

// The part of the source planes that a block stages: rows and columns from (row, column) on, which
// may lie outside the planes, where it stages zeros.
struct StagedWindow {
  int row, column, rows, columns;
  int source_rows, source_columns;
  std::int64_t row_stride, column_stride;
};

// Copies the window of each of `planes` planes, which begin at source + offsets[plane], to shared
// memory. Planes whose offset is negative do not exist.
template <class T>
HANDCONV_DEVICE void stage_window(Compute<T>* staged, const PlaneTile& tile, const T* source,
                                  const std::int64_t* offsets, std::int64_t offset,
                                  const StagedWindow& window) {
  constexpr int kBatch = 6;  // loads under way per thread
  const int total = tile.planes * window.rows * window.columns;
  GridWalk at(thread_index(), kTileThreads, window.rows, window.columns);
  for (int first = thread_index(); first < total; first += kBatch * kTileThreads) {
    Compute<T> values[kBatch];
    int places[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      values[i] = 0;
      places[i] = -1;
      if (first + i * kTileThreads < total) {
        places[i] = at.a * tile.plane_size + at.b * tile.pitch + at.c;
        const int row = window.row + at.b, column = window.column + at.c;
        const std::int64_t plane = offsets[at.a];
        if (plane >= 0 && 0 <= row && row < window.source_rows && 0 <= column &&
            column < window.source_columns) {
          values[i] = to_compute(
              source[plane + offset + row * window.row_stride + column * window.column_stride]);
        }
      }
      at.advance();
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (places[i] >= 0) staged[places[i]] = values[i];
    }
  }
}

// N neighbours from shared memory aligned to 16 bytes; the memory holds a multiple of 16 bytes.
template <int N, class C>
HANDCONV_DEVICE void load_weights(C (&weights)[N], const C* shared) {
  constexpr int kPack = 16 / sizeof(C);
#pragma unroll
  for (int first = 0; first < N; first += kPack) {
    const auto pack = load_pack<kPack>(shared + first);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (first + i < N) weights[first + i] = pack[i];
    }
  }
}

}  // namespace cuda
}  // namespace handconv
