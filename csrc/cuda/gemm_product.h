// Convolution as a matrix product over three index spaces, none of which is ever laid out:
//
//     D(m, n) = sum over k of image(m, k) * other(n, k)
//
// | slot           | image  | m                           | k                    | other | n |
// |----------------|--------|-----------------------------|----------------------|-------|----------------|
// | output, input  | source | filled pixels of one class  | source channels, taps| w     | filled
// channels| | weight         | x      | in channels, taps           | output pixels        | y |
// out channels   |
//
// for one group at a time. m and k count through up to three nested counters, and everything about
// an element is a sum over counters: its offset in the image, its offset in the other operand (k)
// or in the result (m), its row and column in the image. Outside its rows and columns an image is
// zero. So a kernel knows neither taps, nor layouts, nor which slot it fills.
#pragma once

#include "cuda/elements.h"
#include "cuda/gather.h"

namespace handconv {
namespace cuda {

// Where something lies: offsets in elements, and a position in the image.
struct Place {
  std::int64_t image;
  std::int64_t other;  // in the other operand for k, in the result for m
  int row, column;
};

struct Counter {
  int size;
  Place step;  // what a step of this counter adds
};

struct Index {
  Counter counters[3];  // the fastest first

  HANDCONV_HOST_DEVICE std::int64_t count() const {
    return std::int64_t{counters[0].size} * counters[1].size * counters[2].size;
  }
};

// An index taken apart; the slowest counter runs past its size at the end.
struct Digits {
  int values[3];
};

HANDCONV_HOST_DEVICE inline int at_most(std::int64_t count, int limit) {
  return count < limit ? static_cast<int>(count) : limit;
}

HANDCONV_DEVICE void advance(const Index& index, Digits& digits, int by) {
  int carry = by;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const int value = digits.values[i] + carry, size = index.counters[i].size;
    carry = i < 2 && value >= size ? value / size : 0;
    digits.values[i] = value - carry * size;
  }
}

// The remainder and, in `dividend`, the quotient; in 32 bits where they suffice, which is much
// faster.
HANDCONV_DEVICE int take_digit(std::int64_t& dividend, int size) {
  if (dividend >> 32 == 0) {
    const auto small = static_cast<std::uint32_t>(dividend);
    const std::uint32_t quotient = small / static_cast<std::uint32_t>(size);
    dividend = quotient;
    return static_cast<int>(small - quotient * static_cast<std::uint32_t>(size));
  }
  const auto digit = static_cast<int>(dividend % size);
  dividend /= size;
  return digit;
}

HANDCONV_DEVICE Digits digits_of(const Index& index, std::int64_t position) {
  Digits digits;
  digits.values[0] = take_digit(position, index.counters[0].size);
  digits.values[1] = take_digit(position, index.counters[1].size);
  digits.values[2] = static_cast<int>(position);
  return digits;
}

HANDCONV_DEVICE Place place_of(const Index& index, const Digits& digits) {
  Place sum{0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const Place& step = index.counters[i].step;
    const int times = digits.values[i];
    sum.image += times * step.image;
    sum.other += times * step.other;
    sum.row += times * step.row;
    sum.column += times * step.column;
  }
  return sum;
}

// The part of one product that a block computes.
struct Tile {
  Index m, k;
  Place first;  // of m = k = 0 in the image; `other` is the offset in the other operand
  int image_rows, image_columns;
  std::int64_t other_step, result_first, result_step;  // result_step, other_step: of n

  std::int64_t m_first, m_count, k_first, k_end;
  int n_first, n_count;
  int bias_first;
  int split;
};

// What the blocks of one launch are: every tile of every product, n fastest, so that blocks that
// run together read the same image.
struct TileGrid {
  std::int64_t m_tiles;
  int n_tiles, row_classes, column_classes, groups;
  int splits;  // of k; the order of a sum depends on it
  int tile_m, tile_n, step_k;

  HANDCONV_HOST_DEVICE std::int64_t blocks() const {
    return m_tiles * n_tiles * row_classes * column_classes * groups * splits;
  }
};

namespace detail {

// The steps of k that fall to a split: none if there are fewer steps than splits.
HANDCONV_DEVICE void cut_k(Tile& tile, const TileGrid& grid) {
  const std::int64_t count = tile.k.count();
  const std::int64_t steps = ceil_divide<std::int64_t>(count, grid.step_k);
  tile.k_first = steps * tile.split / grid.splits * grid.step_k;
  const std::int64_t end = steps * (tile.split + 1) / grid.splits * grid.step_k;
  tile.k_end = end < count ? end : count;
}

}  // namespace detail

// The products of a gather.
struct GatherProduct {
  Gather gather;
  TileGrid grid;
  // k runs over taps inside channels rather than channels inside taps.
  bool taps_inside;

