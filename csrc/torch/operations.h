// The ops as torch's dispatcher sees them: a trio of conv2d, conv2d_input_grad and
// conv2d_weight_grad for each algorithm, whose kernels at every dispatch key are made from the
// templates below.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <utility>

#include "table.h"
#include "torch/arguments.h"

namespace handconv {

// The trio's suffix in torch.ops.handconv: "", "_direct", "_im2col", "_winograd".
const char* operation_suffix(Algorithm algorithm);

// One op call, as data: which op, on what, with which arguments.
struct Call {
  Algorithm algorithm;
  Slot filled;
  Operands operands;  // the two that the op reads
  std::optional<at::Tensor> bias;
  c10::SymIntArrayRef size;  // spatial size of what is filled; empty when y is
  Window window;
};

// Sends the call through torch's dispatcher, from the top.
at::Tensor dispatch(const Call& call);

// The three functions of a trio, as torch calls them.
using OptionalTensor = std::optional<at::Tensor>;
using SymInts = c10::SymIntArrayRef;
using Forward = at::Tensor(const at::Tensor& x, const at::Tensor& w, const OptionalTensor& bias,
                           SymInts stride, SymInts padding, SymInts dilation, c10::SymInt groups);
using InputGrad = at::Tensor(const at::Tensor& y, const at::Tensor& w, const OptionalTensor& bias,
                             SymInts size, SymInts stride, SymInts padding, SymInts dilation,
                             c10::SymInt groups);
using WeightGrad = at::Tensor(const at::Tensor& y, const at::Tensor& x, SymInts size,
                              SymInts stride, SymInts padding, SymInts dilation,
                              c10::SymInt groups);
struct Trio {
  Forward* forward;
  InputGrad* input_grad;
  WeightGrad* weight_grad;
};

using KernelOf = at::Tensor (*)(const Call& call);

// The trio of `algorithm` whose functions put their arguments into a Call and hand it to `kernel`.
template <KernelOf kernel, Algorithm algorithm>
constexpr Trio trio_of();

// Registers `kernel` under the names of every trio, for the dispatch key of `library`.
template <KernelOf kernel>
void register_trios(torch::Library& library);

namespace detail {

Operands make_operands(Slot filled, const at::Tensor& first, const at::Tensor& second);

// Not a template: what torch wraps around a kernel to call it with boxed arguments is compiled once
// for each signature this way, instead of for each kernel, which takes minutes.
void register_trio(torch::Library& library, Algorithm algorithm, const Trio& trio);

template <KernelOf kernel, Algorithm algorithm>
at::Tensor forward(const at::Tensor& x, const at::Tensor& w, const OptionalTensor& bias,
                   SymInts stride, SymInts padding, SymInts dilation, c10::SymInt groups) {
  return kernel({algorithm,
                 Slot::kOutput,
                 make_operands(Slot::kOutput, x, w),
                 bias,
                 {},
                 make_window<c10::SymInt>(stride, padding, dilation, groups)});
}

template <KernelOf kernel, Algorithm algorithm>
at::Tensor input_grad(const at::Tensor& y, const at::Tensor& w, const OptionalTensor& bias,
                      SymInts size, SymInts stride, SymInts padding, SymInts dilation,
                      c10::SymInt groups) {
  return kernel({algorithm, Slot::kInput, make_operands(Slot::kInput, y, w), bias, size,
                 make_window<c10::SymInt>(stride, padding, dilation, groups)});
}

template <KernelOf kernel, Algorithm algorithm>
at::Tensor weight_grad(const at::Tensor& y, const at::Tensor& x, SymInts size, SymInts stride,
                       SymInts padding, SymInts dilation, c10::SymInt groups) {
  return kernel({algorithm, Slot::kWeight, make_operands(Slot::kWeight, y, x), std::nullopt, size,
                 make_window<c10::SymInt>(stride, padding, dilation, groups)});
}

}  // namespace detail

template <KernelOf kernel, Algorithm algorithm>
constexpr Trio trio_of() {
  return {detail::forward<kernel, algorithm>, detail::input_grad<kernel, algorithm>,
          detail::weight_grad<kernel, algorithm>};
}

template <KernelOf kernel>
void register_trios(torch::Library& library) {
  detail::register_trio(library, Algorithm::kAuto, trio_of<kernel, Algorithm::kAuto>());
  detail::register_trio(library, Algorithm::kDirect, trio_of<kernel, Algorithm::kDirect>());
  detail::register_trio(library, Algorithm::kIm2col, trio_of<kernel, Algorithm::kIm2col>());
  detail::register_trio(library, Algorithm::kWinograd, trio_of<kernel, Algorithm::kWinograd>());
}

}  // namespace handconv
