// The GEMM of the im2col algorithm as plain loops.

#include "cuda/gemm_library.h"

#include <stdexcept>
#include <tuple>
#include <vector>

#include "cuda/elements.h"

namespace handconv {
namespace {

// to[j] += a b[j]
template <class T>
void add_row(std::vector<cuda::Compute<T>>& to, cuda::Compute<T> a, const T* b,
             std::int64_t stride) {
  const auto size = static_cast<std::int64_t>(to.size());
  for (std::int64_t j = 0; j < size; ++j) to[j] += a * cuda::to_compute(b[j * stride]);
}

template <class T>
void multiply(const BatchedProduct& product) {
  const auto& [a, b, c] = std::tie(product.a, product.b, product.c);
  std::vector<cuda::Compute<T>> sums(product.n);
  for (std::int64_t index = 0; index < product.batch; ++index) {
    const T* a_matrix = static_cast<const T*>(a.data) + index * a.batch_stride;
    const T* b_matrix = static_cast<const T*>(b.data) + index * b.batch_stride;
    for (std::int64_t i = 0; i < product.m; ++i) {
      T* c_row = static_cast<T*>(c.data) + index * c.batch_stride + i * c.row_stride;
      for (std::int64_t j = 0; j < product.n; ++j) {
        sums[j] = product.accumulate ? cuda::to_compute(c_row[j]) : 0;
      }
      for (std::int64_t k = 0; k < product.k; ++k) {
        const auto factor = cuda::to_compute(a_matrix[i * a.row_stride + k * a.column_stride]);
        add_row(sums, factor, b_matrix + k * b.row_stride, b.column_stride);
      }
      for (std::int64_t j = 0; j < product.n; ++j) c_row[j] = cuda::from_compute<T>(sums[j]);
    }
  }
}

template <class Pointer>
void demand_dense(const MatrixBatch<Pointer>& matrices) {
  if (matrices.row_stride != 1 && matrices.column_stride != 1) {
    throw std::runtime_error("a matrix has neither dense rows nor dense columns");
  }
}

}  // namespace

void multiply_matrices(const BatchedProduct& product, void*) {
  demand_dense(product.a);
  demand_dense(product.b);
  if (product.c.column_stride != 1) throw std::runtime_error("c has no dense rows");
  cuda::visit_dtype(product.dtype, [&](auto zero) { multiply<decltype(zero)>(product); });
}

}  // namespace handconv
