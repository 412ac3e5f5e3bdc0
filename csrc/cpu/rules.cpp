// Whom another kernel serves better: the rules by which `auto` chooses.

#include "cpu/rules.h"

#include "cpu/integers.h"
#include "cpu/rules_shape.h"
#include "cpu/taps.h"

namespace handconv {
namespace {

// 16-bit types, which are converted where they are read.
bool is_short(const Problem& problem) {
  return problem.dtype == DType::kBFloat16 || problem.dtype == DType::kFloat16;
}

bool has_stride(const Geometry& g) { return g.height.stride > 1 || g.width.stride > 1; }

bool windows_overlap(const Geometry& g) {
  return g.height.kernel > g.height.stride || g.width.kernel > g.width.stride;
}

// As many pixels as direct.gemm packs as one.
bool few_packed_pixels(const Geometry& g) { return g.output_area() <= 84; }

// Groups that direct.broadcast is the best direct kernel for.
bool suits_broadcasts(const Problem& problem, const Shape& shape) {
  const Geometry& g = problem.geometry;
  if (g.groups == 1 || shape.filled <= 8 || needs_short_sums_and_strides(problem)) return false;
  const bool nchw = problem.layout == Layout::kNchw;
  if (has_stride(g)) {
    // Columns of a strided gradient lie apart in a plane, and are stored one by one.
    if (nchw) return problem.slot == Slot::kOutput || shape.source > 32;
    if (problem.dtype == DType::kFloat64) return false;
    // Every pixel of large images is copied for few taps; direct.channels reaches them in place.
    const std::int64_t most = shape.side < 28 ? 64 : shape.side < 56 ? 32 : 16;
    return is_short(problem) || problem.slot == Slot::kInput || shape.source <= most;
  }
  // Planes are read in place, where no element is converted for every tap.
  return !nchw || is_short(problem) || (shape.source >= 32 && g.kernel_area() > 1);
}

bool has_one_row(const Geometry& g) { return g.height.input == 1 && g.height.output == 1; }

// One channel that many filters read: the first layer of gray images, or of sound.
Refusal better_as_stem(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.groups > 1 || g.out_channels < 16) return nullptr;
  const bool nhwc = problem.layout == Layout::kNhwc;
  if (problem.slot == Slot::kWeight && g.out_channels >= 32)
    return "filters of the only channel are lanes of direct.channels";
  return problem.slot == Slot::kInput && (nhwc || has_stride(g))
             ? "fills the only plane by sums over many, which direct.planes does side by side"
             : nullptr;
}

}  // namespace

Refusal better_by_rows_or_lanes(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (const Refusal reason = better_as_stem(problem)) return reason;
  if (problem.layout == Layout::kNchw) {
    if (has_one_row(g)) return "rows of a tile would be empty: the image has one";
    return problem.slot != Slot::kWeight && g.width.output < 4 && g.height.output >= 16
               ? "columns would leave vectors empty"
               : nullptr;
  }
  return problem.slot != Slot::kWeight && g.groups < 8 && g.output_area() >= 4096
             ? "so few channels would leave vectors empty"
             : nullptr;
}

Refusal small_depthwise_kernel(const Problem& problem, int vector_bytes) {
  const Geometry& g = problem.geometry;
  const std::int64_t taps = g.kernel_area();
  if (has_one_row(g) && taps >= (problem.layout == Layout::kNhwc ? 3 : 16)) return nullptr;
  const bool is_dilated = g.height.dilation > 1 || g.width.dilation > 1;
  constexpr Refusal kFewTaps = "few taps do not pay for copying pixels";
  const bool has_many_registers = vector_bytes == 64;
  if (problem.layout == Layout::kNhwc) {
    // Dilation spreads the pixels that a strip needs over too many rows to stay in the cache, and
    // float32 has nothing to convert; but in long rows the small tiles of few registers read the
    // pixels of 7 x 7 taps too often.
    const bool is_long = g.width.output > 16 && !has_many_registers;
    const std::int64_t few = is_short(problem)                  ? (is_dilated ? 9 : 25)
                             : is_dilated                       ? 81
                             : problem.dtype != DType::kFloat32 ? 25
                             : is_long                          ? 49
                                                                : 81;
    return taps >= few ? nullptr : kFewTaps;
  }
  // Rows of NCHW are transposed, which lanes of columns need not be; but short rows leave those
  // lanes empty, few registers hold no 7 weights of a column, and short types are then converted
  // once.
  const bool is_narrow = g.width.output <= 14 && problem.dtype == DType::kFloat32;
  const std::int64_t fewest = is_short(problem) ? 25 : is_narrow || !has_many_registers ? 49 : 81;
  const bool reaches_far = g.height.dilation >= 4 && g.width.dilation >= 4 && taps >= 9;
  return taps >= fewest || reaches_far ? nullptr : kFewTaps;
}

