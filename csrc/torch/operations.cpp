#include "torch/operations.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace handconv {
namespace {

template <Algorithm algorithm>
auto find_operation(const char* slot_suffix) {
  const std::string name =
      std::string("handconv::conv2d") + operation_suffix(algorithm) + slot_suffix;
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
}

template <Algorithm algorithm>
at::Tensor dispatch_trio(const Call& call) {
  static const auto forward = find_operation<algorithm>("").template typed<Forward>();
  static const auto input_grad =
      find_operation<algorithm>("_input_grad").template typed<InputGrad>();
  static const auto weight_grad =
      find_operation<algorithm>("_weight_grad").template typed<WeightGrad>();
  const auto& [stride, padding, dilation, groups] = call.window;
  const auto [first_slot, second_slot] = operand_slots(call.filled);
  const auto& first = call.operands[first_slot];
  const auto& second = call.operands[second_slot];
  switch (call.filled) {
    case Slot::kOutput:
      return forward.call(first, second, call.bias, stride, padding, dilation, groups);
    case Slot::kInput:
      return input_grad.call(first, second, call.bias, call.size, stride, padding, dilation,
                             groups);
    default:
      return weight_grad.call(first, second, call.size, stride, padding, dilation, groups);
  }
}

void define_trio(torch::Library& library, Algorithm algorithm) {
  const std::string name = std::string("conv2d") + operation_suffix(algorithm);
  const std::string window =
      "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups) -> Tensor";
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  library.def((name + "(Tensor x, Tensor w, Tensor? bias, " + window).c_str(), tags);
  library.def(
      (name + "_input_grad(Tensor y, Tensor w, Tensor? bias, SymInt[2] size, " + window).c_str(),
      tags);
  library.def((name + "_weight_grad(Tensor y, Tensor x, SymInt[2] size, " + window).c_str(), tags);
}

}  // namespace

const char* operation_suffix(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kDirect:
      return "_direct";
    case Algorithm::kIm2col:
      return "_im2col";
    case Algorithm::kWinograd:
      return "_winograd";
    default:
      return "";
  }
}

namespace detail {

Operands make_operands(Slot filled, const at::Tensor& first, const at::Tensor& second) {
  const auto [first_slot, second_slot] = operand_slots(filled);
  Operands operands;
  operands[first_slot] = first;
  operands[second_slot] = second;
  return operands;
}

void register_trio(torch::Library& library, Algorithm algorithm, const Trio& trio) {
  const std::string name = std::string("conv2d") + operation_suffix(algorithm);
  library.impl(name.c_str(), trio.forward);
  library.impl((name + "_input_grad").c_str(), trio.input_grad);
  library.impl((name + "_weight_grad").c_str(), trio.weight_grad);
}

}  // namespace detail

at::Tensor dispatch(const Call& call) {
  switch (call.algorithm) {
    case Algorithm::kDirect:
      return dispatch_trio<Algorithm::kDirect>(call);
    case Algorithm::kIm2col:
      return dispatch_trio<Algorithm::kIm2col>(call);
    case Algorithm::kWinograd:
      return dispatch_trio<Algorithm::kWinograd>(call);
    default:
      return dispatch_trio<Algorithm::kAuto>(call);
  }
}

}  // namespace handconv

TORCH_LIBRARY(handconv, library) {
  for (const auto algorithm : {handconv::Algorithm::kAuto, handconv::Algorithm::kDirect,
                               handconv::Algorithm::kIm2col, handconv::Algorithm::kWinograd}) {
    handconv::define_trio(library, algorithm);
  }
}
