// What csrc/cuda/instructions.h declares, for a CPU: the same names with the same meaning, on the
// simulator. The layout of fragments follows the PTX ISA ("Matrix fragments for mma.m16n8k16" and
// its like, "ldmatrix"), written down again and not taken over from there.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include "simulator.h"

#define HANDCONV_DEVICE inline
#define HANDCONV_KERNEL(threads, blocks) void

namespace handconv {
namespace cuda {

struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

inline float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}
inline float to_float(Float16 value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = static_cast<std::uint32_t>(value.bits & 0x7fffu) << 13;
  if (magnitude >= 0x0f800000u) {  // infinity and NaN
    return std::bit_cast<float>(sign | magnitude | 0x70000000u);
  }
  // The exponent's bias is 15 there and 127 here; subnormal numbers become normal by the product.
  return std::bit_cast<float>(
      sign | std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f));
}

inline BFloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return {0x7fff};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
inline Float16 to_float16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const auto with_sign = [sign](std::uint32_t half) {
    return Float16{static_cast<std::uint16_t>(sign | half)};
  };
  if (magnitude > 0x7f800000u) return {0x7fff};
  if (magnitude >= 0x47800000u) return with_sign(0x7c00u);  // 2^16 and above
  if (magnitude < 0x38800000u) {                            // below 2^-14: a multiple of 2^-24
    // At 2^-1 neighbours lie 2^-24 apart: the sum rounds, and its lowest bits are the result.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return with_sign(std::bit_cast<std::uint32_t>(sum) - std::bit_cast<std::uint32_t>(0.5f));
  }
  const std::uint32_t rounded = magnitude + 0x0fffu + ((magnitude >> 13) & 1u);
  return with_sign((rounded - 0x38000000u) >> 13);
}
// To the nearest, ties away from zero.
inline std::uint32_t to_tf32(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
  return (bits + 0x1000u) & ~0x1fffu;
}

inline int thread_index() { return simulator::position.thread; }
inline std::int64_t block_index() { return simulator::position.block; }
inline std::byte* shared_memory() { return simulator::position.shared; }

inline void synchronize_block(
    const simulator::Location& location = simulator::Location::current()) {
  simulator::meet_block("synchronize_block", location);
}
inline void synchronize_warp(const simulator::Location& location = simulator::Location::current()) {
  simulator::meet_warp(
      "synchronize_warp", nullptr, [](void* const(&)[simulator::kLanes]) {}, location);
}

namespace detail {

using Lanes = void* const (&)[simulator::kLanes];

// What a lane gives to an instruction of its warp, as a struct.
template <class Given>
Given& given(Lanes lanes, int lane) {
  return *static_cast<Given*>(lanes[lane]);
}

template <class T>
struct Shuffled {
  T value, result;
  int distance;
};

inline float low_half(std::uint32_t bits, Float16) {
  return to_float(Float16{static_cast<std::uint16_t>(bits)});
}
inline float low_half(std::uint32_t bits, BFloat16) {
  return to_float(BFloat16{static_cast<std::uint16_t>(bits)});
}

// The operands of one lane in d += a b.
struct Product {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

// A row of B or of D, in vector registers.
using Row8 [[gnu::vector_size(32)]] = float;

// d += a b once both are unpacked; D is 16 x 8.
template <int kDepth>
void multiply_add(Lanes lanes, const float (&a)[16][kDepth], const Row8 (&b)[kDepth]) {
  Row8 d[16] = {};
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kDepth; ++k) d[row] += a[row][k] * b[k];
  }
  for (int lane = 0; lane < simulator::kLanes; ++lane) {
    const int group = lane / 4, member = lane % 4;
    for (int i = 0; i < 4; ++i) {
      given<Product>(lanes, lane).d[i] += d[group + i / 2 * 8][member * 2 + i % 2];
    }
  }
}

template <class T>
void multiply_add_16816(Lanes lanes) {
  float a[16][16];
  Row8 b[16];
  for (int lane = 0; lane < simulator::kLanes; ++lane) {
    const auto& product = given<Product>(lanes, lane);
    const int group = lane / 4, member = lane % 4;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) {
        a[group + i % 2 * 8][member * 2 + half + i / 2 * 8] =
            low_half(product.a[i] >> (16 * half), T{});
      }
      for (int i = 0; i < 2; ++i) {
        b[member * 2 + half + i * 8][group] = low_half(product.b[i] >> (16 * half), T{});
      }
    }
  }
  multiply_add(lanes, a, b);
}

inline void multiply_add_1688_tf32(Lanes lanes) {
  const auto truncated = [](std::uint32_t bits) { return std::bit_cast<float>(bits & ~0x1fffu); };
  float a[16][8];
  Row8 b[8];
  for (int lane = 0; lane < simulator::kLanes; ++lane) {
    const auto& product = given<Product>(lanes, lane);
    const int group = lane / 4, member = lane % 4;
    for (int i = 0; i < 4; ++i) a[group + i % 2 * 8][member + i / 2 * 4] = truncated(product.a[i]);
    for (int i = 0; i < 2; ++i) b[member + i * 4][group] = truncated(product.b[i]);
  }
  multiply_add(lanes, a, b);
}

