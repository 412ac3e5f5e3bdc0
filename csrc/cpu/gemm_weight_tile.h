// The register tile of direct.gemm for weights: the panel is packed, term after term of the sum;
// rows lie as they do in the image, side by side in every term (channels_last) or each term after
// term (planes).
//
//     target[r][lane] = start[r][lane] + sum over samples s and k < depth of
//                           rows[s * sample + (k * pitch + r, or r * pitch + k)] *
//                           panel[(s * depth + k) * lanes + lane]
//
// 8 x 3 vectors use 24 of the 32 AVX-512 registers for sums and 3 for the panel: 24 multiply-adds
// for 11 loads. With 16 registers 6 x 2 fit; 4 x 3, which leave none to spare, gained nothing.
// Tried: elements as operands in memory, as in gemm_tile.h; slower beside the prefetches.

constexpr int kPackedRows = kVectorBytes == 64 ? 8 : 6;
constexpr int kPackedVectors = kVectorBytes == 64 ? 3 : 2;

// Of a panel, which fits L1 beside the rows that pass.
constexpr std::int64_t kMostPackedTerms = kVectorBytes == 64 ? 128 : 400;

template <class C>
struct PackedTile {
  const C* rows;
  std::int64_t pitch, sample;  // of the rows
  const C* panel;
  std::int64_t samples, depth;
  const C* start;  // null for zeros
  std::int64_t start_step;
  C* target;
  std::int64_t target_step;
  Mask<C> tail;  // lanes of the last vector that are stored
};

template <class C, int R, int V, bool kRowsAdjoin>
[[gnu::noinline]] void multiply_packed(const PackedTile<C>& tile) {
  constexpr std::int64_t kTermsAhead = 8;
  // Longer sums in float32 would have more than twice the error of F.conv2d. Wide vectors have
  // short panels, which need no more blocks.
  constexpr bool kNeedsBlocks = std::is_same_v<C, float> && kVectorBytes < 64;
  constexpr std::int64_t kTerms = kNeedsBlocks ? 72 : kMostPackedTerms;
  BlockedTile<C, R, V, kTerms> blocked;
  auto& sums = blocked.block.sums;
  blocked.block.start_at_zero();
  // From L2, while the sums run.
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v)
      __builtin_prefetch(tile.target + r * tile.target_step + v * kLanes<C>, 1);
  }
  const std::int64_t blocks = ceil_divide(tile.depth, kTerms);
  const std::int64_t block_terms = blocks > 1 ? ceil_divide(tile.depth, blocks) : tile.depth;
  const std::int64_t pitch = tile.pitch;
  const C* panel = tile.panel;
  for (std::int64_t s = 0; s < tile.samples; ++s) {
    const C *first = tile.rows + s * tile.sample, *fifth = first + 5 * pitch;
    const auto add_term = [&](std::int64_t k) __attribute__((always_inline)) {
      Vector<C> lanes[V];
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) lanes[v] = in_register(load(panel + (k * V + v) * kLanes<C>));
      if (kRowsAdjoin) __builtin_prefetch(first + (k + kTermsAhead) * pitch);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vector<C> element = in_register(broadcast(
            kRowsAdjoin ? first[k * pitch + r] : (r < 5 ? first : fifth)[r % 5 * pitch + k]));
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) add_product(sums[r][v], element, lanes[v]);
      }
    };
    const std::int64_t step = 2 * (kRowsAdjoin ? pitch : 1);
    for (std::int64_t left = tile.depth, count; left > 0; left -= count) {
      count = smaller(left, block_terms);
      blocked.expect_terms(count);
      for (std::int64_t pairs = count / 2; pairs > 0; --pairs) {
        add_term(0);
        add_term(1);
        first += step, fifth += step, panel += 2 * V * kLanes<C>;
      }
      if (count % 2 == 1) {
        add_term(0);
        first += step / 2, fifth += step / 2, panel += V * kLanes<C>;
      }
    }
  }
  blocked.finish();
  const C* start = tile.start;
  C* target = tile.target;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r, target += tile.target_step) {
    if (start) {
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sums[r][v] += load(start + v * kLanes<C>);
      start += tile.start_step;
    }
#pragma GCC unroll 3
    for (int v = 0; v < V - 1; ++v) store(target + v * kLanes<C>, sums[r][v]);
    store_masked(target + (V - 1) * kLanes<C>, sums[r][V - 1], tile.tail);
  }
}

template <class C, int V, bool kRowsAdjoin, int... R>
inline void multiply_packed_rows(std::int64_t rows, const PackedTile<C>& tile,
                                 std::integer_sequence<int, R...>) {
  using Multiply = void (*)(const PackedTile<C>&);
  static constexpr Multiply kByRows[] = {multiply_packed<C, R + 1, V, kRowsAdjoin>...};
  kByRows[rows - 1](tile);
}

// The tile of that many rows, at most kPackedRows, and vectors, at most kPackedVectors.
template <bool kRowsAdjoin, class C>
inline void multiply_packed(std::int64_t rows, std::int64_t vectors, const PackedTile<C>& tile) {
  constexpr std::make_integer_sequence<int, kPackedRows> counts;
  if constexpr (kPackedVectors == 3) {
    if (vectors == 3) return multiply_packed_rows<C, 3, kRowsAdjoin>(rows, tile, counts);
  }
  if (vectors == 2) return multiply_packed_rows<C, 2, kRowsAdjoin>(rows, tile, counts);
  multiply_packed_rows<C, 1, kRowsAdjoin>(rows, tile, counts);
}
