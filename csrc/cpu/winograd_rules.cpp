// Who takes Winograd's tiles.

#include "cpu/integers.h"
#include "cpu/rules.h"
#include "cpu/rules_shape.h"
#include "cpu/taps.h"

namespace handconv {
namespace {

// Rows of tiles are kept as wide as the window reaches.
Refusal dilation_reaches_across(const Problem& problem) {
  for (const Axis& axis : {problem.geometry.height, problem.geometry.width}) {
    if (axis.kernel > 1 && axis.dilation > smaller(axis.input, axis.output))
      return "needs images that no dilation reaches across";
  }
  return nullptr;
}

Refusal needs_window(const Problem& problem, std::int64_t height, std::int64_t width,
                     Refusal otherwise) {
  const Geometry& g = problem.geometry;
  const bool has_window = g.height.kernel == height && g.width.kernel == width &&
                          g.height.stride == 1 && g.width.stride == 1;
  return has_window ? dilation_reaches_across(problem) : otherwise;
}

}  // namespace

Refusal needs_3x3_with_stride_1(const Problem& problem) {
  return needs_window(problem, 3, 3, "needs a 3x3 window with stride 1");
}
Refusal needs_5x5_with_stride_1(const Problem& problem) {
  return needs_window(problem, 5, 5, "needs a 5x5 window with stride 1");
}
Refusal needs_1x3_with_stride_1(const Problem& problem) {
  return needs_window(problem, 1, 3, "needs a 1x3 window with stride 1");
}
Refusal needs_3x1_with_stride_1(const Problem& problem) {
  return needs_window(problem, 3, 1, "needs a 3x1 window with stride 1");
}
Refusal needs_1x5_with_stride_1(const Problem& problem) {
  return needs_window(problem, 1, 5, "needs a 1x5 window with stride 1");
}
Refusal needs_5x1_with_stride_1(const Problem& problem) {
  return needs_window(problem, 5, 1, "needs a 5x1 window with stride 1");
}
Refusal needs_1x7_with_stride_1(const Problem& problem) {
  return needs_window(problem, 1, 7, "needs a 1x7 window with stride 1");
}
Refusal needs_7x1_with_stride_1(const Problem& problem) {
  return needs_window(problem, 7, 1, "needs a 7x1 window with stride 1");
}

namespace {

// Tiles of 4x4 round float32 more than F.conv2d's sums over few channels do, by a factor of 2.1 at
// 32 channels, 1.5 at 64 (48: 2.8 where channels differ by orders of magnitude) and 1 at 128; with
// dilation 4, whose sums it splits, 1.8 at 128 and 1.3 at 256, and with 12, where channels differ
// by orders of magnitude, 3.6; over images of 7x7 that holds from 512 on. 16-bit types round more
// at the store. Of small images the input gradient's factor is 2.7 to 4.
bool hides_rounding_of_4x4(const Problem& problem, const Shape& shape) {
  if (problem.dtype != DType::kFloat32) return true;
  if (torch_rounds_less(problem)) return false;
  const Geometry& g = problem.geometry;
  const std::int64_t dilation = larger(g.height.dilation, g.width.dilation);
  if (dilation > 4) return false;
  if (shape.side < 12) return shape.source >= 512;
  return shape.source >= (dilation > 2 ? 192 : dilation > 1 ? 128 : 64);
}

// Along an axis: products of filled and source elements that a direct kernel multiplies, which
// passes over the padding, and those of tiles of m. A dilated image is as many small ones, which
// tiles may fit badly.
std::int64_t direct_products(const Axis& axis) {
  std::int64_t products = 0;
  for (std::int64_t k = 0; k < axis.kernel; ++k) {
    const Range inside = outputs_inside(axis, k);
    products += inside.last - inside.first;
  }
  return products;
}
std::int64_t tile_products(const Problem& problem, const Axis& axis, std::int64_t m,
                           std::int64_t points) {
  const std::int64_t tiled = problem.slot == Slot::kInput ? axis.input : axis.output;
  const std::int64_t size = tiled / axis.dilation, images_of_one_more = tiled % axis.dilation;
  const std::int64_t tiles = images_of_one_more * ceil_divide(size + 1, m) +
                             (axis.dilation - images_of_one_more) * ceil_divide(size, m);
  return tiles * points;
}
std::int64_t tile_products(const Problem& problem, std::int64_t m) {
  const Geometry& g = problem.geometry;
  return tile_products(problem, g.height, m, m + 2) * tile_products(problem, g.width, m, m + 2);
}

// Images of 14x14 have so few tiles of 4x4 that only long sums make up for their transforms.
bool suits_tiles_of_4x4(const Problem& problem, const Shape& shape) {
  const std::int64_t fewest = shape.side >= 20 ? 32 : shape.side >= 12 ? 128 : 512;
  return hides_rounding_of_4x4(problem, shape) && shape.source >= fewest && shape.filled >= 32 &&
         10 * tile_products(problem, 4) < 9 * tile_products(problem, 2);
}

// Dilated images are so small that tiles of 2x2 and of 4x4 may fit them badly. Rounding is less
// than that of tiles of 4x4, and does not show beside sums over many channels; but where the window
// reaches so far that most taps see padding, F.conv2d has 2 to 2.5 times less.
bool suits_tiles_of_3x3(const Problem& problem, const Shape& shape) {
  const Geometry& g = problem.geometry;
  const std::int64_t dilation = larger(g.height.dilation, g.width.dilation);
  return dilation > 1 && shape.side >= 4 * dilation && shape.source >= 256 &&
         !suits_tiles_of_4x4(problem, shape) &&
         10 * tile_products(problem, 3) < 9 * tile_products(problem, 2);
}

constexpr Refusal kWinogradIsOff = "Winograd is switched off";

// Groups so small that the transforms of their tiles cost more than the products they save.
bool are_small_groups(const Problem& problem, const Shape& shape, int vector_bytes) {
  if (problem.geometry.groups == 1) return false;
  const bool nchw = problem.layout == Layout::kNchw;
  // Products that take twice the instructions are worth more transforms.
  const bool narrow = vector_bytes == 32 && problem.dtype == DType::kFloat32;
  const bool small_images = shape.side < (narrow ? 12 : 20);
  const bool loses_at_24 = nchw && (!narrow || shape.side >= 40);
  const std::int64_t most = small_images ? 32 : loses_at_24 ? 24 : 16;
  return shape.source <= most && shape.filled <= most;
}

constexpr Refusal kTilesFitBadly =
    "tiles would multiply hardly less: they fit badly, or many taps see padding";
bool tiles_fit_badly(const Problem& problem, std::int64_t products_of_tiles) {
  const Geometry& g = problem.geometry;
  return 3 * direct_products(g.height) * direct_products(g.width) < 4 * products_of_tiles;
}

Refusal too_small_for_winograd(const Problem& problem, const Shape& shape, std::int64_t m) {
  if (tiles_fit_badly(problem, tile_products(problem, m))) return kTilesFitBadly;
  if (shape.source < 16 || shape.filled < 16)
    return "few channels per group: transforming tiles would outweigh their products";
  return shape.side >= 7 ? nullptr : "transforming the weight would outweigh the products";
}

}  // namespace

Refusal not_for_tiles_of_2x2(const Problem& problem, int vector_bytes) {
  if (!problem.allows_winograd) return kWinogradIsOff;
  const Shape shape(problem);
  if (are_small_groups(problem, shape, vector_bytes))
    return "groups are small: their transforms outweigh the products saved";
  if (suits_tiles_of_4x4(problem, shape)) return "tiles of 4x4 do less work";
  return suits_tiles_of_3x3(problem, shape) ? "tiles of 3x3 fit the dilated images better"
                                            : too_small_for_winograd(problem, shape, 2);
}

Refusal not_for_tiles_of_3x3(const Problem& problem) {
  if (!problem.allows_winograd) return kWinogradIsOff;
  const Shape shape(problem);
  return suits_tiles_of_3x3(problem, shape) ? too_small_for_winograd(problem, shape, 3)
                                            : "tiles of 2x2 or of 4x4 fit as well";
}

Refusal not_for_tiles_of_4x4(const Problem& problem) {
  if (!problem.allows_winograd) return kWinogradIsOff;
  const Shape shape(problem);
  if (!hides_rounding_of_4x4(problem, shape)) return "few channels per group: rounding would show";
  if (const Refusal reason = too_small_for_winograd(problem, shape, 4)) return reason;
  return suits_tiles_of_4x4(problem, shape) ? nullptr : "tiles of 2x2 have less to transform";
}

// Six points give two outputs along either axis.
Refusal not_for_windows_of_5x5(const Problem& problem) {
  if (!problem.allows_winograd) return kWinogradIsOff;
  const Geometry& g = problem.geometry;
  const Shape shape(problem);
  if (tiles_fit_badly(
          problem, tile_products(problem, g.height, 2, 6) * tile_products(problem, g.width, 2, 6)))
    return kTilesFitBadly;
  const std::int64_t fewest = shape.side >= 20 ? 32 : shape.side >= 12 ? 96 : 128;
  if (smaller(shape.source, shape.filled) < fewest)
    return "few channels per group: transforming tiles would outweigh their products";
  return shape.side >= 10 ? nullptr : "transforming the weight would outweigh the products";
}

namespace {

// Along one axis: `points` products give m outputs of a tile. `least_size` is that of the image
// times its channels.
Refusal not_for_lines(const Problem& problem, std::int64_t m, std::int64_t points,
                      std::int64_t fewest_channels, std::int64_t least_size) {
  if (!problem.allows_winograd) return kWinogradIsOff;
  const Geometry& g = problem.geometry;
  const Axis& axis = g.height.kernel > 1 ? g.height : g.width;
  if (3 * direct_products(axis) < 4 * tile_products(problem, axis, m, points))
    return kTilesFitBadly;
  const Shape shape(problem);
  const std::int64_t channels = smaller(shape.source, shape.filled);
  if (channels < fewest_channels)
    return "few channels per group: transforming tiles would outweigh their products";
  const bool forward = problem.slot == Slot::kOutput;
  const std::int64_t width = forward ? g.width.output : g.width.input;
  if (width < 7) return "rows are short: a strip of tiles would be gathered from many";
  const std::int64_t area = forward ? g.output_area() : g.input_area();
  return channels * area < least_size ? "small: transforms would outweigh the products" : nullptr;
}

}  // namespace

Refusal not_for_lines_of_3(const Problem& problem) {
  return not_for_lines(problem, 4, 6, 64, 24000);
}
Refusal not_for_lines_of_5(const Problem& problem) {
  return not_for_lines(problem, 2, 6, 64, 24000);
}
// Two segments of 6 points each.
Refusal not_for_lines_of_7(const Problem& problem) {
  return not_for_lines(problem, 3, 12, 32, 32000);
}

namespace {

Refusal not_for_winograd_weights(const Problem& problem, std::int64_t m) {
  if (!problem.allows_winograd) return kWinogradIsOff;
  const Geometry& g = problem.geometry;
  if (2 * direct_products(g.height) * direct_products(g.width) < 3 * tile_products(problem, m))
    return kTilesFitBadly;
  if (smaller(g.in_channels_per_group(), g.out_channels_per_group()) < 32)
    return "few channels per group: transforming tiles would outweigh their products";
  if (smaller(g.height.output, g.width.output) < 12)
    return "few tiles: transforming the weight would outweigh their products";
  return too_large_to_convert(problem);
}

}  // namespace

Refusal not_for_weights_by_2x2(const Problem& problem) {
  if (const Refusal reason = not_for_winograd_weights(problem, 2)) return reason;
  return problem.dtype == DType::kFloat32 ? nullptr : "tiles of 4x4 do less work";
}

// F.conv2d sums in blocks over pixels: 2 to 5 times less rounding than tiles of 4x4 have.
Refusal not_for_weights_by_4x4(const Problem& problem) {
  if (const Refusal reason = not_for_winograd_weights(problem, 4)) return reason;
  return problem.dtype == DType::kFloat32 ? "rounding would show" : nullptr;
}

}  // namespace handconv
