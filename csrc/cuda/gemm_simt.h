// The matrix products of gemm_product.h on the ordinary arithmetic units, for every element type.
//
// A block of 256 threads computes a tile of kM x kN elements, a thread kThreadM x kThreadN of them
// in registers, in quads along either side. k advances kK at a time: while a step is multiplied out
// of one half of the shared memory, the elements of the next are on their way through registers to
// the other half. Where the elements of m and of k lie stands in tables in shared memory, so that
// threads can be laid along k or along m, whichever is contiguous. Global memory read for one
// element of the result: (1 / kM + 1 / kN) * k elements.
#pragma once

#include "cuda/gemm_product.h"

namespace handconv {
namespace cuda {

template <int kM_, int kN_, int kK_, int kThreadM_, int kThreadN_>
struct SimtShape {
  static constexpr int kM = kM_, kN = kN_, kK = kK_, kThreadM = kThreadM_, kThreadN = kThreadN_;
  static constexpr int kThreads = kM / kThreadM * (kN / kThreadN);
  // Quads of rows stay aligned, and the threads along k meet in a bank two by two at most.
  static constexpr int kPitchM = kM + 4, kPitchN = kN + 4;
};

template <class View, class T>
struct SimtParams {
  View view;
  const T* image;
  const T* other;
  const T* bias;  // null without a bias
  T* result;
  Compute<T>*
      parts;  // null unless the sums are cut: then the parts of split s start at s * part_size
  std::int64_t part_size;
  bool image_along_k, other_along_k;  // where the threads of a load lie
  bool result_along_m;                // and those of a store
};

template <class T, class Shape>
struct SimtMemory {
  Tile tile;
  alignas(64) Compute<T> image[2][Shape::kK * Shape::kPitchM];
  alignas(64) Compute<T> other[2][Shape::kK * Shape::kPitchN];
  Place m_places[Shape::kM];
  Place k_places[2][Shape::kK];
};

// The elements of a kSide x kK tile that a thread loads: side + i * side_step, k + i * k_step.
template <int kSide, class Shape>
struct LoadPattern {
  static constexpr int kCount = kSide * Shape::kK / Shape::kThreads;
  int side, side_step, k, k_step;

  HANDCONV_DEVICE explicit LoadPattern(bool along_k) {
    const int thread = thread_index();
    side = along_k ? thread / Shape::kK : thread % kSide;
    k = along_k ? thread % Shape::kK : thread / kSide;
    side_step = along_k ? Shape::kThreads / Shape::kK : 0;
    k_step = along_k ? 0 : Shape::kThreads / kSide;
  }
};

// One step of k on its way from global to shared memory.
template <class T, class Shape>
struct SimtStep {
  using ImagePattern = LoadPattern<Shape::kM, Shape>;
  using OtherPattern = LoadPattern<Shape::kN, Shape>;
  T image[ImagePattern::kCount];
  T other[OtherPattern::kCount];

  HANDCONV_DEVICE void load(const SimtMemory<T, Shape>& memory, const T* image_base,
                            const T* other_base, const ImagePattern& ip, const OtherPattern& op,
                            const Place* k_places, int k_left) {
    const Tile& tile = memory.tile;
    const int m_left = at_most(tile.m_count - tile.m_first, Shape::kM);
    const auto rows = static_cast<unsigned>(tile.image_rows);
    const auto columns = static_cast<unsigned>(tile.image_columns);
#pragma unroll
    for (int i = 0; i < ImagePattern::kCount; ++i) {
      const int m = ip.side + i * ip.side_step, k = ip.k + i * ip.k_step;
      const Place &pm = memory.m_places[m], &pk = k_places[k];
      const bool exists = m < m_left && k < k_left &&
                          static_cast<unsigned>(pm.row + pk.row) < rows &&
                          static_cast<unsigned>(pm.column + pk.column) < columns;
      image[i] = exists ? image_base[pm.image + pk.image] : T{};
    }
    const int n_left = at_most(tile.n_count - tile.n_first, Shape::kN);
#pragma unroll
    for (int i = 0; i < OtherPattern::kCount; ++i) {
      const int n = op.side + i * op.side_step, k = op.k + i * op.k_step;
      other[i] =
          n < n_left && k < k_left ? other_base[n * tile.other_step + k_places[k].other] : T{};
    }
  }

