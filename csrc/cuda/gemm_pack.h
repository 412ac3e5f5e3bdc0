// The first launches of the tensor core kernels: tensors whose channels are not whole, aligned
// packs are copied into such, channels innermost and filled up with zeros. Weights always are,
// since they may lie in any order.
#pragma once

#include "cuda/gather.h"
#include "cuda/gemm_plan.h"

namespace handconv {
namespace cuda {

// packed[a, b, row, column, channel] = source[a, b, row, column, channel], or 0 for the channels
// that fill the last pack: (sample, group, row, column, channel) of an image, (group, filled
// channel, tap row, tap column, source channel) of a weight.
template <class T>
struct Packing {
  const T* source;
  T* packed;
  std::int64_t b_count, columns, positions;  // positions: rows * columns
  int channels, padded_channels;
  std::int64_t source_a, source_b, source_row, source_column, source_channel;
  std::int64_t packed_a, packed_b, packed_position;
  std::int64_t position_tiles;
  int channel_tiles;
};

constexpr int kPackTile = 32, kPackThreads = 256;

// A block turns 32 positions x 32 channels around through shared memory, so that it reads along
// whichever is contiguous and writes along channels. Moves each element once in and once out.
template <class T>
HANDCONV_KERNEL(kPackThreads, 4)
pack_channels(Packing<T> p) {
  constexpr int kPitch = kPackTile + 1;
  T* tile = reinterpret_cast<T*>(shared_memory());
  std::int64_t rest = block_index();
  const int channel_first = static_cast<int>(rest % p.channel_tiles) * kPackTile;
  rest /= p.channel_tiles;
  const std::int64_t position_first = rest % p.position_tiles * kPackTile;
  rest /= p.position_tiles;
  const std::int64_t b = rest % p.b_count, a = rest / p.b_count;

  const T* source = p.source + a * p.source_a + b * p.source_b;
  const int fast = thread_index() % kPackTile, slow = thread_index() / kPackTile;
  const bool along_channels = p.source_channel <= p.source_column;
#pragma unroll
  for (int i = 0; i < kPackTile; i += kPackThreads / kPackTile) {
    const int channel = along_channels ? fast : slow + i;
    const int place = along_channels ? slow + i : fast;
    const std::int64_t position = position_first + place;
    if (position >= p.positions) continue;
    const std::int64_t row = position / p.columns, column = position % p.columns;
    const bool exists = channel_first + channel < p.channels;
    tile[place * kPitch + channel] = exists ? source[row * p.source_row + column * p.source_column +
                                                     (channel_first + channel) * p.source_channel]
                                            : T{};
  }
  synchronize_block();
  T* packed = p.packed + a * p.packed_a + b * p.packed_b;
#pragma unroll
  for (int i = 0; i < kPackTile; i += kPackThreads / kPackTile) {
    const std::int64_t position = position_first + slow + i;
    if (position >= p.positions || channel_first + fast >= p.padded_channels) continue;
    packed[position * p.packed_position + channel_first + fast] = tile[(slow + i) * kPitch + fast];
  }
}

template <class T>
void launch_pack(Packing<T> packing, std::int64_t a_count, void* stream) {
  packing.position_tiles = ceil_divide<std::int64_t>(packing.positions, kPackTile);
  packing.channel_tiles =
      static_cast<int>(ceil_divide<std::int64_t>(packing.padded_channels, kPackTile));
  const std::int64_t blocks =
      a_count * packing.b_count * packing.position_tiles * packing.channel_tiles;
  launch("cuda.direct.gemm: pack_channels", pack_channels<T>, blocks, kPackThreads,
         kPackTile * (kPackTile + 1) * sizeof(T), stream, packing);
}

// An image as the tensor core kernels read it: strides of whole packs of channels.
struct PackedImage {
  int packs;             // of one group
  ImageStrides strides;  // `channel` is that of a pack
  std::int64_t group;
};

template <class T>
constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

// Whether groups of channels are whole packs in memory as they are.
template <class T>
bool has_whole_packs(Layout layout, std::int64_t channels_per_group) {
  return layout == Layout::kNhwc && channels_per_group % kPackSize<T> == 0;
}

template <class T>
PackedImage packed_image(std::int64_t channels_per_group, std::int64_t groups, std::int64_t rows,
                         std::int64_t columns) {
  const std::int64_t packs = ceil_divide<std::int64_t>(channels_per_group, kPackSize<T>);
  ImageStrides strides = image_strides(Layout::kNhwc, groups * packs * kPackSize<T>, rows, columns);
  strides.channel = kPackSize<T>;
  return {static_cast<int>(packs), strides, packs * kPackSize<T>};
}

template <class T>
void pack_image(const void* source, const ImageStrides& from, T* packed, const PackedImage& to,
                std::int64_t batch, std::int64_t groups, std::int64_t channels_per_group,
                std::int64_t rows, std::int64_t columns, void* stream) {
  Packing<T> p{};
  p.source = static_cast<const T*>(source);
  p.packed = packed;
  p.b_count = groups;
  p.columns = columns;
  p.positions = rows * columns;
  p.channels = static_cast<int>(channels_per_group);
  p.padded_channels = to.packs * kPackSize<T>;
  p.source_a = from.sample;
  p.source_b = channels_per_group * from.channel;
  p.source_row = from.row;
  p.source_column = from.column;
  p.source_channel = from.channel;
  p.packed_a = to.strides.sample;
  p.packed_b = to.group;
  p.packed_position = to.strides.column;
  launch_pack(p, batch, stream);
}

// The weight of a gather as (group, filled channel, tap row, tap column, source channel).
template <class T>
void pack_weight(const Gather& gather, T* packed, void* stream) {
  Packing<T> p{};
  p.source = static_cast<const T*>(gather.w);
  p.packed = packed;
  p.b_count = gather.filled_channels;
  p.columns = gather.columns.kernel_size;
  p.positions = std::int64_t{gather.rows.kernel_size} * gather.columns.kernel_size;
  p.channels = gather.source_channels;
  p.padded_channels =
      static_cast<int>(ceil_divide<std::int64_t>(gather.source_channels, kPackSize<T>)) *
      kPackSize<T>;
  p.source_a = gather.w_group;
  p.source_b = gather.w_filled;
  p.source_row = gather.w_row;
  p.source_column = gather.w_column;
  p.source_channel = gather.w_source;
  p.packed_position = p.padded_channels;
  p.packed_b = p.positions * p.packed_position;
  p.packed_a = p.b_count * p.packed_b;
  launch_pack(p, gather.groups, stream);
}

}  // namespace cuda
}  // namespace handconv
