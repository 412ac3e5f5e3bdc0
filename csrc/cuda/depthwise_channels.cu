// Depthwise convolution and its transpose in channels_last.
//
// The lanes of a warp are 32 neighbouring packs of channels, so that each access is one or two full
// lines. Sources come straight from global memory: DRAM gives each once, L1 and L2 their halo.
//
// march_channels (3x3, 5x5, 7x7 of step 1): a thread marches down some rows of 4 columns with a
// ring of k rows of partial sums and all weights in registers; it loads each row of 4 + k - 1
// sources once, one row ahead, and k - 1 rows of halo. Packs of 2 channels for 3x3, 1 else.
// Registers: 63 to 109 up to 5x5, 4 blocks of 128 threads a multiprocessor; 7x7 takes 163 (3
// blocks), and of double 248 (2 blocks).
//
// fill_channels (everything else): a thread sums 4 rows x 4 columns of a pack of 1 or 2 channels,
// and walks over the taps; where columns slide it loads 7 sources for 4 x 4 columns and taps.
// Weights through shared memory, 4 rows x 32 columns of taps at a time, at most 35 KB.

#include "cuda/depthwise.h"
#include "cuda/depthwise_pack.h"

namespace handconv {
namespace cuda {
namespace {

constexpr int kChunkRows = 4, kChunkColumns = 32;
constexpr int kRows = 4;   // of a thread of fill_channels
constexpr int kBlock = 4;  // column taps that it takes together

template <class C, int kPack>
using PackSums = C[kRun][kPack];

// sums[j] += sum over the taps of a row of weights[u] * sources[j + u]
template <int kTaps, class C, class T, int kPack>
HANDCONV_DEVICE void add_row(PackSums<C, kPack>& sums, const C (&weights)[kTaps][kPack],
                             const Pack<T, kPack> (&sources)[kRun + kTaps - 1], int taps) {
#pragma unroll
  for (int u = 0; u < kTaps; ++u) {
    if (u >= taps) break;
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
#pragma unroll
      for (int v = 0; v < kPack; ++v) sums[j][v] += weights[u][v] * to_compute(sources[j + u][v]);
    }
  }
}

template <int kTaps, class C, int kPack>
HANDCONV_DEVICE void load_weights(C (&weights)[kTaps][kPack], const C* shared, int pitch,
                                  int taps) {
#pragma unroll
  for (int u = 0; u < kTaps; ++u) {
    if (u >= taps) break;
    const auto pack = load_pack<kPack>(shared + u * pitch);
#pragma unroll
    for (int v = 0; v < kPack; ++v) weights[u][v] = pack[v];
  }
}

// Blocks of a multiprocessor that the registers allow: the weights alone are kTaps^2.
template <class T, int kTaps>
constexpr int kMarchBlocks = kTaps <= 3 ? 4 : (kTaps <= 5 ? 4 : 3) - (sizeof(T) == 8 ? 1 : 0);

template <class T, int kPack, int kTaps>
HANDCONV_KERNEL(kPackThreads, (kMarchBlocks<T, kTaps>))
march_channels(PackParams p) {
  using C = Compute<T>;
  const PackThread at(p, kPack);
  C* shared = reinterpret_cast<C*>(shared_memory());
  stage_weights<T, kPack>(p, at, 0, {0, 0, kTaps, kTaps}, shared);
  synchronize_block();
  if (!at.exists) return;

  C weights[kTaps][kTaps][kPack];
  const int pitch = weight_pitch(p.lanes, kPack);
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
    load_weights(weights[t], shared + at.lane * kPack + t * kTaps * pitch, pitch, kTaps);
  }
  C bias[kPack];
  bias_of<T>(p.gather, at, bias);
  // Sums of the kTaps positions that see the current row of the source, the last through tap 0.
  PackSums<C, kPack> ring[kTaps];
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
#pragma unroll
      for (int v = 0; v < kPack; ++v) ring[k][j][v] = bias[v];
    }
  }

  const PackSource<T> source(p.gather, at);
  const int left = ceil_divide(at.rows.count - at.row, p.row_spacing);
  const int steps = (left < p.row_length ? left : p.row_length) + kTaps - 1;
  Pack<T, kPack> next[kRun + kTaps - 1];
  source.load_row(next, source.row, source.column, p.column_spacing);
