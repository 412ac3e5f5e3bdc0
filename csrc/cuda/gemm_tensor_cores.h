// The matrix products of gemm_product.h on tensor cores: float16, bfloat16, and float32 as TF32.
//
// A block of 256 threads, 8 warps, computes a tile of 128 x kN elements. Four stages of shared
// memory are in flight by copy_async, 16 bytes (a pack of 8 or 4 channels) a copy, and ordered by
// an XOR of pack and row such that no two lanes meet in a bank. Everything counts packs, so that
// the 16-bit types and TF32 are one code: a step of k is two fragments deep in each.
//   multiply_gather: k runs over source channels inside taps; rows of shared memory run along k.
//   multiply_weight: k runs over pixels; rows of shared memory run along m and n, and are
//   transposed on their way into fragments.
// Global memory read for one element of the result: (1 / 128 + 1 / kN) * k elements. Registers: 64
// (kN = 128) or 32 sums a thread, at most 128 in all.
#pragma once

#include <type_traits>

#include "cuda/gemm_pack.h"
#include "cuda/gemm_product.h"

namespace handconv {
namespace cuda {

constexpr int kTensorThreads = 256, kTensorStages = 4, kTileM = 128;
constexpr int kPackBytes = 16;
constexpr int kStepPacks = 4;         // packs of k in a step of multiply_gather: rows of 64 bytes
constexpr int kOutside = -(1 << 30);  // a row that no step of k brings back into an image

template <class View, class T>
struct TensorParams {
  View view;
  const T* image;
  const T* other;
  const T* bias;  // null without a bias
  T* result;
  float* parts;  // null unless the sums are cut: then the parts of split s start at s * part_size
  std::int64_t part_size;
  bool result_along_m;  // how the result is stored: along m or along n
  bool whole_packs;     // along n, packs of the result are whole and aligned
};

// 8 warps over a tile, each 32 columns wide.
template <int kN>
struct WarpTile {
  static constexpr int kWarpsN = kN / 32, kWarpsM = 8 / kWarpsN;
  static constexpr int kM = kTileM / kWarpsM, kBlocksM = kM / 16, kBlocksN = 4;
  int m, n;

  HANDCONV_DEVICE WarpTile()
      : m(thread_index() / 32 / kWarpsN * kM), n(thread_index() / 32 % kWarpsN * 32) {}
};

template <int kN>
using TensorSums = float[WarpTile<kN>::kBlocksM][4][4];
// Blocks of 16 rows whose fragments a thread holds at once: registers of a wide tile do not suffice
// for all, where they are rounded.
template <class T, int kN>
constexpr int kBlocksAtOnce = std::is_same_v<T, float> ? 2 : WarpTile<kN>::kBlocksM;
using OtherFragments = std::uint32_t[4][2];

template <int kN>
constexpr int kStageBytes = (kTileM + kN) * kStepPacks * kPackBytes;

// The tile on its way to global memory, with m or n contiguous; pitches without bank conflicts.
template <int kN>
struct Staging {
  static constexpr int kPitchN = kN + 8, kPitchM = kTileM + 4;
  static constexpr int kBytes =
      4 * (kTileM * kPitchN > kN * kPitchM ? kTileM * kPitchN : kN * kPitchM);
};

template <int kN>
struct TensorMemory {
  Tile tile;
  std::int64_t results[kTileM];  // where m lies in the result
  Place k_places[kTensorStages][32];
  static constexpr int kStages = kTensorStages * kStageBytes<kN>;
  static constexpr int kBytes = kStages > Staging<kN>::kBytes ? kStages : Staging<kN>::kBytes;
  alignas(128) std::byte bytes[kBytes];
};

// TF32 takes float as it is, but cuts off what it has no room for: round instead.
template <class T, int kCount, int kRegisters>
HANDCONV_DEVICE void round_fragments(std::uint32_t (&fragments)[kCount][kRegisters]) {
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int r = 0; r < kRegisters; ++r) {
        fragments[i][r] = to_tf32(__builtin_bit_cast(float, fragments[i][r]));
      }
    }
  }
}

template <class T>
HANDCONV_DEVICE void multiply_row(float (&sums)[4][4], const std::uint32_t (&a)[4],
                                  const OtherFragments& b) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if constexpr (std::is_same_v<T, float>) {
      multiply_add_1688_tf32(sums[j], a, b[j]);
    } else {
      multiply_add_16816<T>(sums[j], a, b[j]);
    }
  }
}

