// The rows of csrc/cuda for Python: what library.py calls. Strings that are returned are null, or
// stand until the next call.

#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/kernels.h"
#include "fenced.h"

namespace handconv {

// A library may be built of some families only; the others are null.
[[gnu::weak]] KernelList cuda_depthwise();
[[gnu::weak]] KernelList cuda_grouped();
[[gnu::weak]] KernelList cuda_gemm();
[[gnu::weak]] KernelList cuda_im2col();
[[gnu::weak]] KernelList cuda_reference();

namespace {

using cuda::simulator::Fenced;
using cuda::simulator::Placement;

const std::vector<Kernel>& rows() {
  static const std::vector<Kernel> all = [] {
    std::vector<Kernel> table;
    for (const auto family :
         {cuda_depthwise, cuda_grouped, cuda_gemm, cuda_im2col, cuda_reference}) {
      if (family) table.insert(table.end(), family().begin, family().end);
    }
    return table;
  }();
  return all;
}

std::size_t element_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// Memory of the host that stands for an operand: the strides' extent, with gaps in it if any.
struct HostBuffer {
  void* data;  // null for no bias
  std::int64_t bytes;
};

// x, w, y and the bias. What the slot fills goes in as it is, for the poison that it brings, and
// comes back filled.
struct HostBuffers {
  HostBuffer x, w, y, bias;
};

const HostBuffer& filled_by(Slot slot, const HostBuffers& host) {
  return slot == Slot::kOutput ? host.y : slot == Slot::kInput ? host.x : host.w;
}

void run_row(const Kernel& row, const Problem& problem, const HostBuffers& host,
             Placement placement) {
  const cuda::simulator::MemoryNames names;
  const HostBuffer& filled = filled_by(row.slot, host);
  std::optional<Fenced> memory[4];
  const HostBuffer* const given[4] = {&host.x, &host.w, &host.y, &host.bias};
  constexpr const char* kNames[4] = {"x", "w", "y", "the bias"};
  void* device[4] = {};
  for (int i = 0; i < 4; ++i) {
    if (!given[i]->data) continue;
    const auto bytes = static_cast<std::size_t>(given[i]->bytes);
    memory[i].emplace(kNames[i], bytes, element_bytes(problem.dtype), placement);
    device[i] = memory[i]->data();
    std::memcpy(device[i], given[i]->data, bytes);
    if (given[i] != &filled) memory[i]->forbid_writes();
  }
  const WorkspaceSize size = row.workspace(problem);
  if (size.per_thread) throw std::runtime_error("there are no threads to have a workspace");
  Fenced workspace("the workspace", size.shared, 64, Placement::kAtEnd);
  row.run(problem, Buffers{device[0], device[1], device[2], device[3], nullptr},
          Workspace(workspace.data(), size));
  workspace.check_surroundings();
  for (int i = 0; i < 4; ++i) {
    if (!memory[i]) continue;
    memory[i]->check_surroundings();
    if (given[i] == &filled) std::memcpy(filled.data, device[i], memory[i]->bytes());
  }
}

}  // namespace
}  // namespace handconv

#define HANDCONV_EXPORT extern "C" __attribute__((visibility("default")))

HANDCONV_EXPORT std::int64_t simulator_problem_bytes() { return sizeof(handconv::Problem); }

HANDCONV_EXPORT int simulator_rows() { return static_cast<int>(handconv::rows().size()); }
HANDCONV_EXPORT const char* simulator_name(int row) { return handconv::rows()[row].name; }
HANDCONV_EXPORT int simulator_slot(int row) { return static_cast<int>(handconv::rows()[row].slot); }
HANDCONV_EXPORT int simulator_algorithm(int row) {
  return static_cast<int>(handconv::rows()[row].algorithm);
}

HANDCONV_EXPORT const char* simulator_cannot(int row, const handconv::Problem* problem) {
  return handconv::rows()[row].cannot(*problem);
}
HANDCONV_EXPORT const char* simulator_should_not(int row, const handconv::Problem* problem) {
  return handconv::rows()[row].should_not(*problem);
}
HANDCONV_EXPORT std::int64_t simulator_workspace(int row, const handconv::Problem* problem) {
  return static_cast<std::int64_t>(handconv::rows()[row].workspace(*problem).shared);
}

// What went wrong, or null.
HANDCONV_EXPORT const char* simulator_run(int row, const handconv::Problem* problem,
                                          const handconv::HostBuffers* buffers, std::uint64_t seed,
                                          int placement) {
  static std::string message;
  try {
    handconv::cuda::simulator::set_seed(seed);
    handconv::run_row(handconv::rows()[row], *problem, *buffers,
                      static_cast<handconv::cuda::simulator::Placement>(placement));
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}
