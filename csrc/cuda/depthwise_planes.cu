// Depthwise convolution and its transpose in NCHW.
//
// Tile: 64 columns x 32 rows of one plane of one class pair (see gather.h), or several planes where
// they are smaller, by 128 threads; a thread sums 2 columns x 8 rows in registers. The source with
// its halo is staged in shared memory as Compute<T>: (64 + k - 1) (32 + k - 1) elements for step 1,
// so global memory gives 1.10 (3x3) to 1.30 (7x7) elements for each that is filled, all but 1 out
// of L2. Of shared memory a tap takes (8 + k - 1) / 8 source reads a column of k taps, where rows
// slide, and else one read. Registers: 16 sums, k weights of a column of taps and a staging
// batch, at most 128: 4 blocks of a multiprocessor (double 168: 3 blocks); shared memory, 10 KB for
// 3x3 and 12 KB for 7x7 of float, allows more.

#include "cuda/depthwise.h"
#include "cuda/depthwise_tile.h"

namespace handconv {
namespace cuda {
namespace {

constexpr int kThreads = kTileThreads;

struct PlanesParams {
  Gather gather;
  PlaneTile tile;
  int weight_pitch;  // taps of a column in shared memory
  int weight_size;   // weights of a plane in shared memory
  std::int64_t planes;
};

// What the threads of a block share about a plane: offsets into source, w and what is filled.
struct PlaneOffsets {
  std::int64_t* source;  // -1 if the plane does not exist
  std::int64_t* weight;
  std::int64_t* filled;
  std::int64_t* channel;
};

// The shared memory of a block: sources and weights first, for their alignment.
template <class C>
struct PlanesMemory {
  C* source;
  C* weights;
  PlaneOffsets offsets;

  HANDCONV_DEVICE explicit PlanesMemory(const PlanesParams& p) {
    weights = reinterpret_cast<C*>(shared_memory());
    source = weights + p.tile.planes * p.weight_size;
    std::byte* end = shared_memory() + round_up(static_cast<int>(sizeof(C)) * p.tile.planes *
                                                    (p.weight_size + p.tile.plane_size),
                                                8);
    offsets.source = reinterpret_cast<std::int64_t*>(end);
    offsets.weight = offsets.source + p.tile.planes;
    offsets.filled = offsets.weight + p.tile.planes;
    offsets.channel = offsets.filled + p.tile.planes;
  }
};
template <class C>
std::size_t shared_bytes(const PlanesParams& p) {
  return p.tile.planes *
             ((p.weight_size + p.tile.plane_size) * sizeof(C) + 4 * sizeof(std::int64_t)) +
         8;
}

// What a block fills: a tile of a class pair, in planes from `plane` on.
struct PlanesBlock {
  TapAxis rows, columns;
  std::int64_t plane;
  int row, column;  // the first positions