  HANDCONV_DEVICE void store(Compute<T>* image_to, Compute<T>* other_to, const ImagePattern& ip,
                             const OtherPattern& op) const {
#pragma unroll
    for (int i = 0; i < ImagePattern::kCount; ++i) {
      image_to[(ip.k + i * ip.k_step) * Shape::kPitchM + ip.side + i * ip.side_step] =
          to_compute(image[i]);
    }
#pragma unroll
    for (int i = 0; i < OtherPattern::kCount; ++i) {
      other_to[(op.k + i * op.k_step) * Shape::kPitchN + op.side + i * op.side_step] =
          to_compute(other[i]);
    }
  }
};

// The i-th of the elements along a side of the tile that thread `thread` of kSide / kPerThread
// owns.
template <int kSide, int kPerThread>
HANDCONV_DEVICE int owned(int thread, int i) {
  return i / 4 * (kSide * 4 / kPerThread) + thread * 4 + i % 4;
}

template <class C, class Shape>
HANDCONV_DEVICE void multiply_add_step(C (&sums)[Shape::kThreadM][Shape::kThreadN], const C* image,
                                       const C* other, int thread_m, int thread_n) {
#pragma unroll
  for (int k = 0; k < Shape::kK; ++k) {
    C a[Shape::kThreadM], b[Shape::kThreadN];
#pragma unroll
    for (int i = 0; i < Shape::kThreadM; i += 4) {
      const auto quad =
          load_pack<4>(image + k * Shape::kPitchM + owned<Shape::kM, Shape::kThreadM>(thread_m, i));
#pragma unroll
      for (int j = 0; j < 4; ++j) a[i + j] = quad[j];
    }
#pragma unroll
    for (int i = 0; i < Shape::kThreadN; i += 4) {
      const auto quad =
          load_pack<4>(other + k * Shape::kPitchN + owned<Shape::kN, Shape::kThreadN>(thread_n, i));
#pragma unroll
      for (int j = 0; j < 4; ++j) b[i + j] = quad[j];
    }
#pragma unroll
    for (int i = 0; i < Shape::kThreadM; ++i) {
#pragma unroll
      for (int j = 0; j < Shape::kThreadN; ++j) sums[i][j] += a[i] * b[j];
    }
  }
}

template <class T, class Shape, class View>
HANDCONV_DEVICE void store_sums(const SimtParams<View, T>& p, const SimtMemory<T, Shape>& memory,
                                const Compute<T> (&sums)[Shape::kThreadM][Shape::kThreadN],
                                int thread_m, int thread_n) {
  const Tile& tile = memory.tile;
#pragma unroll
  for (int j = 0; j < Shape::kThreadN; ++j) {
    const int n = tile.n_first + owned<Shape::kN, Shape::kThreadN>(thread_n, j);
    if (n >= tile.n_count) continue;
    const Compute<T> bias =
        p.bias && !p.parts ? to_compute(p.bias[tile.bias_first + n]) : Compute<T>(0);
    const std::int64_t at = tile.result_first + n * tile.result_step;
#pragma unroll
    for (int i = 0; i < Shape::kThreadM; ++i) {
      const int m = owned<Shape::kM, Shape::kThreadM>(thread_m, i);
      if (tile.m_first + m >= tile.m_count) continue;
      const std::int64_t to = at + memory.m_places[m].other;
      if (p.parts) {
        p.parts[tile.split * p.part_size + to] = sums[i][j];
      } else {
        p.result[to] = from_compute<T>(sums[i][j] + bias);
      }
    }
  }
}

template <class T, class Shape, class View>
HANDCONV_KERNEL(Shape::kThreads, 2)
multiply_simt(SimtParams<View, T> p) {
  auto& memory = *reinterpret_cast<SimtMemory<T, Shape>*>(shared_memory());
  const Tile& tile = memory.tile;
  const int thread = thread_index();
  if (thread == 0) p.view.describe(block_index(), memory.tile);
  synchronize_block();
  if (tile.m_first >= tile.m_count) return;

  if (thread < Shape::kM) {
    Place place = place_of(tile.m, digits_of(tile.m, tile.m_first + thread));
    place.row += tile.first.row;
    place.column += tile.first.column;
    memory.m_places[thread] = place;
  }
  const std::int64_t k_count = tile.k_end - tile.k_first;
  Digits digits{};  // of the k that this thread enters in the table; the first kK threads do
  const auto enter_k = [&](int buffer) {
    if (thread >= Shape::kK || k_count <= 0) return;
    memory.k_places[buffer][thread] = place_of(tile.k, digits);
    advance(tile.k, digits, Shape::kK);
  };
  if (thread < Shape::kK && k_count > 0) digits = digits_of(tile.k, tile.k_first + thread);
  enter_k(0);
  synchronize_block();

  const T* image = p.image + tile.first.image;
  const T* other = p.other + tile.first.other + tile.n_first * tile.other_step;
  const LoadPattern<Shape::kM, Shape> image_pattern(p.image_along_k);
  const LoadPattern<Shape::kN, Shape> other_pattern(p.other_along_k);
  SimtStep<T, Shape> step;
  const auto load = [&](std::int64_t k, int buffer) {
    step.load(memory, image, other, image_pattern, other_pattern, memory.k_places[buffer],
              at_most(k_count - k, Shape::kK));
  };
  const auto store = [&](int buffer) {
    step.store(memory.image[buffer], memory.other[buffer], image_pattern, other_pattern);
  };

  constexpr int kThreadsM = Shape::kM / Shape::kThreadM, kThreadsN = Shape::kN / Shape::kThreadN;
  const int thread_m = p.result_along_m ? thread % kThreadsM : thread / kThreadsN;
  const int thread_n = p.result_along_m ? thread / kThreadsM : thread % kThreadsN;
  Compute<T> sums[Shape::kThreadM][Shape::kThreadN] = {};
  if (k_count > 0) {
    load(0, 0);
    enter_k(1);
    store(0);
    synchronize_block();
  }
  int buffer = 0;
  for (std::int64_t k = 0; k < k_count; k += Shape::kK) {
    const bool more = k + Shape::kK < k_count;
    if (more) load(k + Shape::kK, buffer ^ 1);
    enter_k(buffer);
    multiply_add_step<Compute<T>, Shape>(sums, memory.image[buffer], memory.other[buffer], thread_m,
                                         thread_n);
    if (more) store(buffer ^ 1);
    synchronize_block();
    buffer ^= 1;
  }
  store_sums<T, Shape>(p, memory, sums, thread_m, thread_n);
}

}  // namespace cuda
}  // namespace handconv
