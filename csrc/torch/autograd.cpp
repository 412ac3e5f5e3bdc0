// Derivatives of every op, to every order, forward and reverse.
//
// F(y, x, w) = < y, conv(x, w) > is linear in each slot, and an op fills one slot given the other
// two. Let g be the cotangent of what it filled. Putting g into the filled slot and leaving one
// operand out gives the gradient of that operand: it fills the slot of the operand left out. So the
// whole table of first and second derivatives is `gradient_of` below, and since it calls the same
// ops, it holds for every order. The tangent rule is the product rule: op(da, b) + op(a, db).
//
// The bias stands outside the form: it is added to every position of its channel, so its gradient
// is a sum over all positions.

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/library.h>

#include <mutex>

#include "torch/node_pointer.h"
#include "torch/operations.h"

namespace handconv {
namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

using Pair = std::array<c10::SymInt, 2>;

Pair spatial_size(const at::Tensor& tensor) { return {tensor.sym_size(2), tensor.sym_size(3)}; }

// The sum over samples and positions, (N, C, H, W) -> (C). A bias is the 1x1 weight of one more
// input channel that is one everywhere, so its gradient is that weight's gradient; the sum is then
// as reproducible as every other result here, which at::sum is not: its order depends on the number
// of threads. A window of 1x1 is nothing for Winograd.
at::Tensor channel_sum(Algorithm algorithm, const at::Tensor& g) {
  if (algorithm == Algorithm::kWinograd) algorithm = Algorithm::kDirect;
  const Pair one{1, 1}, zero{0, 0};
  Call call{algorithm, Slot::kWeight, {}, std::nullopt, one, Window{one, zero, one, 1}};
  call.operands[Slot::kOutput] = g;
  call.operands[Slot::kInput] = g.new_ones_symint({g.sym_size(0), 1, g.sym_size(2), g.sym_size(3)});
  return dispatch(call).reshape({-1});
}

at::Tensor in_format(const at::Tensor& gradient, at::MemoryFormat format) {
  return gradient.suggest_memory_format() == format ? gradient : gradient.contiguous(format);
}

// What the gradients of one call are computed from. The tensors of the operands are undefined where
// no gradient needs them.
struct BackwardState {
  Algorithm algorithm;
  Slot filled;
  Window window;
  std::array<Pair, kSlotCount> sizes;                  // spatial size of y, x and w
  std::array<at::MemoryFormat, kSlotCount> formats{};  // of the two operands
  std::array<bool, 3> wanted{};  // gradients of the two operands and of the bias
};

template <class State, class Visit>
void visit_symbols(State& state, Visit visit) {
  for (auto& pair : state.sizes) {
    for (auto& symbol : pair) visit(symbol);
  }
  for (auto* pair : {&state.window.stride, &state.window.padding, &state.window.dilation}) {
    for (auto& symbol : *pair) visit(symbol);
  }
  visit(state.window.groups);
}

at::Tensor gradient_of(const BackwardState& state, const Operands& saved, Slot wanted, Slot other,
                       const at::Tensor& g) {
  const Pair& size = state.sizes[static_cast<int>(wanted)];
  Call call{state.algorithm, wanted, {}, std::nullopt, size, state.window};
  call.operands[state.filled] = g;
  call.operands[other] = saved[other];
  at::Tensor gradient = dispatch(call);
  if (wanted == Slot::kOutput && spatial_size(gradient) != size) {
    // x was larger than y's natural counterpart (output_padding): y has no elements for the windows
    // at the end.
    gradient = gradient.narrow_symint(2, 0, size[0]).narrow_symint(3, 0, size[1]);
  }
  return in_format(gradient, state.formats[static_cast<int>(wanted)]);
}

variable_list gradients_of(const BackwardState& state, const Operands& saved, const at::Tensor& g) {
  variable_list results(3);
  if (!g.defined()) return results;
  // The forward pass settled in which precision to compute, as for torch's own operations: an
  // autocast around the backward pass does not lower it.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto [first, second] = operand_slots(state.filled);
  if (state.wanted[0]) results[0] = gradient_of(state, saved, first, second, g);
  if (state.wanted[1]) results[1] = gradient_of(state, saved, second, first, g);
  if (state.wanted[2]) results[2] = channel_sum(state.algorithm, g);
  return results;
}

// Compiled autograd records the backward as one function of values, which it calls while it traces:
// this is that function, and these two are how its arguments travel.
std::vector<at::IValue> pack(const BackwardState& state, const Operands& saved) {
  torch::dynamo::autograd::PackedArgs args;
  std::vector<int64_t> numbers{static_cast<int64_t>(state.algorithm),
                               static_cast<int64_t>(state.filled)};
  for (const auto format : state.formats) numbers.push_back(static_cast<int64_t>(format));
  for (const bool wanted : state.wanted) numbers.push_back(wanted);
  std::vector<at::SymInt> symbols;
  visit_symbols(state, [&](const c10::SymInt& symbol) { symbols.push_back(symbol); });
  args.pack(numbers);
  args.pack(symbols);
  for (const auto& tensor : saved.tensors) args.pack(tensor);
  return args.vec();
}

variable_list gradients_from_packed(const variable_list& gradients,
                                    const std::vector<at::IValue>& values) {
  torch::dynamo::autograd::PackedArgs args(values);
  const auto numbers = args.unpack<std::vector<int64_t>>();
  auto number = numbers.begin();
  BackwardState state;
  state.algorithm = static_cast<Algorithm>(*number++);
  state.filled = static_cast<Slot>(*number++);
  for (auto& format : state.formats) format = static_cast<at::MemoryFormat>(*number++);
  for (auto& wanted : state.wanted) wanted = *number++ != 0;
  const auto symbols = args.unpack<std::vector<at::SymInt>>();
  auto symbol = symbols.begin();
  visit_symbols(state, [&](c10::SymInt& target) { target = *symbol++; });
  Operands saved;
  for (auto& tensor : saved.tensors) tensor = args.unpack<at::Tensor>();
  return gradients_of(state, saved, gradients[0]);
}

struct Conv2dBackward : public torch::autograd::Node {
  BackwardState state;
  std::array<SavedVariable, kSlotCount> saved;