// ldmatrix: lane i gives the address of row i % 8 of matrix i / 8.
struct MatrixRow {
  std::uint32_t* result;
  const std::byte* row;
};
template <bool kTransposed>
void load_matrices(Lanes lanes) {
  for (int lane = 0; lane < simulator::kLanes; ++lane) {
    const int group = lane / 4, member = lane % 4;
    for (int matrix = 0; matrix < 4; ++matrix) {
      std::uint16_t pair[2];
      for (int i = 0; i < 2; ++i) {
        const int row = kTransposed ? member * 2 + i : group;
        const int column = kTransposed ? group : member * 2 + i;
        const std::byte* from = given<MatrixRow>(lanes, matrix * 8 + row).row;
        std::memcpy(&pair[i], from + 2 * column, sizeof(pair[i]));
      }
      given<MatrixRow>(lanes, lane).result[matrix] = pair[0] | static_cast<std::uint32_t>(pair[1])
                                                                   << 16;
    }
  }
}

}  // namespace detail

// The lane that a value comes from, as the hardware has it: its own where there is no such lane.
template <class T>
T shuffle_xor(T value, int mask,
              const simulator::Location& location = simulator::Location::current()) {
  using Shuffled = detail::Shuffled<T>;
  Shuffled mine{value, value, mask};
  simulator::meet_warp(
      "shuffle_xor", &mine,
      [](detail::Lanes lanes) {
        for (int lane = 0; lane < simulator::kLanes; ++lane) {
          Shuffled& to = detail::given<Shuffled>(lanes, lane);
          const int from = lane ^ to.distance;
          if (from < simulator::kLanes) to.result = detail::given<Shuffled>(lanes, from).value;
        }
      },
      location);
  return mine.result;
}
template <class T>
T shuffle_down(T value, int delta,
               const simulator::Location& location = simulator::Location::current()) {
  using Shuffled = detail::Shuffled<T>;
  Shuffled mine{value, value, delta};
  simulator::meet_warp(
      "shuffle_down", &mine,
      [](detail::Lanes lanes) {
        for (int lane = 0; lane < simulator::kLanes; ++lane) {
          Shuffled& to = detail::given<Shuffled>(lanes, lane);
          const int from = lane + to.distance;
          if (from < simulator::kLanes) to.result = detail::given<Shuffled>(lanes, from).value;
        }
      },
      location);
  return mine.result;
}

template <int kBytes>
void copy_async(void* shared, const void* global, bool exists,
                const simulator::Location& location = simulator::Location::current()) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  simulator::start_copy(shared, global, kBytes, exists, location);
}
inline void commit_copies() { simulator::commit_copies(); }
template <int kPending>
void wait_for_copies() {
  simulator::wait_for_copies(kPending);
}

inline void load_matrices(std::uint32_t (&r)[4], const void* row,
                          const simulator::Location& location = simulator::Location::current()) {
  simulator::check_shared(row, 16, "load_matrices", location);
  detail::MatrixRow mine{r, static_cast<const std::byte*>(row)};
  simulator::meet_warp("load_matrices", &mine, detail::load_matrices<false>, location);
}
inline void load_matrices_transposed(
    std::uint32_t (&r)[4], const void* row,
    const simulator::Location& location = simulator::Location::current()) {
  simulator::check_shared(row, 16, "load_matrices_transposed", location);
  detail::MatrixRow mine{r, static_cast<const std::byte*>(row)};
  simulator::meet_warp("load_matrices_transposed", &mine, detail::load_matrices<true>, location);
}

template <class T>
void multiply_add_16816(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                        const simulator::Location& location = simulator::Location::current()) {
  detail::Product mine{d, a, b};
  simulator::meet_warp("multiply_add_16816", &mine, detail::multiply_add_16816<T>, location);
}
inline void multiply_add_1688_tf32(
    float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
    const simulator::Location& location = simulator::Location::current()) {
  detail::Product mine{d, a, b};
  simulator::meet_warp("multiply_add_1688_tf32", &mine, detail::multiply_add_1688_tf32, location);
}

template <class Params>
void launch(const char* name, void (*kernel)(Params), std::int64_t blocks, int threads,
            std::size_t shared_bytes, void*, const Params& params) {
  struct Call {
    void (*kernel)(Params);
    const Params* params;
  };
  const Call call{kernel, &params};
  simulator::run_grid({name, blocks, threads, shared_bytes,
                       [](const void* context) {
                         const auto& call = *static_cast<const Call*>(context);
                         call.kernel(*call.params);
                       },
                       &call});
}

}  // namespace cuda
}  // namespace handconv
