// The matrix product that handconv does not write itself: the GEMM of the im2col algorithm. It is
// the library of torch (cuBLAS) in csrc/torch/gemm_library.cpp, and plain loops under
// tests/simulator. No torch or CUDA type appears here.
#pragma once

#include <cstdint>

#include "geometry.h"

namespace handconv {

// `batch` matrices of one shape. Strides are in elements.
template <class Pointer>
struct MatrixBatch {
  Pointer data;
  std::int64_t batch_stride, row_stride, column_stride;
};

// For every i < batch: c[i] = a[i] b[i], or c[i] += a[i] b[i], with a m x k, b k x n and c m x n.
// Of the row and the column stride one is 1, in c the column's. c overlaps neither a nor b.
struct BatchedProduct {
  DType dtype;  // of the elements of a, b and c; 16-bit types are summed in float32
  std::int64_t batch, m, n, k;
  MatrixBatch<const void*> a, b;
  MatrixBatch<void*> c;
  bool accumulate;  // add to what c holds
  bool allows_tf32;
};

// Runs in the order of `stream`, the current cudaStream_t of this thread. The result depends on the
// product alone: it is the same from call to call.
void multiply_matrices(const BatchedProduct& product, void* stream);

}  // namespace handconv
