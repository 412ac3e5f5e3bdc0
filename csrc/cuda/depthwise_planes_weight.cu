// Weight gradient of depthwise groups in NCHW.
//
// Tile: 64 columns x 32 rows of y of one pair of channels (or several samples where planes are
// smaller) by 128 threads; the block walks over the tiles of its chunk. x is staged in shared
// memory with the halo of a tile of up to 7x7 taps, y comes straight from global memory: DRAM gives
// x and y once. A thread keeps k k sums and 8 of y, and reads (8 + k - 1) k elements of x for 8
// pixels. Kernels beyond 7x7 take tiles of 7x7 taps in blocks of their own, which read x and y
// again. Registers: at most 128 (4 blocks of a multiprocessor), of double 200. Workspace: see
// chunk_count.

#include "cuda/depthwise.h"
#include "cuda/depthwise_partials.h"
#include "cuda/depthwise_tile.h"

namespace handconv {
namespace cuda {
namespace {

constexpr int kThreads = kTileThreads;

struct PlanesWeightParams {
  WeightSums sums;
  PlaneTile tile;      // of y; `planes` counts samples
  std::int64_t items;  // tiles of y of a pair
};

// The column of a run of pixels, and the x that its first pixel sees through the first tap.
template <class T>
struct RunOfPixels {
  const T* y;
  const Compute<T>* x;
};

// sums[t][u] += y[j] * x[j + t, u] for a full run.
template <class T, int kTaps>
HANDCONV_DEVICE void slide(TapSums<kTaps, kTaps, Compute<T>>& sums, const RunOfPixels<T>& run,
                           std::int64_t y_stride, int pitch, int dilation, const TapTile& taps) {
  using C = Compute<T>;
  C y[kRunRows];
#pragma unroll
  for (int j = 0; j < kRunRows; ++j) y[j] = to_compute(run.y[j * y_stride]);
#pragma unroll
  for (int q = 0; q < kRunRows + kTaps - 1; ++q) {
    if (q >= kRunRows + taps.rows - 1) break;
#pragma unroll
    for (int u = 0; u < kTaps; ++u) {
      if (u >= taps.columns) break;
      const C x = run.x[q * pitch + u * dilation];
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
        const int j = q - t;
        if (0 <= j && j < kRunRows) sums[t][u] += y[j] * x;
      }
    }
  }
}

// The same for one pixel.
template <class T, int kTaps>
HANDCONV_DEVICE void add_pixel(TapSums<kTaps, kTaps, Compute<T>>& sums, const RunOfPixels<T>& run,
                               int pitch, int dilation, const TapTile& taps) {
  const Compute<T> y = to_compute(*run.y);
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
    if (t >= taps.rows) break;
#pragma unroll
    for (int u = 0; u < kTaps; ++u) {
      if (u < taps.columns) sums[t][u] += y * run.x[t * pitch + u * dilation];
    }
  }
}

// Adds the sums of all threads in a fixed order and writes them to the partials.
template <int kTaps, class C>
HANDCONV_DEVICE void write_partials(const WeightSums& s, const TapSums<kTaps, kTaps, C>& sums,
                                    const TapTile& taps, std::int64_t chunk, std::int64_t pair) {
  constexpr int kPitch = kThreads + 1;
  C* shared = reinterpret_cast<C*>(shared_memory());
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
#pragma unroll
    for (int u = 0; u < kTaps; ++u) shared[(t * kTaps + u) * kPitch + thread_index()] = sums[t][u];
  }
  synchronize_block();
  C* partials = static_cast<C*>(s.partials) + (chunk * s.pairs + pair) * s.taps();
  const int lane = thread_index() % 32;
  for (int tap = thread_index() / 32; tap < kTaps * kTaps; tap += kThreads / 32) {
    C sum = 0;
#pragma unroll
    for (int i = 0; i < kThreads; i += 32) sum += shared[tap * kPitch + i + lane];
#pragma unroll
    for (int delta = 16; delta > 0; delta /= 2) sum += shuffle_down(sum, delta);
    const int t = tap / kTaps, u = tap % kTaps;
    if (lane > 0 || t >= taps.rows || u >= taps.columns) continue;
    partials[static_cast<std::int64_t>(taps.row + t) * s.columns.kernel + taps.column + u] = sum;
  }
}