  std::string name() const override {
    constexpr const char* kNames[kSlotCount] = {"HandconvConv2dBackward",
                                                "HandconvConv2dInputGradBackward",
                                                "HandconvConv2dWeightGradBackward"};
    return kNames[static_cast<int>(state.filled)];
  }

  // Under a lock, as in torch's own nodes: several threads may go through one graph at once, and
  // each wants other gradients.
  variable_list apply(variable_list&& gradients) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    note_what_is_wanted();
    variable_list results = gradients_of(state, unpack_saved(), gradients[0]);
    results.resize(num_outputs());
    return results;
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& variable : saved) variable.reset_data();
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(static_cast<int64_t>(state.algorithm));
    args.collect(static_cast<int64_t>(state.filled));
    for (const auto format : state.formats) args.collect(static_cast<int64_t>(format));
    for (const auto& variable : saved) args.collect(variable, false);
    visit_symbols(state, [&](const c10::SymInt& symbol) { args.collect(symbol); });
  }

  variable_list apply_with_saved(const variable_list& gradients,
                                 torch::dynamo::autograd::SwapSavedVariables& swapped) override {
    namespace compiled = torch::dynamo::autograd;
    note_what_is_wanted();
    for (auto& variable : saved) swapped.before(variable);
    visit_symbols(state, [&](c10::SymInt& symbol) { swapped.before(symbol); });

    const auto arguments = pack(state, unpack_saved());
    std::vector<at::TypePtr> schema;
    for (const auto& value : arguments) {
      schema.push_back(value.isTensor() ? at::TypePtr(at::TensorType::get()) : value.type());
    }
    const auto edges =
        compiled::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            compiled::get_input_metadata(next_edges()));
    const auto& compiler = compiled::getPyCompilerInterface();
    const auto function =
        compiler->bind_function(swapped.get_py_compiler(), name(), gradients_from_packed, schema,
                                /*is_custom_function=*/true, /*is_traceable=*/true);
    variable_list results = compiler->call_function(swapped.get_py_compiler(), "apply_functional",
                                                    function, gradients, arguments, edges);

    for (auto& variable : saved) swapped.after(variable);
    visit_symbols(state, [&](c10::SymInt& symbol) { swapped.after(symbol); });
    return results;
  }

 private:
  void note_what_is_wanted() {
    for (std::size_t i = 0; i < state.wanted.size(); ++i) {
      state.wanted[i] = i < num_outputs() && task_should_compute_output(i);
    }
  }

  Operands unpack_saved() const {
    Operands operands;
    for (std::size_t i = 0; i < saved.size(); ++i) operands.tensors[i] = saved[i].unpack();
    return operands;
  }
};

