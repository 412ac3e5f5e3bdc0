// Weight gradient of depthwise groups in channels_last.
//
// A block of 128 threads has 32 lanes, each a pair of channels, x 4 slots; a slot walks over runs
// of 8 pixels of a column of y and keeps sums for a tile of up to 7x7 taps in registers. x comes
// straight from global memory, (8 + k - 1) k elements for the 8 pixels of a run: DRAM gives x and y
// once, L1 the rest. Kernels beyond 7x7 take tiles of 7x7 taps in blocks of their own, which read x
// and y again. Registers: k k sums, 8 of y and addresses, at most 128: 4 blocks of a
// multiprocessor; 7x7 of double takes 198: 2 blocks. Workspace: see chunk_count.

#include "cuda/depthwise.h"
#include "cuda/depthwise_partials.h"

namespace handconv {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRun = 8;

struct ChannelsWeightParams {
  WeightSums sums;
  int lanes;  // pairs of a block
  int row_spacing, row_runs;
  std::int64_t lane_groups;
};

// The pixels of y that a thread looks at next: a run of rows of column `column`.
template <class T>
struct RunOfPixels {
  const T* x;  // of the sample and the channel
  const T* y;
  int row, column;
};

// sums[t][u] += y[j] * x[j + t, u] for a full run.
template <class T, int kTaps>
HANDCONV_DEVICE void slide(TapSums<kTaps, kTaps, Compute<T>>& sums, const WeightSums& s,
                           const RunOfPixels<T>& run, const TapTile& taps, int spacing) {
  using C = Compute<T>;
  C y[kRun];
#pragma unroll
  for (int j = 0; j < kRun; ++j) {
    y[j] = to_compute(run.y[(run.row + j * spacing) * s.ys.row + run.column * s.ys.column]);
  }
  const int row = s.rows.input_position(run.row, taps.row);
  const int column = s.columns.input_position(run.column, taps.column);
#pragma unroll
  for (int q = 0; q < kRun + kTaps - 1; ++q) {
    const int h = row + q * spacing;
    if (q >= kRun + taps.rows - 1) break;
    if (h < 0 || h >= s.rows.input) continue;
#pragma unroll
    for (int u = 0; u < kTaps; ++u) {
      const int w = column + u * s.columns.dilation;
      const bool inside = u < taps.columns && 0 <= w && w < s.columns.input;
      const C x = inside ? to_compute(run.x[h * s.xs.row + w * s.xs.column]) : C(0);
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
        const int j = q - t;
        if (0 <= j && j < kRun) sums[t][u] += y[j] * x;
      }
    }
  }
}

template <class T, int kTaps>
HANDCONV_DEVICE void add_pixel(TapSums<kTaps, kTaps, Compute<T>>& sums, const WeightSums& s,
                               const RunOfPixels<T>& run, const TapTile& taps, int row) {
  using C = Compute<T>;
  const C y = to_compute(run.y[row * s.ys.row + run.column * s.ys.column]);
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
    const int h = s.rows.input_position(row, taps.row + t);
    if (t >= taps.rows || h < 0 || h >= s.rows.input) continue;
#pragma unroll
    for (int u = 0; u < kTaps; ++u) {
      const int w = s.columns.input_position(run.column, taps.column + u);
      if (u >= taps.columns || w < 0 || w >= s.columns.input) continue;
      sums[t][u] += y * to_compute(run.x[h * s.xs.row + w * s.xs.column]);
    }
  }
}

// Adds what the slots of a lane hold, in order, and writes it to the partials.
template <int kTaps, class C>
HANDCONV_DEVICE void write_partials(const WeightSums& s, const TapSums<kTaps, kTaps, C>& sums,
                                    const TapTile& taps, std::int64_t chunk, std::int64_t pair,
                                    int lanes) {
  C* shared = reinterpret_cast<C*>(shared_memory());
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
#pragma unroll
    for (int u = 0; u < kTaps; ++u)
      shared[(t * kTaps + u) * kThreads + thread_index()] = sums[t][u];
  }
  synchronize_block();
  const int lane = thread_index() % lanes, slots = kThreads / lanes;
  if (pair >= s.pairs) return;
  C* partials = static_cast<C*>(s.partials) + (chunk * s.pairs + pair) * s.taps();
  for (int tap = thread_index() / lanes; tap < kTaps * kTaps; tap += slots) {
    const int t = tap / kTaps, u = tap % kTaps;
    if (t >= taps.rows || u >= taps.columns) continue;
    C sum = 0;
    for (int slot = 0; slot < slots; ++slot) sum += shared[tap * kThreads + slot * lanes + lane];
    partials[static_cast<std::int64_t>(taps.row + t) * s.columns.kernel + taps.column + u] = sum;
  }
}

