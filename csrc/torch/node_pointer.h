// What differs between the torch releases that handconv supports: a graph node is held by
// std::shared_ptr up to torch 2.11 and by c10::intrusive_ptr from 2.13 on. The pointer type is read
// off Edge, so no version number is compared.
#pragma once

#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>

#include <memory>
#include <utility>

namespace handconv {

using NodePointer = decltype(torch::autograd::Edge::function);

template <class Node, class... Args>
auto make_node(Args&&... args) {
  if constexpr (std::is_same_v<NodePointer, std::shared_ptr<torch::autograd::Node>>) {
    // Unqualified, so that it is looked up only where a release has it.
    return std::shared_ptr<Node>(new Node(std::forward<Args>(args)...),
                                 [](Node* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<Node>(std::forward<Args>(args)...);
  }
}

}  // namespace handconv
