// Products of fragments and conversions of types, which test_simulator.py compares with
// torch's.

#include <cstring>
#include <stdexcept>

#include "caught.h"
#include "cuda/elements.h"

namespace handconv {
namespace cuda {
namespace {

// Fragments. D (16 x 8) = A (16 x k) B (k x 8), all with dense rows.
struct Matrices {
  const void* a;
  const void* b;
  float* d;
};

// As the PTX ISA lists them: element i of a thread's fragment, with its group and its place there.
struct Place {
  int row, column;
};
HANDCONV_DEVICE Place place_in_a(int lane, int i) {
  return {lane / 4 + (i % 4 < 2 ? 0 : 8), lane % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}
HANDCONV_DEVICE Place place_in_b(int lane, int i) {
  return {lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8), lane / 4};
}
HANDCONV_DEVICE Place place_in_d(int lane, int i) {
  return {lane / 4 + (i < 2 ? 0 : 8), lane % 4 * 2 + (i & 1)};
}

HANDCONV_DEVICE void store_product(const Matrices& p, const float (&d)[4]) {
  for (int i = 0; i < 4; ++i) {
    const Place place = place_in_d(thread_index(), i);
    p.d[place.row * 8 + place.column] = d[i];
  }
}

template <class T>
HANDCONV_KERNEL(32, 1)
multiply_by_definition(Matrices p) {
  const auto* a = static_cast<const T*>(p.a);
  const auto* b = static_cast<const T*>(p.b);
  std::uint32_t fragment_a[4] = {}, fragment_b[2] = {};
  float d[4] = {0, 0, 0, 0};
  for (int i = 0; i < 8; ++i) {
    const Place place = place_in_a(thread_index(), i);
    const std::uint32_t bits = a[place.row * 16 + place.column].bits;
    fragment_a[i / 2] |= bits << (i % 2 * 16);
  }
  for (int i = 0; i < 4; ++i) {
    const Place place = place_in_b(thread_index(), i);
    const std::uint32_t bits = b[place.row * 8 + place.column].bits;
    fragment_b[i / 2] |= bits << (i % 2 * 16);
  }
  multiply_add_16816<T>(d, fragment_a, fragment_b);
  store_product(p, d);
}

template <class T>
HANDCONV_KERNEL(32, 1)
multiply_from_shared_memory(Matrices p) {
  const int lane = thread_index();
  T* a = reinterpret_cast<T*>(shared_memory());
  T* b = a + 16 * 16;
  for (int i = lane; i < 16 * 16; i += 32) a[i] = static_cast<const T*>(p.a)[i];
  for (int i = lane; i < 16 * 8; i += 32) b[i] = static_cast<const T*>(p.b)[i];
  synchronize_warp();
  std::uint32_t fragment_a[4], rows_of_b[4];
  const int matrix = lane / 8, row = lane % 8;
  load_matrices(fragment_a, a + (row + matrix % 2 * 8) * 16 + matrix / 2 * 8);
  load_matrices_transposed(rows_of_b, b + (row + matrix % 2 * 8) * 8);
  const std::uint32_t fragment_b[2] = {rows_of_b[0], rows_of_b[1]};
  float d[4] = {0, 0, 0, 0};
  multiply_add_16816<T>(d, fragment_a, fragment_b);
  store_product(p, d);
}

HANDCONV_KERNEL(32, 1)
multiply_tf32(Matrices p) {
  const auto* a = static_cast<const float*>(p.a);
  const auto* b = static_cast<const float*>(p.b);
  const int group = thread_index() / 4, member = thread_index() % 4;
  std::uint32_t fragment_a[4], fragment_b[2];
  for (int i = 0; i < 4; ++i) {
    const int row = group + (i == 0 || i == 2 ? 0 : 8), column = member + (i < 2 ? 0 : 4);
    fragment_a[i] = to_tf32(a[row * 8 + column]);
  }
  for (int i = 0; i < 2; ++i) fragment_b[i] = to_tf32(b[(member + i * 4) * 8 + group]);
  float d[4] = {0, 0, 0, 0};
  multiply_add_1688_tf32(d, fragment_a, fragment_b);
  store_product(p, d);
}

struct Product {
  const char* name;
  void (*kernel)(Matrices);
};
const Product kProducts[] = {
    {"float16", multiply_by_definition<Float16>},
    {"bfloat16", multiply_by_definition<BFloat16>},
    {"float16 from shared memory", multiply_from_shared_memory<Float16>},
    {"bfloat16 from shared memory", multiply_from_shared_memory<BFloat16>},
    {"tf32", multiply_tf32},
};

}  // namespace
}  // namespace cuda
}  // namespace handconv

// D = A B by one warp; the type's name tells which kernel.
HANDCONV_EXPORT const char* faults_multiply(const char* name, const void* a, const void* b,
                                            float* d) {
  namespace cuda = handconv::cuda;
  return cuda::caught([&] {
    for (const cuda::Product& product : cuda::kProducts) {
      if (std::strcmp(product.name, name) != 0) continue;
      return cuda::launch(name, product.kernel, 1, 32, (16 * 16 + 16 * 8) * 2, nullptr,
                          cuda::Matrices{a, b, d});
    }
    throw std::runtime_error("no such product");
  });
}

// Conversions: the bits of a float in another type, and the float of 16 bits.
HANDCONV_EXPORT std::uint32_t faults_to_float16(float value) {
  return handconv::cuda::to_float16(value).bits;
}
HANDCONV_EXPORT std::uint32_t faults_to_bfloat16(float value) {
  return handconv::cuda::to_bfloat16(value).bits;
}
HANDCONV_EXPORT std::uint32_t faults_to_tf32(float value) { return handconv::cuda::to_tf32(value); }
HANDCONV_EXPORT float faults_from_float16(std::uint16_t bits) {
  return handconv::cuda::to_float(handconv::cuda::Float16{bits});
}