  // The tile of a block; m_first >= m_count where the class has fewer tiles than the largest.
  HANDCONV_DEVICE void describe(std::int64_t block, Tile& tile) const {
    std::int64_t rest = block;
    tile.n_first = take_digit(rest, grid.n_tiles) * grid.tile_n;
    tile.m_first = rest % grid.m_tiles * grid.tile_m;
    rest /= grid.m_tiles;
    const AxisClass columns = gather.columns.axis_class(take_digit(rest, grid.column_classes));
    const AxisClass rows = gather.rows.axis_class(take_digit(rest, grid.row_classes));
    const int group = take_digit(rest, grid.groups);
    tile.split = static_cast<int>(rest);

    const ImageStrides &s = gather.source_strides, &f = gather.filled_strides;
    tile.m = {{{columns.count,
                {columns.source_step * s.column, columns.step * f.column, 0, columns.source_step}},
               {rows.count, {rows.source_step * s.row, rows.step * f.row, rows.source_step, 0}},
               {static_cast<int>(gather.batch), {s.sample, f.sample, 0, 0}}}};
    const Counter channel{gather.source_channels, {s.channel, gather.w_source, 0, 0}};
    const Counter column{columns.taps,
                         {columns.offset_step * s.column, columns.kernel_step * gather.w_column, 0,
                          columns.offset_step}};
    const Counter row{
        rows.taps,
        {rows.offset_step * s.row, rows.kernel_step * gather.w_row, rows.offset_step, 0}};
    tile.k.counters[0] = taps_inside ? column : channel;
    tile.k.counters[1] = taps_inside ? row : column;
    tile.k.counters[2] = taps_inside ? channel : row;
    tile.first = {group * (gather.source_channels * s.channel) + rows.offset_first * s.row +
                      columns.offset_first * s.column,
                  group * gather.w_group + rows.kernel_first * gather.w_row +
                      columns.kernel_first * gather.w_column,
                  rows.offset_first, columns.offset_first};
    tile.image_rows = gather.rows.source_size;
    tile.image_columns = gather.columns.source_size;
    tile.n_count = gather.filled_channels;
    tile.bias_first = group * gather.filled_channels;
    tile.other_step = gather.w_filled;
    tile.result_first = tile.bias_first * f.channel + rows.first * f.row + columns.first * f.column;
    tile.result_step = f.channel;
    tile.m_count = tile.m.count();
    detail::cut_k(tile, grid);
  }
};

// The products of a weight gradient. Its result is a dense (OC, KH, KW, C / groups) for each split.
struct WeightProduct {
  GeometryOf<int> geometry;  // channels may count packs of them
  ImageStrides x_strides, y_strides;
  std::int64_t y_group;  // elements from group to group of y
  int channel_pack;      // channels that one step of the m counter of channels covers
  TileGrid grid;

  HANDCONV_DEVICE void describe(std::int64_t block, Tile& tile) const {
    std::int64_t rest = block;
    tile.n_first = take_digit(rest, grid.n_tiles) * grid.tile_n;
    tile.m_first = rest % grid.m_tiles * grid.tile_m;
    rest /= grid.m_tiles;
    const int group = take_digit(rest, grid.groups);
    tile.split = static_cast<int>(rest);

    const auto& [batch, groups, in_channels, out_channels, height, width] = geometry;
    const ImageStrides &x = x_strides, &y = y_strides;
    const int in = in_channels / groups, out = out_channels / groups;
    const std::int64_t pixel = std::int64_t{in} * channel_pack;  // of the result, one tap
    tile.m = {
        {{in, {x.channel, channel_pack, 0, 0}},
         {width.kernel, {width.dilation * x.column, pixel, 0, width.dilation}},
         {height.kernel, {height.dilation * x.row, width.kernel * pixel, height.dilation, 0}}}};
    tile.k = {{{width.output, {width.stride * x.column, y.column, 0, width.stride}},
               {height.output, {height.stride * x.row, y.row, height.stride, 0}},
               {batch, {x.sample, y.sample, 0, 0}}}};
    tile.first = {group * (in * x.channel) - height.padding * x.row - width.padding * x.column,
                  group * y_group, -height.padding, -width.padding};
    tile.image_rows = height.input;
    tile.image_columns = width.input;
    tile.n_count = out;
    tile.bias_first = 0;
    tile.other_step = y.channel;
    tile.result_step = height.kernel * (width.kernel * pixel);
    tile.result_first = group * (out * tile.result_step);
    tile.m_count = tile.m.count();
    detail::cut_k(tile, grid);
  }
};

}  // namespace cuda
}  // namespace handconv
