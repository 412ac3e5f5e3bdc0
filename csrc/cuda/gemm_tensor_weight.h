// The weight gradient on tensor cores: see gemm_tensor_cores.h.
#pragma once

#include "cuda/gemm_tensor_cores.h"

namespace handconv {
namespace cuda {

// Registers do not suffice for the fragments of TF32 in a wide tile: each comes by loads of its
// own.
template <class T>
constexpr int kWideWeightTile = std::is_same_v<T, float> ? 64 : 128;
template <class T>
constexpr int kStepPixels = kStepPacks * kPackSize<T>;  // 32, or 16 for TF32

// Pack `pack` of row k: the packs of eight rows (16-bit), or the elements of four (TF32), that a
// warp reads at once lie in different banks.
template <class T, int kSide>
HANDCONV_DEVICE int pack_along_side(int k, int pack) {
  const int mixed = std::is_same_v<T, float> ? pack ^ (k & 3) << 1 : pack ^ (k & 7);
  return (k * (kSide / kPackSize<T>)+mixed) * kPackBytes;
}

template <class T, int kSide>
HANDCONV_DEVICE std::uint32_t element_bits(const std::byte* rows, int k, int side) {
  return *reinterpret_cast<const std::uint32_t*>(
      rows + pack_along_side<T, kSide>(k, side / kPackSize<T>) + side % kPackSize<T> * 4);
}

// A fragment of 16 rows m, two packs of k deep. 16-bit types go through transposed matrices, k rows
// by m; TF32 has no such instruction.
template <class T>
HANDCONV_DEVICE void load_image_fragment(std::uint32_t (&a)[4], const std::byte* rows, int m,
                                         int depth) {
  const int lane = thread_index() % 32;
  if constexpr (std::is_same_v<T, float>) {
    const int k = depth * kPackSize<T> + lane % 4;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      a[r] = element_bits<T, kTileM>(rows, k + r / 2 * 4, m + lane / 4 + r % 2 * 8);
    }
  } else {
    const int k = depth * kPackSize<T> + lane % 8 + lane / 16 * 8;
    load_matrices_transposed(a, rows + pack_along_side<T, kTileM>(k, m / 8 + lane / 8 % 2));
  }
}

// Two fragments of 8 rows n each.
template <class T, int kN>
HANDCONV_DEVICE void load_other_fragments(std::uint32_t (&b)[4], const std::byte* rows, int n,
                                          int depth) {
  const int lane = thread_index() % 32;
  if constexpr (std::is_same_v<T, float>) {
    const int k = depth * kPackSize<T> + lane % 4;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      b[r] = element_bits<T, kN>(rows, k + r % 2 * 4, n + lane / 4 + r / 2 * 8);
    }
  } else {
    const int k = depth * kPackSize<T> + lane % 8 + lane / 8 % 2 * 8;
    load_matrices_transposed(b, rows + pack_along_side<T, kN>(k, n / 8 + lane / 16));
  }
}

template <class T, int kN>
HANDCONV_DEVICE void multiply_weight_step(TensorSums<kN>& sums, const std::byte* image,
                                          const std::byte* other, const WarpTile<kN>& warp) {
  constexpr int kAtOnce = kBlocksAtOnce<T, kN>;
#pragma unroll
  for (int depth = 0; depth < kStepPacks; depth += 2) {
    OtherFragments b;
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      std::uint32_t two[4];
      load_other_fragments<T, kN>(two, other, warp.n + j * 8, depth);
      b[j][0] = two[0], b[j][1] = two[1], b[j + 1][0] = two[2], b[j + 1][1] = two[3];
    }
    round_fragments<T>(b);
#pragma unroll
    for (int first = 0; first < WarpTile<kN>::kBlocksM; first += kAtOnce) {
      std::uint32_t a[kAtOnce][4];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        load_image_fragment<T>(a[i], image, warp.m + (first + i) * 16, depth);
      }
      round_fragments<T>(a);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) multiply_row<T>(sums[first + i], a[i], b);
    }
  }
}

// The packs of one step that a thread copies: one column of packs, several pixels, of both
// operands.
template <class T, int kN>
struct WeightCopies {
  static constexpr int kImagePacks = kTileM / kPackSize<T>, kOtherPacks = kN / kPackSize<T>;
  static constexpr int kImagePixels = kTensorThreads / kImagePacks;  // at once
  static constexpr int kOtherPixels = kTensorThreads / kOtherPacks;
  const T* image;
  const T* other;
  int row, column, image_pack, other_pack;
  bool other_exists;

  HANDCONV_DEVICE WeightCopies(const Tile& tile, const T* image_base, const T* other_base) {
    image_pack = thread_index() % kImagePacks;
    other_pack = thread_index() % kOtherPacks;
    const std::int64_t m = tile.m_first + image_pack;
    const Place place = place_of(tile.m, digits_of(tile.m, m));
    image = image_base + tile.first.image + place.image;
    row = m < tile.m_count ? tile.first.row + place.row : kOutside;
    column = tile.first.column + place.column;
    const int n = tile.n_first + other_pack * kPackSize<T>;
    other = other_base + tile.first.other + n;
    other_exists = n < tile.n_count;
  }