#pragma unroll 1
  for (int q = 0; q < steps; ++q) {
    Pack<T, kPack> current[kRun + kTaps - 1];
#pragma unroll
    for (int r = 0; r < kRun + kTaps - 1; ++r) current[r] = next[r];
    const int h = source.row + q * p.row_spacing;
    if (q + 1 < steps) {
      source.load_row(next, h + p.row_spacing, source.column, p.column_spacing);
    }
    if (source.has_row(h)) {
#pragma unroll
      for (int k = 0; k < kTaps; ++k) add_row(ring[k], weights[kTaps - 1 - k], current, kTaps);
    }
    const int position = q - (kTaps - 1);
    if (position >= 0) store_row<T>(p, at, at.row + position * p.row_spacing, ring[0]);
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
#pragma unroll
      for (int j = 0; j < kRun; ++j) {
#pragma unroll
        for (int v = 0; v < kPack; ++v) {
          ring[k][j][v] = k + 1 < kTaps ? ring[k + 1 < kTaps ? k + 1 : k][j][v] : bias[v];
        }
      }
    }
  }
}

// Adds `columns` taps of one row, at most kBlock, from tap (row, column) on; columns slide.
template <class T, int kPack>
HANDCONV_DEVICE void slide(PackSums<Compute<T>, kPack> (&sums)[kRows], const PackSource<T>& source,
                           const TapAxis& row_taps, const TapAxis& column_taps, int row, int column,
                           const Compute<T>* shared, int pitch, int columns) {
  Compute<T> weights[kBlock][kPack];
  load_weights(weights, shared, pitch, columns);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int h = source.row + i * row_taps.source_step + row * row_taps.dilation;
    if (!source.has_row(h)) continue;
    Pack<T, kPack> packs[kRun + kBlock - 1];
    source.load_row(packs, h, source.column + column * column_taps.dilation, column_taps.dilation);
    add_row(sums[i], weights, packs, columns);
  }
}

// Adds one tap; columns do not slide.
template <class T, int kPack>
HANDCONV_DEVICE void add_tap(PackSums<Compute<T>, kPack> (&sums)[kRows],
                             const PackSource<T>& source, const TapAxis& row_taps,
                             const TapAxis& column_taps, int row, int column,
                             const Compute<T>* shared) {
  Compute<T> weights[1][kPack];
  load_weights(weights, shared, 0, 1);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int h = source.row + i * row_taps.source_step + row * row_taps.dilation;
    if (!source.has_row(h)) continue;
    Pack<T, kPack> packs[kRun];
    source.load_row(packs, h, source.column + column * column_taps.dilation,
                    column_taps.source_step);
    add_row(sums[i], weights, packs, 1);
  }
}

template <class T, int kPack, bool kSlides>
HANDCONV_DEVICE void add_chunk(PackSums<Compute<T>, kPack> (&sums)[kRows],
                               const PackSource<T>& source, const PackThread& at,
                               const TapChunk& chunk, const Compute<T>* shared, int pitch) {
  const Compute<T>* weights = shared + at.lane * kPack;
#pragma unroll 1
  for (int t = 0; t < chunk.rows; ++t) {
#pragma unroll 1
    for (int u = 0; u < chunk.columns;) {
      const int row = chunk.row + t, column = chunk.column + u;
      const Compute<T>* first = weights + (t * chunk.columns + u) * pitch;
      if constexpr (kSlides) {
        const int columns = chunk.columns - u < kBlock ? chunk.columns - u : kBlock;
        slide<T, kPack>(sums, source, at.rows, at.columns, row, column, first, pitch, columns);
        u += kBlock;
      } else {
        add_tap<T, kPack>(sums, source, at.rows, at.columns, row, column, first);
        ++u;
      }
    }
  }
}

template <class T, int kPack, bool kSlides>
HANDCONV_KERNEL(kPackThreads, 4)
fill_channels(PackParams p) {
  using C = Compute<T>;
  const Gather& g = p.gather;
  const PackThread at(p, kPack);
  C* shared = reinterpret_cast<C*>(shared_memory());
  C bias[kPack];
  bias_of<T>(g, at, bias);
  PackSums<C, kPack> sums[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
#pragma unroll
      for (int v = 0; v < kPack; ++v) sums[i][j][v] = bias[v];
    }
  }
  PackSource<T> source(g, at);
  for (int c = 0; c < g.source_channels; ++c, source.data += g.source_strides.channel) {
    TapChunk chunk;
    for (chunk.row = 0; chunk.row < at.rows.taps; chunk.row += p.chunk_rows) {
      for (chunk.column = 0; chunk.column < at.columns.taps; chunk.column += p.chunk_columns) {
        const int rows = at.rows.taps - chunk.row, columns = at.columns.taps - chunk.column;
        chunk.rows = rows < p.chunk_rows ? rows : p.chunk_rows;
        chunk.columns = columns < p.chunk_columns ? columns : p.chunk_columns;
        synchronize_block();
        stage_weights<T, kPack>(p, at, c, chunk, shared);
        synchronize_block();
        if (!at.exists) continue;
        add_chunk<T, kPack, kSlides>(sums, source, at, chunk, shared, weight_pitch(p.lanes, kPack));
      }
    }
  }
  if (!at.exists) return;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (at.row + i < at.rows.count) store_row<T>(p, at, at.row + i, sums[i]);
  }
}