  HANDCONV_DEVICE explicit PlanesBlock(const PlanesParams& p) {
    const Gather& g = p.gather;
    std::int64_t index = block_index();
    const auto take = [&index](int count) {
      const int part = static_cast<int>(index % count);
      index /= count;
      return part;
    };
    columns = ascending_taps(g.columns.axis_class(take(g.columns.classes())));
    rows = ascending_taps(g.rows.axis_class(take(g.rows.classes())));
    column = take(p.tile.column_tiles) * p.tile.columns;
    row = take(p.tile.row_tiles) * p.tile.rows;
    plane = index * p.tile.planes;
  }
  // Positions of the tile that exist; not positive if none does.
  HANDCONV_DEVICE int row_count(const PlaneTile& tile) const {
    return rows.count - row < tile.rows ? rows.count - row : tile.rows;
  }
  HANDCONV_DEVICE int column_count(const PlaneTile& tile) const {
    return columns.count - column < tile.columns ? columns.count - column : tile.columns;
  }
  HANDCONV_DEVICE bool has_taps() const { return rows.taps > 0 && columns.taps > 0; }
  HANDCONV_DEVICE StagedWindow window(const PlanesParams& p) const {
    const ImageStrides& s = p.gather.source_strides;
    return {row * rows.source_step + rows.offset,
            column * columns.source_step + columns.offset,
            (row_count(p.tile) - 1) * rows.source_step + (rows.taps - 1) * rows.dilation + 1,
            (column_count(p.tile) - 1) * columns.source_step +
                (columns.taps - 1) * columns.dilation + 1,
            p.gather.rows.source_size,
            p.gather.columns.source_size,
            s.row,
            s.column};
  }
};

HANDCONV_DEVICE void find_planes(const PlanesParams& p, std::int64_t first,
                                 const PlaneOffsets& offsets) {
  const Gather& g = p.gather;
  const int i = thread_index();
  if (i >= p.tile.planes) return;
  const std::int64_t plane = first + i;
  const std::int64_t channel = plane % (g.groups * g.filled_channels);
  const std::int64_t n = plane / (g.groups * g.filled_channels);
  const std::int64_t group = channel / g.filled_channels;
  offsets.source[i] = plane < p.planes ? n * g.source_strides.sample +
                                             group * g.source_channels * g.source_strides.channel
                                       : -1;
  offsets.weight[i] = group * g.w_group + channel % g.filled_channels * g.w_filled;
  offsets.filled[i] = n * g.filled_strides.sample + channel * g.filled_strides.channel;
  offsets.channel[i] = channel;
}

// Weights in shared memory: [plane][column tap][row tap, up to weight_pitch].
template <class T>
HANDCONV_DEVICE void stage_weights(const PlanesParams& p, const PlanesBlock& block, int source,
                                   const PlanesMemory<Compute<T>>& memory) {
  const Gather& g = p.gather;
  const T* w = static_cast<const T*>(g.w);
  const int total = p.tile.planes * block.rows.taps * block.columns.taps;
  GridWalk at(thread_index(), kThreads, block.rows.taps, block.columns.taps);
  for (int i = thread_index(); i < total; i += kThreads, at.advance()) {
    if (memory.offsets.source[at.a] < 0) continue;
    memory.weights[at.a * p.weight_size + at.c * p.weight_pitch + at.b] =
        to_compute(w[memory.offsets.weight[at.a] + source * g.w_source +
                     block.rows.kernel(at.b) * g.w_row + block.columns.kernel(at.c) * g.w_column]);
  }
}

template <class C>
using RunSums = C[kRunColumns][kRunRows];

// sums[c][j] += sum over t < kBlock of weights[t] * source[c * distance + (j + t) * pitch]. Where
// the block is not exact, only `taps` of its taps exist.
template <int kBlock, bool kExact, class C>
HANDCONV_DEVICE void slide(RunSums<C>& sums, const C* source, int pitch, int distance,
                           const C* shared_weights, int taps) {
  C weights[kBlock];
  load_weights(weights, shared_weights);
#pragma unroll
  for (int q = 0; q < kRunRows + kBlock - 1; ++q) {
    if (!kExact && q >= kRunRows + taps - 1) break;
#pragma unroll
    for (int c = 0; c < kRunColumns; ++c) {
      const C value = source[q * pitch + c * distance];
#pragma unroll
      for (int t = 0; t < kBlock; ++t) {
        const int j = q - t;
        if (0 <= j && j < kRunRows && (kExact || t < taps)) sums[c][j] += weights[t] * value;
      }
    }
  }
}

// The taps of one column of the kernel. kTaps > 0: exactly as many row taps, sliding; else any
// number, in blocks of eight if the rows slide.
template <int kTaps, bool kSlides, class C>
HANDCONV_DEVICE void add_column(RunSums<C>& sums, const C* source, int distance, const C* weights,
                                const TapAxis& rows, int pitch) {
  if constexpr (kTaps > 0) {
    slide<kTaps, true>(sums, source, rows.dilation * pitch, distance, weights, kTaps);
  } else if constexpr (kSlides) {
    const int tap_pitch = rows.dilation * pitch;
    int t = 0;
    for (; t + 8 <= rows.taps; t += 8) {
      slide<8, true>(sums, source + t * tap_pitch, tap_pitch, distance, weights + t, 8);
    }
    if (t < rows.taps) {
      slide<8, false>(sums, source + t * tap_pitch, tap_pitch, distance, weights + t,
                      rows.taps - t);
    }
  } else {
    for (int t = 0; t < rows.taps; ++t) {
      const C weight = weights[t];
#pragma unroll
      for (int c = 0; c < kRunColumns; ++c) {
#pragma unroll
        for (int j = 0; j < kRunRows; ++j) {
          sums[c][j] +=
              weight * source[(j * rows.source_step + t * rows.dilation) * pitch + c * distance];
        }
      }
    }
  }
}

template <class T>
HANDCONV_DEVICE void store_run(const PlanesParams& p, const PlanesBlock& block,
                               const PlaneThread& at, const RunSums<Compute<T>>& sums,
                               std::int64_t offset) {
  const ImageStrides& s = p.gather.filled_strides;
  T* filled = static_cast<T*>(p.gather.filled) + offset;
  const int row_count = block.row_count(p.tile) - at.row;
#pragma unroll
  for (int j = 0; j < kRunRows; ++j) {
    if (j * p.tile.row_spacing >= row_count) break;
    const int row = block.rows.filled(block.row + at.row + j * p.tile.row_spacing);
#pragma unroll
    for (int c = 0; c < kRunColumns; ++c) {
      const int column = at.column + c * p.tile.column_threads;
      if (column >= block.column_count(p.tile)) continue;
      filled[row * s.row + block.columns.filled(block.column + column) * s.column] =
          from_compute<T>(sums[c][j]);
    }
  }
}

template <class T, int kTaps, bool kSlides>
HANDCONV_KERNEL(kThreads, sizeof(T) == 8 ? 3 : 4)
fill_planes(PlanesParams p) {
  using C = Compute<T>;
  const Gather& g = p.gather;
  const PlanesBlock block(p);
  const PlanesMemory<C> memory(p);
  if (block.row_count(p.tile) <= 0 || block.column_count(p.tile) <= 0) return;
  find_planes(p, block.plane, memory.offsets);
  synchronize_block();

  const PlaneThread at = plane_thread(p.tile, thread_index());
  const bool exists = at.plane < p.tile.planes && memory.offsets.source[at.plane] >= 0;
  const bool fills =
      exists && at.row < block.row_count(p.tile) && at.column < block.column_count(p.tile);
  C bias = 0;
  if (fills && g.bias) {
    bias = to_compute(static_cast<const T*>(g.bias)[memory.offsets.channel[at.plane]]);
  }
  RunSums<C> sums;
#pragma unroll
  for (int c = 0; c < kRunColumns; ++c) {
#pragma unroll
    for (int j = 0; j < kRunRows; ++j) sums[c][j] = bias;
  }

  for (int source = 0; block.has_taps() && source < g.source_channels; ++source) {
    if (source > 0) synchronize_block();
    stage_weights<T>(p, block, source, memory);
    stage_window<T>(memory.source, p.tile, static_cast<const T*>(g.source), memory.offsets.source,
                    source * g.source_strides.channel, block.window(p));
    synchronize_block();
    if (!fills) continue;
    const C* staged = memory.source + at.plane * p.tile.plane_size +
                      at.row * block.rows.source_step * p.tile.pitch +
                      at.column * block.columns.source_step;
    const C* weights = memory.weights + at.plane * p.weight_size;
    const int distance = p.tile.column_threads * block.columns.source_step;
#pragma unroll 1
    for (int u = 0; u < block.columns.taps; ++u) {
      add_column<kTaps, kSlides>(sums, staged + u * block.columns.dilation, distance,
                                 weights + u * p.weight_pitch, block.rows, p.tile.pitch);
    }
  }
  if (fills) store_run<T>(p, block, at, sums, memory.offsets.filled[at.plane]);
}

PlaneAxis plane_axis(const AxisShape& shape) {
  return {shape.largest_class, shape.source_step, shape.most_taps, shape.dilation, shape.slides()};
}

// A choice of the tile and of the kernel, by the shape alone.
struct Plan {
  PlanesParams params;
  std::int64_t blocks;
  int taps;  // of the kernels made for one number of row taps; else 0
  bool slides;
};

template <class T>
Plan make_plan(const Gather& g) {
  const AxisShape rows = axis_shape(g.rows), columns = axis_shape(g.columns);
  const int row_taps = round_up(rows.most_taps, 8);
  const std::int64_t weights = std::int64_t{row_taps} * columns.most_taps;
  const PlaneTile tile =
      choose_tile(plane_axis(rows), plane_axis(columns), weights, sizeof(Compute<T>));
  const std::int64_t planes = g.batch * g.groups * g.filled_channels;
  Plan plan{{g, tile, row_taps, static_cast<int>(weights), planes}, 0, 0, false};
  if (tile.planes == 0) return plan;
  plan.blocks = ceil_divide<std::int64_t>(planes, tile.planes) * tile.row_tiles *
                tile.column_tiles * rows.classes * columns.classes;
  plan.slides = rows.slides() && tile.row_spacing == rows.dilation;
  const bool known = rows.most_taps == 3 || rows.most_taps == 5 || rows.most_taps == 7;
  if (plan.slides && rows.equal_taps && known) plan.taps = rows.most_taps;
  return plan;
}

}  // namespace

template <class T>
void DepthwisePlanes<T>::run(const Problem& problem, const Buffers& buffers,
                             const Workspace& workspace) {
  const Plan plan = make_plan<T>(make_gather(problem, buffers));
  if (plan.params.tile.planes == 0) {  // a halo beyond shared memory
    return DepthwiseChannels<T>::run(problem, buffers, workspace);
  }
  const auto start = [&](auto kernel) {
    launch("cuda.direct.depthwise.planes", kernel, plan.blocks, kThreads,
           shared_bytes<Compute<T>>(plan.params), buffers.stream, plan.params);
  };
  if (!plan.slides) return start(fill_planes<T, 0, false>);
  switch (plan.taps) {
    case 3:
      return start(fill_planes<T, 3, true>);
    case 5:
      return start(fill_planes<T, 5, true>);
    case 7:
      return start(fill_planes<T, 7, true>);
    default:
      return start(fill_planes<T, 0, true>);
  }
}

template struct DepthwisePlanes<float>;
template struct DepthwisePlanes<double>;
template struct DepthwisePlanes<Float16>;
template struct DepthwisePlanes<BFloat16>;

}  // namespace cuda
}  // namespace handconv
