// The Python module handconv._C: a short way to the ops, and what the build, the processor and the
// table have to say. Loading this module registers torch.ops.handconv.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "cpu/isa.h"
#include "cpu/threads.h"
#include "table.h"
#include "torch/operations.h"
#include "torch/switches.h"

namespace py = pybind11;

namespace handconv {
namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = HANDCONV_VERSION;
  info["torch"] = TORCH_VERSION;
  info["compiler"] = __VERSION__;
  info["cxx_standard"] = static_cast<long>(__cplusplus);
#if HANDCONV_WITH_CUDA
  info["cuda"] = true;
#else
  info["cuda"] = false;
#endif
  return info;
}

py::dict cpu_features() {
  py::dict features;
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kBaseline})
    features[to_string(isa)] = cpu_has(isa);
  return features;
}

std::string best_isa() {
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2}) {
    if (isa_is_usable(isa)) return to_string(isa);
  }
  return to_string(Isa::kBaseline);
}

// How many threads a parallel loop of the CPU kernels really runs on.
int threads_at_work() {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::seconds(10);
  const int wanted = max_threads();
  std::vector<std::atomic<bool>> seen(static_cast<std::size_t>(wanted));
  std::atomic<int> at_work = 0;
  parallel_for(wanted, std::int64_t{1} << 20, [&](std::int64_t, int thread) {
    if (!seen[static_cast<std::size_t>(thread)].exchange(true)) ++at_work;
    // Whoever left before the others came would take their items.
    while (at_work < wanted && Clock::now() < deadline) std::this_thread::yield();
  });
  return at_work;
}

py::dict describe(const Kernel& kernel) {
  py::dict row;
  row["name"] = kernel.name;
  row["slot"] = to_string(kernel.slot);
  row["algorithm"] = to_string(kernel.algorithm);
  row["summary"] = kernel.summary;
  return row;
}

std::vector<py::dict> describe_kernels() {
  std::vector<py::dict> rows;
  for (const Kernel& kernel : kernels()) rows.push_back(describe(kernel));
  return rows;
}

template <class Enum>
Enum parse(const std::string& name, std::initializer_list<Enum> values) {
  for (const Enum value : values) {
    if (name == to_string(value)) return value;
  }
  throw py::value_error("'" + name + "' is not known here");
}

// The strides of the weight that a problem reads, or of that which it fills: dense, in the layout
// of the images.
WeightStrides weight_strides(Slot slot, const at::Tensor& w, Layout layout) {
  if (slot != Slot::kWeight) return {w.stride(0), w.stride(1), w.stride(2), w.stride(3)};
  const auto dense = image_strides(layout, w.size(1), w.size(2), w.size(3));
  return {dense.sample, dense.channel, dense.row, dense.column};
}

// The problem of filling a slot of F(y, x, w) from the other two. Of the tensors it takes sizes,
// strides and dtype alone.
Problem problem_of(Device device, Slot filled, Algorithm wanted, const Operands& operands,
                   const std::optional<at::Tensor>& bias, const WindowOf<int64_t>& window) {
  const auto [first, second] = operand_slots(filled);
  const Layout layout = to_layout(filled_format(operands[first], operands[second]));
  const at::Tensor& w = operands[Slot::kWeight];
  const Geometry geometry =
      make_geometry<int64_t>(filled, operands, bias, operands[filled].sizes().slice(2), window);
  return one_row_for_one_column({device, filled, to_dtype(w.scalar_type()), layout,
                                 bias.has_value(), allows_tf32(device), allows_winograd(wanted),
                                 geometry, weight_strides(filled, w, layout)});
}

using Pair = std::vector<int64_t>;

// The verdicts of the table's rows on a problem, each as (row, refusal or None, bytes of workspace
// if it runs).
std::vector<py::tuple> explain(const std::string& device, const std::string& slot,
                               const std::string& algorithm, const at::Tensor& x,
                               const at::Tensor& w, const at::Tensor& y,
                               const std::optional<at::Tensor>& bias, const Pair& stride,
                               const Pair& padding, const Pair& dilation, int64_t groups) {
  const Algorithm wanted = parse(
      algorithm, {Algorithm::kAuto, Algorithm::kDirect, Algorithm::kIm2col, Algorithm::kWinograd});
  const Slot filled = parse(slot, {Slot::kOutput, Slot::kInput, Slot::kWeight});
  Operands operands;
  operands[Slot::kInput] = x;
  operands[Slot::kWeight] = w;
  operands[Slot::kOutput] = y;
  const Problem problem =
      problem_of(parse(device, {Device::kCpu, Device::kCuda}), filled, wanted, operands, bias,
                 make_window<int64_t>(stride, padding, dilation, groups));
  const bool multiplies = operands[filled].numel() > 0 && !sums_are_empty(filled, problem.geometry);
  std::vector<py::tuple> answers;
  for (const auto& [kernel, refusal] : consider(problem, wanted)) {
    if (refusal) {
      answers.push_back(py::make_tuple(describe(*kernel), refusal, 0));
    } else {
      const auto bytes =
          multiplies ? Workspace::total_bytes(kernel->workspace(problem), max_threads()) : 0;
      answers.push_back(py::make_tuple(describe(*kernel), py::none(), bytes));
    }
  }
  return answers;
}

// conv2d and conv2d_input_grad of an algorithm: the same calls of the dispatcher that torch.ops
// makes, without its way over a list of boxed arguments that is checked against a schema, which
// costs more than a small convolution.
template <Algorithm algorithm>
void define_short_way(py::module_& module) {
  const std::string name = std::string("conv2d") + operation_suffix(algorithm);
  constexpr Trio trio = trio_of<dispatch, algorithm>();
  module.def(name.c_str(), torch::wrap_pybind_function_no_gil(*trio.forward));
  module.def((name + "_input_grad").c_str(), torch::wrap_pybind_function_no_gil(*trio.input_grad));
}

}  // namespace
}  // namespace handconv

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  using namespace handconv;
  kernels();  // a wrong HANDCONV_ISA is reported at import
  define_short_way<Algorithm::kAuto>(module);
  define_short_way<Algorithm::kDirect>(module);
  define_short_way<Algorithm::kIm2col>(module);
  define_short_way<Algorithm::kWinograd>(module);
  module.def("build_info", build_info);
  module.def("cpu_features", cpu_features);
  module.def("isa", best_isa);
  module.def("threads_at_work", threads_at_work);
  module.def("kernels", describe_kernels);
  module.def("force_kernel", force_kernel, py::arg("name"));
  module.def("forced_kernel", forced_kernel_name);
  module.def("winograd_is_allowed", [] { return winograd_switch.load(); });
  module.def("allow_winograd", [](bool allowed) { winograd_switch = allowed; });
  module.def("explain", explain, py::arg("device"), py::arg("slot"), py::arg("algorithm"),
             py::arg("x"), py::arg("w"), py::arg("y"), py::arg("bias"), py::arg("stride"),
             py::arg("padding"), py::arg("dilation"), py::arg("groups"));
}