Refusal not_for_patches(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.kernel_area() == 1) return "a patch is one pixel: there is nothing to put together";
  const bool few_channels = g.in_channels <= 4 && g.kernel_area() >= 16;
  const bool few_pixels =
      few_packed_pixels(g) && (problem.layout == Layout::kNchw || g.out_channels >= 128);
  return few_channels || few_pixels || g.kernel_area() >= 64
             ? nullptr
             : "patches are small, and other kernels fill each of their pixels by itself";
}

Refusal not_a_stem(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.in_channels > 4) return "has many input channels, which other kernels read as vectors";
  if (g.out_channels < 16) return "has too few output channels to be lanes, or rows of a tile";
  if (problem.layout == Layout::kNchw && g.width.output < 8) return "has rows of too few pixels";
  if (problem.layout == Layout::kNchw && g.kernel_area() * g.in_channels > 512)
    return "has long sums, better packed in blocks";
  return g.kernel_area() > 1 ? nullptr
                             : "has sums of so few terms that other kernels do it in place";
}

Refusal too_large_to_convert(const Problem& problem) {
  const bool in_place = problem.layout == Layout::kNhwc && !is_short(problem);
  const Geometry& g = problem.geometry;
  const std::int64_t x = g.in_channels * g.input_area(), y = g.out_channels * g.output_area();
  constexpr std::int64_t kElements = std::int64_t{1} << 24;
  return in_place || x + y <= kElements
             ? nullptr
             : "one sample is too large to be converted whole; im2col streams it";
}

namespace {

// Windows that lie side by side.
bool is_patch(const Geometry& g) {
  return g.kernel_area() > 1 && g.height.kernel == g.height.stride &&
         g.width.kernel == g.width.stride;
}

}  // namespace

// The gradient of a first layer of patches that direct.patches leaves out, as they do not cover the
// image: each pixel is in one patch at most.
Refusal fills_patches(const Problem& problem) {
  const Geometry& g = problem.geometry;
  return problem.slot == Slot::kInput && g.groups == 1 && g.in_channels <= 4 &&
                 !windows_overlap(g) && g.kernel_area() >= 64
             ? "fills large patches of few channels: im2col multiplies them whole"
             : nullptr;
}

Refusal few_channels_in_place(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
  const bool in_place = problem.layout == Layout::kNhwc && !is_short(problem);
  return in_place && smaller(in, out) <= 32 ? "so few channels are better read where they lie"
                                            : nullptr;
}

// Asked of problems that direct.pointwise can do.
Refusal better_in_blocks(const Problem& problem, int vector_bytes) {
  if (is_short(problem)) return "16-bit pixels would be converted for every chunk of channels";
  // float64 has so few lanes that packed panels are read too often, unless that is done in passes
  // which keep them in L1, as those of smaller vectors are.
  const bool reads_often = problem.dtype == DType::kFloat64 && vector_bytes == 64;
  const std::int64_t longest =
      problem.layout == Layout::kNhwc ? (reads_often ? 1024 : 2048) : (reads_often ? 160 : 1024);
  return Shape(problem).source >= longest
             ? "so long a sum is better cut into blocks that both operands stay in L2 for"
             : nullptr;
}