// A step of multiply_gather: rows m (then n) of four packs of k.
HANDCONV_DEVICE int pack_along_k(int row, int pack) {
  return (row * kStepPacks + (pack ^ (row >> 1 & 3))) * kPackBytes;
}

template <class T, int kN>
HANDCONV_DEVICE void multiply_gather_step(TensorSums<kN>& sums, const std::byte* image,
                                          const std::byte* other, const WarpTile<kN>& warp) {
  const int lane = thread_index() % 32;
  constexpr int kAtOnce = kBlocksAtOnce<T, kN>;
#pragma unroll
  for (int depth = 0; depth < kStepPacks; depth += 2) {
    OtherFragments b;
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      std::uint32_t two[4];
      load_matrices(two, other + pack_along_k(warp.n + j * 8 + lane % 8 + lane / 16 * 8,
                                              depth + lane / 8 % 2));
      b[j][0] = two[0], b[j][1] = two[1], b[j + 1][0] = two[2], b[j + 1][1] = two[3];
    }
    round_fragments<T>(b);
#pragma unroll
    for (int first = 0; first < WarpTile<kN>::kBlocksM; first += kAtOnce) {
      std::uint32_t a[kAtOnce][4];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int m = warp.m + (first + i) * 16;
        load_matrices(a[i], image + pack_along_k(m + lane % 16, depth + lane / 16));
      }
      round_fragments<T>(a);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) multiply_row<T>(sums[first + i], a[i], b);
    }
  }
}

template <int kN>
HANDCONV_DEVICE void stage_sums(float* staged, const TensorSums<kN>& sums, const WarpTile<kN>& warp,
                                bool along_m) {
  const int lane = thread_index() % 32;
  const int m_step = along_m ? 1 : Staging<kN>::kPitchN;
  const int n_step = along_m ? Staging<kN>::kPitchM : 1;
#pragma unroll
  for (int i = 0; i < WarpTile<kN>::kBlocksM; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int m = warp.m + i * 16 + lane / 4 + r / 2 * 8;
        const int n = warp.n + j * 8 + lane % 4 * 2 + r % 2;
        staged[m * m_step + n * n_step] = sums[i][j][r];
      }
    }
  }
}

// Element by element, to wherever it lies.
template <class View, class T, int kN>
HANDCONV_DEVICE void store_elements(const TensorParams<View, T>& p,
                                    const TensorMemory<kN>& memory) {
  const Tile& tile = memory.tile;
  const auto* staged = reinterpret_cast<const float*>(memory.bytes);
  const int m_step = p.result_along_m ? 1 : Staging<kN>::kPitchN;
  const int n_step = p.result_along_m ? Staging<kN>::kPitchM : 1;
  for (int i = thread_index(); i < kTileM * kN; i += kTensorThreads) {
    const int m = p.result_along_m ? i % kTileM : i / kN;
    const int n = p.result_along_m ? i / kTileM : i % kN;
    const int channel = tile.n_first + n;
    if (tile.m_first + m >= tile.m_count || channel >= tile.n_count) continue;
    const float sum = staged[m * m_step + n * n_step];
    const std::int64_t to = memory.results[m] + channel * tile.result_step;
    if (p.parts) {
      p.parts[tile.split * p.part_size + to] = sum;
    } else {
      p.result[to] =
          from_compute<T>(p.bias ? sum + to_compute(p.bias[tile.bias_first + channel]) : sum);
    }
  }
}

// Packs of channels, for a result that is channels_last.
template <class View, class T, int kN>
HANDCONV_DEVICE void store_packs(const TensorParams<View, T>& p, const TensorMemory<kN>& memory) {
  constexpr int kPack = kPackSize<T>;
  const Tile& tile = memory.tile;
  const auto* staged = reinterpret_cast<const float*>(memory.bytes);
  for (int i = thread_index(); i < kTileM * kN / kPack; i += kTensorThreads) {
    const int m = i / (kN / kPack), n = i % (kN / kPack) * kPack;
    const int channel = tile.n_first + n;
    if (tile.m_first + m >= tile.m_count || channel >= tile.n_count) continue;
    Pack<T, kPack> rounded;
#pragma unroll
    for (int half = 0; half < kPack; half += 4) {
      const auto quad = load_pack<4>(staged + m * Staging<kN>::kPitchN + n + half);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float bias = p.bias ? to_compute(p.bias[tile.bias_first + channel + half + j]) : 0.0f;
        rounded[half + j] = from_compute<T>(quad[j] + bias);
      }
    }
    store_pack(p.result + memory.results[m] + channel, rounded);
  }
}