std::array<Pair, kSlotCount> spatial_sizes(const Call& call, const at::Tensor& result) {
  std::array<Pair, kSlotCount> sizes;
  for (const auto slot : {Slot::kOutput, Slot::kInput, Slot::kWeight}) {
    sizes[static_cast<int>(slot)] =
        spatial_size(slot == call.filled ? result : call.operands[slot]);
  }
  return sizes;
}

bool has_tangent(const at::Tensor& tensor) { return tensor._fw_grad(/*level=*/0).defined(); }

at::Tensor tangent_of(const at::Tensor& tensor) { return tensor._fw_grad(/*level=*/0); }

// Undefined if no operand has a tangent.
at::Tensor result_tangent(const Call& call, const at::Tensor& result) {
  const auto [first, second] = operand_slots(call.filled);
  at::Tensor tangent;
  const auto add = [&](const at::Tensor& term) {
    tangent = tangent.defined() ? tangent.add(term) : term;
  };
  const auto add_with_tangent_of = [&](Slot moving, Slot fixed) {
    if (!has_tangent(call.operands[moving])) return;
    Call term{call.algorithm, call.filled, {}, std::nullopt, call.size, call.window};
    term.operands[moving] = tangent_of(call.operands[moving]);
    term.operands[fixed] = call.operands[fixed]._fw_primal(/*level=*/0);
    add(dispatch(term));
  };
  add_with_tangent_of(first, second);
  add_with_tangent_of(second, first);
  if (call.bias && has_tangent(*call.bias)) {
    add(tangent_of(*call.bias).reshape({1, -1, 1, 1}).expand_symint(result.sym_sizes()));
  }
  return tangent;
}

at::Tensor below_autograd(const Call& call) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return dispatch(call);
}

auto make_backward_node(const Call& call) {
  const auto [first, second] = operand_slots(call.filled);
  const at::Tensor& a = call.operands[first];
  const at::Tensor& b = call.operands[second];
  auto node = make_node<Conv2dBackward>();
  node->set_next_edges(call.bias ? torch::autograd::collect_next_edges(a, b, *call.bias)
                                 : torch::autograd::collect_next_edges(a, b));
  node->state.algorithm = call.algorithm;
  node->state.filled = call.filled;
  node->state.window = call.window;
  for (const auto slot : {first, second}) {
    node->state.formats[static_cast<int>(slot)] = call.operands[slot].suggest_memory_format();
  }
  if (node->should_compute_output(1))
    node->saved[static_cast<int>(first)] = SavedVariable(a, false);
  if (node->should_compute_output(0))
    node->saved[static_cast<int>(second)] = SavedVariable(b, false);
  return node;
}

bool requires_grad(const Call& call) {
  const auto [first, second] = operand_slots(call.filled);
  return torch::autograd::compute_requires_grad(call.operands[first], call.operands[second],
                                                call.bias.value_or(at::Tensor()));
}

at::Tensor conv2d_autograd(const Call& call) {
  decltype(make_backward_node(call)) node;
  if (requires_grad(call)) node = make_backward_node(call);
  at::Tensor result = below_autograd(call);
  if (node) {
    node->state.sizes = spatial_sizes(call, result);
    torch::autograd::set_history(result, node);
  }
  const at::Tensor tangent = result_tangent(call, result);
  if (tangent.defined()) result._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
  return result;
}

}  // namespace
}  // namespace handconv

TORCH_LIBRARY_IMPL(handconv, Autograd, library) {
  handconv::register_trios<handconv::conv2d_autograd>(library);
}