struct Plan {
  PackParams params;
  std::int64_t blocks;
  int march;    // taps along each axis, of march_channels; 0 for fill_channels
  bool slides;  // along the columns
};

Plan make_plan(const Gather& g, int pack) {
  const AxisShape rows = axis_shape(g.rows), columns = axis_shape(g.columns);
  Plan plan{};
  PackParams& p = plan.params;
  p.gather = g;
  plan.slides = columns.slides();
  const bool square = rows.most_taps == columns.most_taps && rows.equal_taps && columns.equal_taps;
  const int taps = rows.most_taps;
  const bool marches = square && (taps == 3 || taps == 5 || taps == 7) && rows.slides() &&
                       columns.slides() && g.source_channels == 1;
  plan.march = marches ? taps : 0;
  p.row_spacing = marches ? rows.dilation : 1;
  p.column_spacing = plan.slides ? columns.dilation : 1;
  p.row_length = kRows;
  if (marches) {  // marches of the same length, about twice the halo
    const int positions = ceil_divide(rows.largest_class, p.row_spacing);
    const int longest = taps == 3 ? 8 : 2 * taps;
    p.row_length = ceil_divide(positions, ceil_divide(positions, longest));
  }
  p.row_runs = run_count(rows.largest_class, p.row_length, p.row_spacing);
  p.column_runs = run_count(columns.largest_class, kRun, p.column_spacing);
  const std::int64_t packs = g.groups * g.filled_channels / pack;
  p.lanes = power_of_two(static_cast<int>(packs), 1, 32);
  p.lane_groups = ceil_divide<std::int64_t>(packs, p.lanes);
  p.run_groups = ceil_divide<std::int64_t>(static_cast<std::int64_t>(p.row_runs) * p.column_runs,
                                           kPackThreads / p.lanes);
  plan.blocks = g.batch * p.run_groups * rows.classes * columns.classes * p.lane_groups;
  p.chunk_rows = marches || taps < kChunkRows ? taps : kChunkRows;
  p.chunk_columns = columns.most_taps < kChunkColumns ? columns.most_taps : kChunkColumns;
  return plan;
}

template <class T, int kPack>
void run_plan(const Plan& plan, void* stream) {
  const PackParams& p = plan.params;
  const std::size_t bytes =
      sizeof(Compute<T>) * p.chunk_rows * p.chunk_columns * weight_pitch(p.lanes, kPack);
  const auto start = [&](auto kernel) {
    launch("cuda.direct.depthwise.channels", kernel, plan.blocks, kPackThreads, bytes, stream, p);
  };
  if (plan.march == 3) return start(march_channels<T, kPack, 3>);
  if constexpr (kPack == 1) {
    if (plan.march == 5) return start(march_channels<T, 1, 5>);
    if (plan.march == 7) return start(march_channels<T, 1, 7>);
  }
  plan.slides ? start(fill_channels<T, kPack, true>) : start(fill_channels<T, kPack, false>);
}

}  // namespace

template <class T>
void DepthwiseChannels<T>::run(const Problem& problem, const Buffers& buffers, const Workspace&) {
  const Gather g = make_gather(problem, buffers);
  const Plan single = make_plan(g, 1);
  if constexpr (sizeof(T) < 8) {
    constexpr int kPack = 2;
    const auto aligned = [](const void* p) {
      return reinterpret_cast<std::uintptr_t>(p) % (kPack * sizeof(T)) == 0;
    };
    const bool packs = problem.layout == Layout::kNhwc && g.source_channels == 1 &&
                       g.filled_channels == 1 && g.groups % kPack == 0 && aligned(g.source) &&
                       aligned(g.filled);
    if (packs && single.march <= 3) return run_plan<T, kPack>(make_plan(g, kPack), buffers.stream);
  }
  run_plan<T, 1>(single, buffers.stream);
}

template struct DepthwiseChannels<float>;
template struct DepthwiseChannels<double>;
template struct DepthwiseChannels<Float16>;
template struct DepthwiseChannels<BFloat16>;

}  // namespace cuda
}  // namespace handconv