// The packs of one step of multiply_gather that a thread copies: the same column of k for all.
template <class T, int kN>
struct GatherCopies {
  static constexpr int kRowsAtOnce = kTensorThreads / kStepPacks;
  static constexpr int kImageRows = kTileM / kRowsAtOnce, kOtherRows = kN / kRowsAtOnce;
  const T* image[kImageRows];
  int row[kImageRows], column[kImageRows];
  const T* other;
  Digits digits;
  int pack, first_row;

  HANDCONV_DEVICE GatherCopies(const Tile& tile, const T* image_base, const T* other_base) {
    pack = thread_index() % kStepPacks;
    first_row = thread_index() / kStepPacks;
#pragma unroll
    for (int i = 0; i < kImageRows; ++i) {
      const std::int64_t m = tile.m_first + first_row + i * kRowsAtOnce;
      const Place place = place_of(tile.m, digits_of(tile.m, m));
      image[i] = image_base + tile.first.image + place.image;
      row[i] = m < tile.m_count ? tile.first.row + place.row : kOutside;
      column[i] = tile.first.column + place.column;
    }
    other = other_base + tile.first.other + (tile.n_first + first_row) * tile.other_step;
    if (tile.k_first < tile.k_end) digits = digits_of(tile.k, tile.k_first + pack);
  }

  // Starts the copies of one step and moves on to the next; k_left counts packs.
  HANDCONV_DEVICE void start(const Tile& tile, std::byte* stage, int k_left) {
    const Place k = place_of(tile.k, digits);
    const bool in_sum = pack < k_left;
    const auto rows = static_cast<unsigned>(tile.image_rows);
    const auto columns = static_cast<unsigned>(tile.image_columns);
#pragma unroll
    for (int i = 0; i < kImageRows; ++i) {
      const bool exists = in_sum && static_cast<unsigned>(row[i] + k.row) < rows &&
                          static_cast<unsigned>(column[i] + k.column) < columns;
      copy_async<kPackBytes>(stage + pack_along_k(first_row + i * kRowsAtOnce, pack),
                             image[i] + k.image, exists);
    }
#pragma unroll
    for (int i = 0; i < kOtherRows; ++i) {
      const int n = first_row + i * kRowsAtOnce;
      copy_async<kPackBytes>(stage + pack_along_k(kTileM + n, pack),
                             other + i * kRowsAtOnce * tile.other_step + k.other,
                             in_sum && tile.n_first + n < tile.n_count);
    }
    advance(tile.k, digits, kStepPacks);
  }
};

template <class T, int kN>
HANDCONV_KERNEL(kTensorThreads, 2)
multiply_gather(TensorParams<GatherProduct, T> p) {
  auto& memory = *reinterpret_cast<TensorMemory<kN>*>(shared_memory());
  const Tile& tile = memory.tile;
  if (thread_index() == 0) p.view.describe(block_index(), memory.tile);
  synchronize_block();
  if (tile.m_first >= tile.m_count) return;
  if (thread_index() < kTileM) {
    const Place place = place_of(tile.m, digits_of(tile.m, tile.m_first + thread_index()));
    memory.results[thread_index()] = tile.result_first + place.other;
  }

  const auto packs = static_cast<int>(tile.k_end - tile.k_first);
  const int steps = ceil_divide(packs, kStepPacks);
  GatherCopies<T, kN> copies(tile, p.image, p.other);
  const auto start = [&](int step) {
    if (step < steps) {
      copies.start(tile, memory.bytes + step % kTensorStages * kStageBytes<kN>,
                   packs - step * kStepPacks);
    }
    commit_copies();
  };
  for (int step = 0; step < kTensorStages - 1; ++step) start(step);
  const WarpTile<kN> warp;
  TensorSums<kN> sums = {};
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<kTensorStages - 2>();
    synchronize_block();
    start(step + kTensorStages - 1);
    const std::byte* stage = memory.bytes + step % kTensorStages * kStageBytes<kN>;
    multiply_gather_step<T, kN>(sums, stage, stage + kTileM * kStepPacks * kPackBytes, warp);
  }
  wait_for_copies<0>();
  synchronize_block();
  stage_sums<kN>(reinterpret_cast<float*>(memory.bytes), sums, warp, p.result_along_m);
  synchronize_block();
  if (p.whole_packs && !p.parts) {
    store_packs(p, memory);
  } else {
    store_elements(p, memory);
  }
}

}  // namespace cuda
}  // namespace handconv