// A tile of y: samples from n on, rows and columns.
struct TileOfPixels {
  std::int64_t n;
  int row, column, rows, columns;

  HANDCONV_DEVICE TileOfPixels(const PlanesWeightParams& p, std::int64_t item) {
    const PlaneTile& tile = p.tile;
    column = static_cast<int>(item % tile.column_tiles) * tile.columns;
    row = static_cast<int>(item / tile.column_tiles % tile.row_tiles) * tile.rows;
    n = item / tile.column_tiles / tile.row_tiles * tile.planes;
    const int rows_left = p.sums.rows.output - row, columns_left = p.sums.columns.output - column;
    rows = rows_left < tile.rows ? rows_left : tile.rows;
    columns = columns_left < tile.columns ? columns_left : tile.columns;
  }
};

// Stages the x that the pixels of the tile see through the taps.
template <class T>
HANDCONV_DEVICE void stage_x(const PlanesWeightParams& p, const TileOfPixels& pixels,
                             const TapTile& taps, std::int64_t channel, std::int64_t* offsets,
                             Compute<T>* staged) {
  const WeightSums& s = p.sums;
  const int i = thread_index();
  if (i < p.tile.planes) {
    offsets[i] =
        pixels.n + i < s.batch ? (pixels.n + i) * s.xs.sample + channel * s.xs.channel : -1;
  }
  synchronize_block();
  const StagedWindow window{
      s.rows.input_position(pixels.row, taps.row),
      s.columns.input_position(pixels.column, taps.column),
      (pixels.rows - 1) * s.rows.stride + (taps.rows - 1) * s.rows.dilation + 1,
      (pixels.columns - 1) * s.columns.stride + (taps.columns - 1) * s.columns.dilation + 1,
      s.rows.input,
      s.columns.input,
      s.xs.row,
      s.xs.column};
  stage_window<T>(staged, p.tile, static_cast<const T*>(s.x), offsets, 0, window);
  synchronize_block();
}

// Adds what one thread has in the tile.
template <class T, int kTaps, bool kSlides>
HANDCONV_DEVICE void add_tile(TapSums<kTaps, kTaps, Compute<T>>& sums, const PlanesWeightParams& p,
                              const TileOfPixels& pixels, const TapTile& taps, const T* y,
                              const Compute<T>* staged) {
  const WeightSums& s = p.sums;
  const PlaneThread at = plane_thread(p.tile, thread_index());
  if (at.plane >= p.tile.planes || pixels.n + at.plane >= s.batch) return;
  const int pitch = p.tile.pitch, spacing = p.tile.row_spacing;
  const T* plane = y + (pixels.n + at.plane) * s.ys.sample;
  const int rows = pixels.rows - at.row;  // that are left to this thread
#pragma unroll 1
  for (int c = 0; c < kRunColumns; ++c) {
    const int column = at.column + c * p.tile.column_threads;
    if (column >= pixels.columns) break;
    RunOfPixels<T> run{
        plane + (pixels.row + at.row) * s.ys.row + (pixels.column + column) * s.ys.column,
        staged + at.plane * p.tile.plane_size + at.row * s.rows.stride * pitch +
            column * s.columns.stride};
    if (kSlides && (kRunRows - 1) * spacing < rows) {
      slide<T, kTaps>(sums, run, spacing * s.ys.row, spacing * pitch, s.columns.dilation, taps);
      continue;
    }
#pragma unroll 1
    for (int j = 0; j < kRunRows && j * spacing < rows; ++j) {
      add_pixel<T, kTaps>(sums, run, s.rows.dilation * pitch, s.columns.dilation, taps);
      run.y += spacing * s.ys.row;
      run.x += spacing * s.rows.stride * pitch;
    }
  }
}

template <class T, int kTaps, bool kSlides>
HANDCONV_KERNEL(kThreads, sizeof(T) == 8 ? 2 : 4)
sum_planes(PlanesWeightParams p) {
  using C = Compute<T>;
  const WeightSums& s = p.sums;
  std::int64_t index = block_index();
  const TapTile taps(s, static_cast<int>(index % s.tap_tiles()));
  index /= s.tap_tiles();
  const std::int64_t pair = index % s.pairs, chunk = index / s.pairs;
  const ItemRange items = part_of(p.items, s.chunks, chunk);
  std::int64_t* offsets = reinterpret_cast<std::int64_t*>(shared_memory());
  C* staged = reinterpret_cast<C*>(offsets + kThreads);
  const T* y = static_cast<const T*>(s.y) + s.y_channel(pair) * s.ys.channel;

  TapSums<kTaps, kTaps, C> sums;
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
#pragma unroll
    for (int u = 0; u < kTaps; ++u) sums[t][u] = 0;
  }
