// The kernels that handconv has, best first, and the choice among them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "geometry.h"

namespace handconv {

enum class Algorithm { kAuto, kDirect, kIm2col, kWinograd, kReference };

// Why a kernel does not take a problem: a string literal, or null if it does.
using Refusal = const char*;

// Scratch memory of one call, in bytes. It is allocated before the kernel runs and handed to it,
// aligned to 64 bytes.
struct WorkspaceSize {
  std::size_t shared = 0;
  std::size_t per_thread = 0;
};

class Workspace {
 public:
  Workspace(std::byte* base, WorkspaceSize size) : base_(base), size_(size) {}

  static std::size_t total_bytes(WorkspaceSize size, int threads) {
    return aligned(size.shared) + static_cast<std::size_t>(threads) * aligned(size.per_thread);
  }

  template <class T>
  T* shared() const {
    return reinterpret_cast<T*>(base_);
  }
  template <class T>
  T* of_thread(int thread) const {
    return reinterpret_cast<T*>(base_ + aligned(size_.shared) +
                                static_cast<std::size_t>(thread) * aligned(size_.per_thread));
  }

 private:
  static std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

  std::byte* base_;
  WorkspaceSize size_;
};

struct Kernel {
  // device.algorithm.variant.instruction set, as in "cpu.direct.channels.avx512" and
  // "cuda.direct.depthwise"
  const char* name;
  Device device;
  Slot slot;
  Algorithm algorithm;
  const char* summary;
  // What the kernel cannot do. A kernel that is forced by name is asked this alone.
  Refusal (*cannot)(const Problem&);
  // What it can do, but a later row does better: the rule by which `auto` chooses.
  Refusal (*should_not)(const Problem&);
  WorkspaceSize (*workspace)(const Problem&);
  void (*run)(const Problem&, const Buffers&, const Workspace&);
};

// The rows that one family of kernels contributes to the table.
struct KernelList {
  const Kernel* begin;
  const Kernel* end;
};

// Every kernel that this build has and this processor can run, by device, best first; the
// reference, which takes every problem of its device, is last. Without a GPU the rows of CUDA stand
// here too.
const std::vector<Kernel>& kernels();

// One row's answer to a problem.
struct Verdict {
  const Kernel* kernel;
  Refusal refusal;  // null for the kernel that runs
};

// The answers of the rows in order, up to the one that takes the problem.
std::vector<Verdict> consider(const Problem& problem, Algorithm algorithm);

// The kernel that runs the problem.
const Kernel& choose(const Problem& problem, Algorithm algorithm);

// From now on every op of this process runs on the kernel of that name, and fails with its reason
// where it cannot; an empty name ends this. For tests and benchmarks.
void force_kernel(const std::string& name);
std::string forced_kernel_name();

// "cpu", "cuda"; "forward", "input_grad", "weight_grad"; "auto", "direct", "im2col", "winograd",
// "reference".
const char* to_string(Device device);
const char* to_string(Slot slot);
const char* to_string(Algorithm algorithm);

}  // namespace handconv
