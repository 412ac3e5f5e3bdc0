// The kernel classes of the family, which gemm.cu makes rows of.
#pragma once

#include "cuda/elements.h"
#include "table.h"

namespace handconv {
namespace cuda {

// On the ordinary arithmetic units: output and input, weight.
template <class T>
struct SimtGather {
  static WorkspaceSize workspace(const Problem& problem);
  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace);
};
template <class T>
struct SimtWeight {
  static WorkspaceSize workspace(const Problem& problem);
  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace);
};

// On tensor cores; not for double.
template <class T>
struct TensorGather {
  static WorkspaceSize workspace(const Problem& problem);
  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace);
};
template <class T>
struct TensorWeight {
  static WorkspaceSize workspace(const Problem& problem);
  static void run(const Problem& problem, const Buffers& buffers, const Workspace& workspace);
};
template <>
struct TensorGather<double> {
  static WorkspaceSize workspace(const Problem&) { return {}; }
  static void run(const Problem&, const Buffers&, const Workspace&) {}
};
template <>
struct TensorWeight<double> : TensorGather<double> {};

}  // namespace cuda
}  // namespace handconv
