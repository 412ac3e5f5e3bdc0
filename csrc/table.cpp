#include "table.h"

#include <atomic>
#include <stdexcept>
#include <string_view>

#include "cpu/isa.h"
#include "cpu/kernels.h"

namespace handconv {
namespace {

std::vector<Kernel> collect_kernels() {
  std::vector<Kernel> table;
  const auto append = [&](KernelList list) { table.insert(table.end(), list.begin, list.end); };
  if (isa_is_usable(Isa::kAvx512)) append(avx512_kernels());
  if (isa_is_usable(Isa::kAvx2)) append(avx2_kernels());
  append(baseline_kernels());
  append(reference_kernels());
  return table;
}

// The name that every op is forced to, kept for ever once given: a pointer into the table.
std::atomic<const char*> forced_name{nullptr};

Refusal refusal_by_algorithm(const Kernel& kernel, Algorithm algorithm) {
  if (algorithm == Algorithm::kAuto || kernel.algorithm == Algorithm::kReference) return nullptr;
  return kernel.algorithm == algorithm ? nullptr : "belongs to another algorithm";
}

Refusal refusal_of(const Kernel& kernel, const Problem& problem, Algorithm algorithm) {
  if (const Refusal reason = refusal_by_algorithm(kernel, algorithm)) return reason;
  if (const Refusal reason = kernel.cannot(problem)) return reason;
  return kernel.should_not(problem);
}

const Kernel& forced_kernel(const Problem& problem, std::string_view name) {
  for (const Kernel& kernel : kernels()) {
    if (kernel.slot != problem.slot || name != kernel.name) continue;
    if (const Refusal reason = kernel.cannot(problem)) {
      throw std::runtime_error(std::string(name) + " was forced, but cannot run this: " + reason);
    }
    return kernel;
  }
  throw std::runtime_error(std::string(name) + " was forced, but has no kernel for " + to_string(problem.slot));
}

}  // namespace

const std::vector<Kernel>& kernels() {
  static const std::vector<Kernel> table = collect_kernels();
  return table;
}

std::vector<Verdict> consider(const Problem& problem, Algorithm algorithm) {
  if (const char* name = forced_name.load()) return {{&forced_kernel(problem, name), nullptr}};
  std::vector<Verdict> verdicts;
  for (const Kernel& kernel : kernels()) {
    if (kernel.slot != problem.slot) continue;
    verdicts.push_back({&kernel, refusal_of(kernel, problem, algorithm)});
    if (!verdicts.back().refusal) break;
  }
  return verdicts;
}

const Kernel& choose(const Problem& problem, Algorithm algorithm) {
  if (const char* name = forced_name.load()) return forced_kernel(problem, name);
  for (const Kernel& kernel : kernels()) {
    if (kernel.slot == problem.slot && !refusal_of(kernel, problem, algorithm)) return kernel;
  }
  throw std::logic_error("the reference kernel takes every problem");
}

void force_kernel(const std::string& name) {
  if (name.empty()) {
    forced_name = nullptr;
    return;
  }
  for (const Kernel& kernel : kernels()) {
    if (name == kernel.name) {
      forced_name = kernel.name;
      return;
    }
  }
  throw std::runtime_error("no kernel named " + name + " can run on this machine");
}

const char* to_string(Slot slot) {
  constexpr const char* kNames[kSlotCount] = {"forward", "input_grad", "weight_grad"};
  return kNames[static_cast<int>(slot)];
}

const char* to_string(Algorithm algorithm) {
  constexpr const char* kNames[] = {"auto", "direct", "im2col", "reference"};
  return kNames[static_cast<int>(algorithm)];
}

}  // namespace handconv
