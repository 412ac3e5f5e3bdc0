// Who takes which problem: the table's predicates, the same for every instruction set. Each returns
// the reason of a refusal, or null.
#pragma once

#include "table.h"

namespace handconv {

// What a kernel cannot do.
Refusal never_refuse(const Problem& problem);
Refusal needs_nchw_and_depthwise(const Problem& problem);
Refusal needs_nhwc_and_depthwise(const Problem& problem);
Refusal needs_depthwise_with_stride_1(const Problem& problem);
Refusal needs_one_group(const Problem& problem);
Refusal needs_whole_windows(const Problem& problem);
Refusal needs_patches(const Problem& problem);
Refusal needs_3x3_with_stride_1(const Problem& problem);
Refusal needs_5x5_with_stride_1(const Problem& problem);
Refusal needs_1x3_with_stride_1(const Problem& problem);
Refusal needs_3x1_with_stride_1(const Problem& problem);
Refusal needs_1x5_with_stride_1(const Problem& problem);
Refusal needs_5x1_with_stride_1(const Problem& problem);
Refusal needs_1x7_with_stride_1(const Problem& problem);
Refusal needs_7x1_with_stride_1(const Problem& problem);
Refusal needs_rows_alike(const Problem& problem);
Refusal needs_short_sums_and_strides(const Problem& problem);
Refusal needs_pointwise(const Problem& problem);
Refusal needs_one_tap(const Problem& problem);
Refusal needs_nhwc_and_groups_that_fill(const Problem& problem, int lanes);

// What a later row does better.
Refusal better_by_rows_or_lanes(const Problem& problem);
Refusal small_depthwise_kernel(const Problem& problem, int vector_bytes);
Refusal not_for_patches(const Problem& problem);
Refusal not_a_stem(const Problem& problem);
Refusal too_large_to_convert(const Problem& problem);
Refusal fills_patches(const Problem& problem);
Refusal better_in_blocks(const Problem& problem, int vector_bytes);
Refusal better_without_packing(const Problem& problem);
Refusal better_as_strips_of_32_bytes(const Problem& problem);
Refusal better_without_broadcasts(const Problem& problem);
Refusal needs_some_groups(const Problem& problem);
Refusal few_channels_in_place(const Problem& problem);
Refusal better_in_scratch(const Problem& problem);
Refusal many_channels_per_group(const Problem& problem);
Refusal many_channels_for_weights(const Problem& problem);
Refusal not_for_tiles_of_2x2(const Problem& problem, int vector_bytes);
Refusal not_for_tiles_of_3x3(const Problem& problem);
Refusal not_for_tiles_of_4x4(const Problem& problem);
Refusal not_for_windows_of_5x5(const Problem& problem);
Refusal not_for_lines_of_3(const Problem& problem);
Refusal not_for_lines_of_5(const Problem& problem);
Refusal not_for_lines_of_7(const Problem& problem);
Refusal not_for_weights_by_2x2(const Problem& problem);
Refusal not_for_weights_by_4x4(const Problem& problem);

// A rule, and with vectors of 32 bytes that of strips before it.
template <int vector_bytes, Refusal (*rule)(const Problem&)>
Refusal strips_or(const Problem& problem) {
  const Refusal strips = vector_bytes == 32 ? better_as_strips_of_32_bytes(problem) : nullptr;
  return strips ? strips : rule(problem);
}

}  // namespace handconv
