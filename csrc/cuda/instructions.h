// What CUDA kernels are written in. A kernel uses C++ and the names below, and nothing else of
// CUDA: no built-in variable, no intrinsic, no PTX. tests/simulator has another file of this name,
// whose functions do the same on a CPU, so that kernels can be tested where there is no GPU.
//
// Lanes of a fragment (PTX ISA, "Matrix fragments for mma"): with lane = 4 * row + pair,
// - A (16 x k): a[0] holds elements (row, 2 pair .. + 1), a[1] those of row + 8, a[2] and a[3] the
//   same for columns + 8 (16-bit types);
// - B (k x 8): b[0] holds elements (2 pair .. + 1, column row), b[1] those of k + 8;
// - D (16 x 8): d[0], d[1] hold (row, 2 pair .. + 1), d[2], d[3] those of row + 8.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

// A function that runs on the GPU, and a kernel: at most `threads` a block, and registers few
// enough for `blocks` blocks on a multiprocessor.
#define HANDCONV_DEVICE __device__ __forceinline__
#define HANDCONV_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)

namespace handconv {
namespace cuda {

struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

HANDCONV_DEVICE float to_float(Float16 value) { return __half2float(__ushort_as_half(value.bits)); }
HANDCONV_DEVICE float to_float(BFloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
// To the nearest, ties to even.
HANDCONV_DEVICE Float16 to_float16(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}
HANDCONV_DEVICE BFloat16 to_bfloat16(float value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}
// The bits of a float whose mantissa is rounded to the 10 bits of TF32.
HANDCONV_DEVICE std::uint32_t to_tf32(float value) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

HANDCONV_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
HANDCONV_DEVICE std::int64_t block_index() { return blockIdx.x; }

// Waits for all threads of the block.
HANDCONV_DEVICE void synchronize_block() { __syncthreads(); }
// Waits for all lanes of the warp.
HANDCONV_DEVICE void synchronize_warp() { __syncwarp(); }

// The value that lane `lane ^ mask`, or `lane + delta`, gives; for all lanes of a warp at once.
template <class T>
HANDCONV_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <class T>
HANDCONV_DEVICE T shuffle_down(T value, int delta) {
  return __shfl_down_sync(0xffffffffu, value, delta);
}

// The dynamic shared memory of the block, aligned to 128 bytes.
HANDCONV_DEVICE std::byte* shared_memory() {
  extern __shared__ __align__(128) std::byte memory[];
  return memory;
}

namespace detail {
HANDCONV_DEVICE std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}
}  // namespace detail

// Starts to copy kBytes (4, 8 or 16), aligned to as many, from global to shared memory; zeros where
// `exists` is false, and `global` is then not read.
template <int kBytes>
HANDCONV_DEVICE void copy_async(void* shared, const void* global, bool exists) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  const std::uint32_t to = detail::shared_address(shared);
  const int bytes = exists ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global),
                 "n"(kBytes), "r"(bytes)
                 : "memory");
  }
}
// Closes a group of this thread's copies, and waits until at most kPending groups are under way.
// Other threads' copies are there after synchronize_block.
HANDCONV_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
HANDCONV_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements out of shared memory: lane i gives the address of row i %
// 8 of matrix i / 8, 16 bytes, aligned. r[m] receives elements (lane / 4, 2 (lane % 4) .. + 1) of
// matrix m, or of its transpose.
HANDCONV_DEVICE void load_matrices(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(detail::shared_address(row))
               : "memory");
}
HANDCONV_DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(detail::shared_address(row))
               : "memory");
}

// d += a b, for a 16 x 16 and b 16 x 8 of 16-bit elements, two in each register. T tells the type.
template <class T>
HANDCONV_DEVICE void multiply_add_16816(float (&d)[4], const std::uint32_t (&a)[4],
                                        const std::uint32_t (&b)[2]);
template <>
HANDCONV_DEVICE void multiply_add_16816<Float16>(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
HANDCONV_DEVICE void multiply_add_16816<BFloat16>(float (&d)[4], const std::uint32_t (&a)[4],
                                                  const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d += a b, for a 16 x 8 and b 8 x 8 in TF32: with lane = 4 * row + pair, a[0] holds (row, pair),
// a[1] (row + 8, pair), a[2] (row, pair + 4), a[3] (row + 8, pair + 4); b[0] holds (pair, column
// row), b[1] (pair + 4, column row); d as above.
HANDCONV_DEVICE void multiply_add_1688_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                            const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Runs kernel(params) on `blocks` blocks of `threads` threads, in the order of the stream. `name`
// is for the message of the error that a failed launch raises.
template <class Params>
void launch(const char* name, void (*kernel)(Params), std::int64_t blocks, int threads,
            std::size_t shared_bytes, void* stream, const Params& params) {
  const auto check = [name](cudaError_t error) {
    if (error == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());  // forgets it, so that nobody else's launch reports it
    throw std::runtime_error(std::string("handconv: ") + name + ": " + cudaGetErrorString(error));
  };
  if (blocks > 0x7fffffff) check(cudaErrorInvalidConfiguration);
  if (shared_bytes > 48 * 1024) {
    // Not what this launch takes: another thread could launch the kernel with less in between.
    constexpr std::size_t kMost = 97 * 1024;  // of any kernel here; every GPU since sm_80 has it
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes > kMost ? shared_bytes : kMost)));
  }
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes,
           static_cast<cudaStream_t>(stream)>>>(params);
  check(cudaGetLastError());
}

}  // namespace cuda
}  // namespace handconv