Refusal better_without_packing(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (const Refusal reason = fills_patches(problem)) return reason;
  const bool forward = problem.slot == Slot::kOutput, nhwc = problem.layout == Layout::kNhwc;
  const Shape shape(problem);
  if (too_large_to_convert(problem)) return nullptr;
  if (nhwc && shape.filled <= 16) return "fills too few channels to pay for packing pixels";
  const bool overlap = windows_overlap(g);
  if (!overlap && g.kernel_area() >= 16 && shape.source > 4)
    return "patches of many taps: direct.channels packs whole rows of pixels";
  if (!forward && !nhwc && has_stride(g) && (overlap || g.input_area() >= 784))
    return "direct.channels fills all columns of a row at once, whatever the stride";
  // Few pixels of channels_last are packed cheaply beside the weight, except for many taps.
  const bool many_pixels = !nhwc || !few_packed_pixels(g) || g.kernel_area() >= 16;
  // Sums of few channels a tap are short, unless strips of pixels make those of a row one.
  const bool sums_rows = nhwc || shape.source > 4 || g.kernel_area() >= 25;
  if (g.kernel_area() > 1 && overlap && many_pixels && sums_rows)
    return "taps share pixels: direct.channels packs each once for all taps";
  if (!forward && is_patch(g) && !few_packed_pixels(g) && g.output_area() <= 4096)
    return "pixels would be packed again for each of a patch";
  const bool in_place = nhwc && !is_short(problem);
  return needs_pointwise(problem) && forward && in_place && many_pixels && shape.source >= 128 &&
                 shape.filled <= 256
             ? "fills so few channels that packing pixels costs more than strips of rows do"
             : nullptr;
}

namespace {

constexpr Refusal kEnoughToBeLanes =
    "groups have enough channels to be the lanes of direct.channels";
constexpr Refusal kBetterBroadcast = "channels of a group are the lanes of direct.broadcast";

// Windows that overlap far read a pixel many times, which planes, packed once, make cheap.
bool overlap_far(const Problem& problem, const Axis& axis) {
  return problem.layout == Layout::kNchw ? axis.kernel > axis.stride
                                         : axis.kernel >= 2 * axis.stride;
}

}  // namespace

// The tile of direct.channels is then as large as that of direct.broadcast, whose items copy one
// group of every pixel.
Refusal better_as_strips_of_32_bytes(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Shape shape(problem);
  const bool few_channels = smaller(shape.source, shape.filled) < 16;
  if (g.groups == 1 || problem.dtype != DType::kFloat32 || few_channels || g.kernel_area() == 1)
    return nullptr;
  if (!has_stride(g)) return shape.side < 20 ? kEnoughToBeLanes : nullptr;
  const bool nchw = problem.layout == Layout::kNchw;
  const bool is_small = shape.side <= (nchw ? 28 : 14), is_long = shape.source >= (nchw ? 32 : 24);
  return problem.slot == Slot::kOutput || is_small || is_long ? kEnoughToBeLanes : nullptr;
}

Refusal better_without_broadcasts(const Problem& problem) {
  return suits_broadcasts(problem, Shape(problem))
             ? nullptr
             : "groups are few channels, or better off as planes or pixels in place";
}

Refusal needs_some_groups(const Problem& problem) {
  return problem.geometry.groups == 1 ? "no groups" : nullptr;
}

Refusal better_in_scratch(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (is_short(problem)) return "16-bit elements would be converted for every tap";
  if (g.groups == 1) return "no groups";
  return suits_broadcasts(problem, Shape(problem)) ? kBetterBroadcast : nullptr;
}

Refusal many_channels_per_group(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (const Refusal reason = fills_patches(problem)) return reason;
  if (suits_broadcasts(problem, Shape(problem))) return kBetterBroadcast;
  const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
  const bool strided_planes = problem.layout == Layout::kNchw && has_stride(g);
  const std::int64_t most = g.groups == 1 ? 15 : strided_planes ? 32 : 16;
  // As lanes they would leave a vector nearly empty.
  const bool fills_few =
      (problem.slot == Slot::kOutput && out <= 4) || (problem.slot == Slot::kInput && in <= 4);
  const bool is_stem = problem.slot == Slot::kOutput && in <= 4 && overlap_far(problem, g.height) &&
                       overlap_far(problem, g.width);
  return (in <= most && out <= most) || fills_few || is_stem || in == 1 ? nullptr
                                                                        : kEnoughToBeLanes;
}

Refusal many_channels_for_weights(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const std::int64_t in = g.in_channels_per_group(), out = g.out_channels_per_group();
  if (g.groups == 1 && !needs_pointwise(problem)) return "one tap makes a product of matrices";
  // Many pixels amortise what is set up for a block of few channels. Stems are better off as the
  // merged rows of direct.channels.
  const std::int64_t most = g.groups > 1 ? 32 : in <= 4 ? 0 : g.output_area() >= 512 ? 64 : 15;
  const bool few_filters = g.groups > 1 && out <= 4 && problem.layout == Layout::kNchw;
  return (in <= most && out <= most) || few_filters || (in == 1 && g.groups > 1) ? nullptr
                                                                                 : kEnoughToBeLanes;
}

}  // namespace handconv