template <class T, int kTaps, bool kSlides>
HANDCONV_KERNEL(kThreads, sizeof(T) == 8 ? 2 : 4)
sum_channels(ChannelsWeightParams p) {
  using C = Compute<T>;
  const WeightSums& s = p.sums;
  std::int64_t index = block_index();
  const TapTile taps(s, static_cast<int>(index % s.tap_tiles()));
  index /= s.tap_tiles();
  const std::int64_t pair = index % p.lane_groups * p.lanes + thread_index() % p.lanes;
  const std::int64_t chunk = index / p.lane_groups;
  const int slots = kThreads / p.lanes;
  const ItemRange runs = part_of(s.batch * p.row_runs * s.columns.output, s.chunks, chunk);

  TapSums<kTaps, kTaps, C> sums;
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
#pragma unroll
    for (int u = 0; u < kTaps; ++u) sums[t][u] = 0;
  }
  if (pair < s.pairs) {
    const T* x = static_cast<const T*>(s.x) + s.x_channel(pair) * s.xs.channel;
    const T* y = static_cast<const T*>(s.y) + s.y_channel(pair) * s.ys.channel;
    const std::int64_t first = runs.begin + thread_index() / p.lanes;
    GridWalk at(first, slots, p.row_runs, s.columns.output);
#pragma unroll 1
    for (std::int64_t i = first; i < runs.end; i += slots, at.advance()) {
      const RunOfPixels<T> run{x + at.a * s.xs.sample, y + at.a * s.ys.sample,
                               run_start(at.b, kRun, p.row_spacing), at.c};
      if (kSlides && run.row + (kRun - 1) * p.row_spacing < s.rows.output) {
        slide<T, kTaps>(sums, s, run, taps, p.row_spacing);
        continue;
      }
#pragma unroll 1
      for (int j = 0; j < kRun && run.row + j * p.row_spacing < s.rows.output; ++j) {
        add_pixel<T, kTaps>(sums, s, run, taps, run.row + j * p.row_spacing);
      }
    }
  }
  write_partials<kTaps, C>(s, sums, taps, chunk, pair, p.lanes);
}

struct Plan {
  ChannelsWeightParams params;
  bool slides;
};

Plan make_plan(const Problem& problem) {
  Plan plan{};
  ChannelsWeightParams& p = plan.params;
  WeightSums& s = p.sums;
  s = make_weight_sums(problem);
  set_tap_tile(s, tap_side(s), tap_side(s));
  plan.slides = s.rows.stride == 1 && s.rows.dilation <= 1 << 20;
  p.row_spacing = plan.slides ? s.rows.dilation : 1;
  p.row_runs = run_count(s.rows.output, kRun, p.row_spacing);
  p.lanes = power_of_two(static_cast<int>(s.pairs < 32 ? s.pairs : 32), 1, 32);
  p.lane_groups = ceil_divide<std::int64_t>(s.pairs, p.lanes);
  const std::int64_t runs = s.batch * p.row_runs * s.columns.output;
  const std::int64_t slots = kThreads / p.lanes;
  s.chunks = chunk_count(ceil_divide(runs, slots), p.lane_groups * s.tap_tiles());
  return plan;
}

}  // namespace

template <class T>
WorkspaceSize DepthwiseChannelsWeight<T>::workspace(const Problem& problem) {
  return partials_size<T>(make_plan(problem).params.sums);
}

template <class T>
void DepthwiseChannelsWeight<T>::run(const Problem& problem, const Buffers& buffers,
                                     const Workspace& workspace) {
  constexpr const char* kName = "cuda.direct.depthwise.channels";
  Plan plan = make_plan(problem);
  WeightSums& sums = plan.params.sums;
  set_buffers(sums, buffers, workspace.shared<Compute<T>>());
  const std::size_t bytes =
      sizeof(Compute<T>) * kThreads * static_cast<std::size_t>(sums.tap_rows) * sums.tap_columns;
  const auto start = [&](auto kernel) {
    launch(kName, kernel, sums.chunks * plan.params.lane_groups * sums.tap_tiles(), kThreads, bytes,
           buffers.stream, plan.params);
  };
  start_for_tap_side(sums, [&](auto side) {
    constexpr int kTaps = decltype(side)::value;
    plan.slides ? start(sum_channels<T, kTaps, true>) : start(sum_channels<T, kTaps, false>);
  });
  launch_add_partials<T>(kName, sums, buffers.stream);
}

template struct DepthwiseChannelsWeight<float>;
template struct DepthwiseChannelsWeight<double>;
template struct DepthwiseChannelsWeight<Float16>;
template struct DepthwiseChannelsWeight<BFloat16>;

}  // namespace cuda
}  // namespace handconv