  HANDCONV_DEVICE void start(const Tile& tile, const Place* k_places, std::byte* stage,
                             int k_left) const {
    const auto rows = static_cast<unsigned>(tile.image_rows);
    const auto columns = static_cast<unsigned>(tile.image_columns);
#pragma unroll
    for (int i = 0; i < kStepPixels<T> / kImagePixels; ++i) {
      const int k = thread_index() / kImagePacks + i * kImagePixels;
      const Place& place = k_places[k];
      const bool exists = k < k_left && static_cast<unsigned>(row + place.row) < rows &&
                          static_cast<unsigned>(column + place.column) < columns;
      copy_async<kPackBytes>(stage + pack_along_side<T, kTileM>(k, image_pack), image + place.image,
                             exists);
    }
    stage += kTileM * kStepPacks * kPackBytes;
#pragma unroll
    for (int i = 0; i < kStepPixels<T> / kOtherPixels; ++i) {
      const int k = thread_index() / kOtherPacks + i * kOtherPixels;
      copy_async<kPackBytes>(stage + pack_along_side<T, kN>(k, other_pack),
                             other + k_places[k].other, k < k_left && other_exists);
    }
  }
};

// The tile, a quad of in channels a time, into the parts.
template <class View, class T, int kN>
HANDCONV_DEVICE void store_weight_parts(const TensorParams<View, T>& p,
                                        const TensorMemory<kN>& memory) {
  const Tile& tile = memory.tile;
  const auto* staged = reinterpret_cast<const float*>(memory.bytes);
  float* part = p.parts + tile.split * p.part_size;
  constexpr int kQuads = kTileM / 4, kQuadsOfPack = kPackSize<T> / 4;
  for (int i = thread_index(); i < kQuads * kN; i += kTensorThreads) {
    const int quad = i % kQuads, n = i / kQuads;
    const int pack = quad / kQuadsOfPack;
    if (tile.m_first + pack >= tile.m_count || tile.n_first + n >= tile.n_count) continue;
    store_pack(part + memory.results[pack] + (tile.n_first + n) * tile.result_step +
                   quad % kQuadsOfPack * 4,
               load_pack<4>(staged + n * Staging<kN>::kPitchM + quad * 4));
  }
}

// m counts packs of in channels, n out channels, k pixels.
template <class T, int kN>
HANDCONV_KERNEL(kTensorThreads, 2)
multiply_weight(TensorParams<WeightProduct, T> p) {
  auto& memory = *reinterpret_cast<TensorMemory<kN>*>(shared_memory());
  const Tile& tile = memory.tile;
  const int thread = thread_index();
  if (thread == 0) p.view.describe(block_index(), memory.tile);
  synchronize_block();
  if (thread < kTileM / kPackSize<T>) {
    const Place place = place_of(tile.m, digits_of(tile.m, tile.m_first + thread));
    memory.results[thread] = tile.result_first + place.other;
  }
  const std::int64_t pixels = tile.k_end - tile.k_first;
  const auto steps = static_cast<int>(ceil_divide<std::int64_t>(pixels, kStepPixels<T>));
  Digits digits{};  // of the pixel that this thread enters in the table; the first threads do
  if (thread < kStepPixels<T>) digits = digits_of(tile.k, tile.k_first + thread);
  const auto enter_k = [&](int step) {
    if (thread >= kStepPixels<T>) return;
    memory.k_places[step % kTensorStages][thread] = place_of(tile.k, digits);
    advance(tile.k, digits, kStepPixels<T>);
  };
  const WeightCopies<T, kN> copies(tile, p.image, p.other);
  const auto start = [&](int step) {
    if (step < steps) {
      copies.start(tile, memory.k_places[step % kTensorStages],
                   memory.bytes + step % kTensorStages * kStageBytes<kN>,
                   at_most(pixels - std::int64_t{step} * kStepPixels<T>, kStepPixels<T>));
    }
    commit_copies();
  };
  for (int step = 0; step < kTensorStages; ++step) enter_k(step);
  synchronize_block();
  for (int step = 0; step < kTensorStages - 1; ++step) start(step);
  const WarpTile<kN> warp;
  TensorSums<kN> sums = {};
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<kTensorStages - 2>();
    synchronize_block();
    start(step + kTensorStages - 1);
    enter_k(step + kTensorStages);
    const std::byte* image = memory.bytes + step % kTensorStages * kStageBytes<kN>;
    multiply_weight_step<T, kN>(sums, image, image + kTileM * kStepPacks * kPackBytes, warp);
  }
  wait_for_copies<0>();
  synchronize_block();
  stage_sums<kN>(reinterpret_cast<float*>(memory.bytes), sums, warp, true);
  synchronize_block();
  store_weight_parts(p, memory);
}

}  // namespace cuda
}  // namespace handconv