#pragma unroll 1
  for (std::int64_t item = items.begin; item < items.end; ++item) {
    const TileOfPixels pixels(p, item);
    stage_x<T>(p, pixels, taps, s.x_channel(pair), offsets, staged);
    add_tile<T, kTaps, kSlides>(sums, p, pixels, taps, y, staged);
    synchronize_block();
  }
  write_partials<kTaps, C>(s, sums, taps, chunk, pair);
}

struct Plan {
  PlanesWeightParams params;  // tile.planes = 0 if shared memory cannot hold a tile
  bool slides;
};

template <class T>
Plan make_plan(const Problem& problem) {
  Plan plan{};
  PlanesWeightParams& p = plan.params;
  WeightSums& s = p.sums;
  s = make_weight_sums(problem);
  set_tap_tile(s, tap_side(s), tap_side(s));
  const auto axis = [](const AxisOf<int>& a, int taps) {
    return PlaneAxis{a.output, a.stride, taps < a.kernel ? taps : a.kernel, a.dilation,
                     a.stride == 1 && a.dilation <= 1 << 20};
  };
  const PlaneAxis rows = axis(s.rows, s.tap_rows), columns = axis(s.columns, s.tap_columns);
  p.tile = choose_tile(rows, columns, 0, sizeof(Compute<T>));
  if (p.tile.planes == 0) return plan;
  plan.slides = rows.slides && p.tile.row_spacing == rows.dilation;
  p.items =
      ceil_divide<std::int64_t>(s.batch, p.tile.planes) * p.tile.row_tiles * p.tile.column_tiles;
  s.chunks = chunk_count(p.items, s.pairs * s.tap_tiles());
  return plan;
}

template <class T>
std::size_t shared_bytes(const PlanesWeightParams& p) {
  const std::size_t taps = static_cast<std::size_t>(p.sums.tap_rows) * p.sums.tap_columns;
  const std::size_t sums = taps * (kThreads + 1) * sizeof(Compute<T>);
  const std::size_t tiles =
      kThreads * sizeof(std::int64_t) +
      static_cast<std::size_t>(p.tile.planes) * p.tile.plane_size * sizeof(Compute<T>);
  return sums > tiles ? sums : tiles;
}

}  // namespace

template <class T>
WorkspaceSize DepthwisePlanesWeight<T>::workspace(const Problem& problem) {
  const Plan plan = make_plan<T>(problem);
  if (plan.params.tile.planes == 0) return DepthwiseChannelsWeight<T>::workspace(problem);
  return partials_size<T>(plan.params.sums);
}

template <class T>
void DepthwisePlanesWeight<T>::run(const Problem& problem, const Buffers& buffers,
                                   const Workspace& workspace) {
  constexpr const char* kName = "cuda.direct.depthwise.planes";
  Plan plan = make_plan<T>(problem);
  if (plan.params.tile.planes == 0) {  // a halo beyond shared memory
    return DepthwiseChannelsWeight<T>::run(problem, buffers, workspace);
  }
  WeightSums& sums = plan.params.sums;
  set_buffers(sums, buffers, workspace.shared<Compute<T>>());
  const auto start = [&](auto kernel) {
    launch(kName, kernel, sums.chunks * sums.pairs * sums.tap_tiles(), kThreads,
           shared_bytes<T>(plan.params), buffers.stream, plan.params);
  };
  start_for_tap_side(sums, [&](auto side) {
    constexpr int kTaps = decltype(side)::value;
    plan.slides ? start(sum_planes<T, kTaps, true>) : start(sum_planes<T, kTaps, false>);
  });
  launch_add_partials<T>(kName, sums, buffers.stream);
}

template struct DepthwisePlanesWeight<float>;
template struct DepthwisePlanesWeight<double>;
template struct DepthwisePlanesWeight<Float16>;
template struct DepthwisePlanesWeight<BFloat16>;

}  // namespace cuda
}  // namespace handconv
