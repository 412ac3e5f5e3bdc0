#include "table.h"

#include <atomic>
#include <stdexcept>
#include <string_view>

#include "cpu/isa.h"
#include "cpu/kernels.h"
#if HANDCONV_WITH_CUDA
#include "cuda/kernels.h"
#endif

namespace handconv {
namespace {

std::vector<Kernel> collect_kernels() {
  std::vector<Kernel> table;
  const auto append = [&](std::initializer_list<KernelList> families) {
    for (const auto& family : families) table.insert(table.end(), family.begin, family.end);
  };
  if (isa_is_usable(Isa::kAvx512)) append({HANDCONV_CPU_FAMILIES(HANDCONV_AVX512)});
  if (isa_is_usable(Isa::kAvx2)) append({HANDCONV_CPU_FAMILIES(HANDCONV_AVX2)});
  append({HANDCONV_CPU_FAMILIES(HANDCONV_BASELINE)});
  append({reference_kernels()});
#if HANDCONV_WITH_CUDA
  append({cuda_depthwise(), cuda_grouped(), cuda_gemm(), cuda_im2col(), cuda_reference()});
#endif
  return table;
}

// The name that every op is forced to, out of the table; null for none.
std::atomic<const char*> forced_name{nullptr};

bool serves(const Kernel& kernel, const Problem& problem) {
  return kernel.device == problem.device && kernel.slot == problem.slot;
}

bool has_tiles(Problem problem, Slot slot) {
  problem.slot = slot;
  for (const Kernel& kernel : kernels()) {
    const bool is_asked = kernel.algorithm == Algorithm::kWinograd && serves(kernel, problem);
    if (is_asked && !kernel.cannot(problem)) return true;
  }
  return false;
}

// The reference stands in for the other algorithms, which take every problem. What Winograd cannot
// do it refuses, but where it has tiles for all of a convolution except its weight gradient, which
// training needs, direct kernels stand in.
bool stands_in(const Kernel& kernel, const Problem& problem, Algorithm algorithm) {
  if (algorithm != Algorithm::kWinograd) return kernel.algorithm == Algorithm::kReference;
  return kernel.algorithm == Algorithm::kDirect && problem.slot == Slot::kWeight &&
         !has_tiles(problem, Slot::kWeight) && has_tiles(problem, Slot::kOutput);
}

Refusal refusal_by_algorithm(const Kernel& kernel, const Problem& problem, Algorithm algorithm) {
  const bool belongs = algorithm == Algorithm::kAuto || kernel.algorithm == algorithm ||
                       stands_in(kernel, problem, algorithm);
  return belongs ? nullptr : "belongs to another algorithm";
}

// Windows that lie so far apart, or reach so far beyond the image, that sizes and loops of kernels
// which walk the padded image would have no bound. The columns of im2col lie by outputs and taps.
bool reaches_far(const Problem& problem) {
  const auto is_far = [](const Axis& axis) {
    const std::int64_t far = axis.input + (std::int64_t{1} << 16);
    return axis.padding > far || axis.stride > far || axis.dilation > far;
  };
  return is_far(problem.geometry.height) || is_far(problem.geometry.width);
}

bool walks_the_image(const Kernel& kernel) {
  return kernel.device == Device::kCpu && kernel.algorithm != Algorithm::kIm2col &&
         kernel.algorithm != Algorithm::kReference;
}

Refusal inability_of(const Kernel& kernel, const Problem& problem) {
  if (walks_the_image(kernel) && reaches_far(problem))
    return "needs windows that reach less far beyond the image";
  return kernel.cannot(problem);
}

// The bound on what a kernel of the CPU may ask for, by one sample, so that the batch has no say:
// 16 MiB for each thread, and 64 bytes for each element of the tensors besides as much again for
// all threads together. Real layers stay below a fifth of the one and half of the other.
Refusal excess(const Kernel& kernel, Problem problem) {
  if (!walks_the_image(kernel)) return nullptr;
  constexpr std::size_t kOfThread = 16 << 20;
  problem.geometry.batch = 1;
  const Geometry& g = problem.geometry;
  if (g.in_channels == 0 || g.out_channels == 0) return nullptr;  // such a call runs no kernel
  const std::int64_t elements = g.in_channels * g.input_area() + g.out_channels * g.output_area() +
                                g.out_channels * g.in_channels_per_group() * g.kernel_area();
  const WorkspaceSize size = kernel.workspace(problem);
  const std::size_t of_all = kOfThread + 64 * static_cast<std::size_t>(elements);
  return size.per_thread > kOfThread || size.shared > of_all ? "would need too much workspace"
                                                             : nullptr;
}

Refusal inability(const Kernel& kernel, const Problem& problem, Algorithm algorithm) {
  const Refusal reason = refusal_by_algorithm(kernel, problem, algorithm);
  return reason ? reason : inability_of(kernel, problem);
}

Refusal refusal_of(const Kernel& kernel, const Problem& problem, Algorithm algorithm) {
  Refusal reason = inability(kernel, problem, algorithm);
  if (!reason) reason = kernel.should_not(problem);
  return reason ? reason : excess(kernel, problem);
}

// What to say where no kernel takes the problem.
std::string why_none(const Problem& problem, Algorithm algorithm) {
  const std::string device = to_string(problem.device);
  if (algorithm == Algorithm::kAuto) return "this build has no kernels for " + device;
  std::string text = std::string(to_string(algorithm)) + " cannot run this on " + device + ": ";
  std::string reasons;
  for (const Kernel& kernel : kernels()) {
    if (!serves(kernel, problem) || kernel.algorithm != algorithm) continue;
    reasons += (reasons.empty() ? "" : "; ") + std::string(kernel.name) + " ";
    const Refusal reason = inability_of(kernel, problem);
    reasons += reason ? reason : excess(kernel, problem);
  }
  return text + (reasons.empty() ? "there are no such kernels" : reasons);
}

const Kernel& kernel_forced(const Problem& problem, std::string_view name) {
  for (const Kernel& kernel : kernels()) {
    if (!serves(kernel, problem) || name != kernel.name) continue;
    Refusal reason = inability_of(kernel, problem);
    if (!reason) reason = excess(kernel, problem);
    if (reason) {
      throw std::runtime_error(std::string(name) + " was forced, but cannot run this: " + reason);
    }
    return kernel;
  }
  throw std::runtime_error(std::string(name) + " was forced, but has no kernel for " +
                           to_string(problem.slot) + " on this device");
}

}  // namespace

const std::vector<Kernel>& kernels() {
  static const std::vector<Kernel> table = collect_kernels();
  return table;
}

const Kernel& choose(const Problem& problem, Algorithm algorithm) {
  if (const char* name = forced_name.load()) return kernel_forced(problem, name);
  const auto is_able = [&](const Kernel& kernel) {
    return serves(kernel, problem) && !inability(kernel, problem, algorithm);
  };
  for (const Kernel& kernel : kernels()) {
    if (kernel.algorithm != Algorithm::kReference && is_able(kernel) &&
        !kernel.should_not(problem) && !excess(kernel, problem))
      return kernel;
  }
  // The first that can, though a later row should do better.
  for (const Kernel& kernel : kernels()) {
    if (is_able(kernel) && !excess(kernel, problem)) return kernel;
  }
  throw std::runtime_error(why_none(problem, algorithm));
}

std::vector<Verdict> consider(const Problem& problem, Algorithm algorithm) {
  const Kernel* chosen = &choose(problem, algorithm);
  std::vector<Verdict> verdicts;
  for (const Kernel& kernel : kernels()) {
    if (&kernel == chosen || forced_name.load()) break;
    if (serves(kernel, problem))
      verdicts.push_back({&kernel, refusal_of(kernel, problem, algorithm)});
  }
  verdicts.push_back({chosen, nullptr});
  return verdicts;
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

std::string forced_kernel_name() {
  const char* name = forced_name.load();
  return name ? name : "";
}

const char* to_string(Device device) { return device == Device::kCpu ? "cpu" : "cuda"; }

const char* to_string(Slot slot) {
  constexpr const char* kNames[kSlotCount] = {"forward", "input_grad", "weight_grad"};
  return kNames[static_cast<int>(slot)];
}

const char* to_string(Algorithm algorithm) {
  constexpr const char* kNames[] = {"auto", "direct", "im2col", "winograd", "reference"};
  return kNames[static_cast<int>(algorithm)];
}

}  // namespace handconv
