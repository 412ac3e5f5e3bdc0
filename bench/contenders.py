"""The two sides of the comparison: one call per slot, for handconv and for F.conv2d.

A contender turns a case and its operands into a call without arguments that returns the result of
one slot. What is timed is that call: argument parsing, dispatch, allocation and weight packing are
inside it, on both sides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from cases import Case, Tensors
from measuring import HANDCONV, RIVAL, Call
from torch import Tensor

import handconv


def contenders(case: Case, tensors: Tensors, slot: str, algorithm: str) -> dict[str, Call]:
    """The calls to be timed against each other, by the name of the contender."""
    return {
        HANDCONV: handconv_call(case, tensors, slot, algorithm),
        RIVAL: aten_call(case, tensors, slot),
    }


def handconv_call(case: Case, tensors: Tensors, slot: str, algorithm: str) -> Call:
    x, w, bias, y = tensors
    arguments = case.arguments
    if slot == "forward":
        return lambda: handconv.conv2d(x, w, bias, *arguments, algorithm=algorithm)
    trio = "conv2d" if algorithm == "auto" else f"conv2d_{algorithm}"
    op = getattr(torch.ops.handconv, f"{trio}_{slot}").default
    if slot == "input_grad":
        return lambda: op(y, w, None, (case.H, case.W), *arguments)
    return lambda: op(y, x, case.kernel, *arguments)


def aten_call(case: Case, tensors: Tensors, slot: str) -> Call:
    """F.conv2d and what its own backward calls, asked for one gradient only.

    torch.nn.grad is not faster: it calls the same operator, and its input gradient is in NCHW
    whatever the layout of the operands.
    """
    x, w, bias, y = tensors
    stride, padding, dilation, groups = case.arguments
    if slot == "forward":
        return lambda: F.conv2d(x, w, bias, stride, padding, dilation, groups)
    backward = torch.ops.aten.convolution_backward.default
    wanted = [slot == "input_grad", slot == "weight_grad", False]
    result = wanted.index(True)
    no_output_padding = [0, 0]

    return lambda: backward(
        y, x, w, None, stride, padding, dilation, False, no_output_padding, groups, wanted
    )[result]


def float64_result(case: Case, tensors: Tensors, slot: str) -> Tensor:
    """What is right: F.conv2d in float64 on contiguous copies of the same operands."""
    x, w, y = (t.double().contiguous() for t in (tensors.x, tensors.w, tensors.y))
    bias = None if tensors.bias is None else tensors.bias.double()
    result: Tensor = aten_call(case, Tensors(x, w, bias, y), slot)()
    return result


def kernel_name(case: Case, tensors: Tensors, slot: str, algorithm: str) -> str:
    """The row of the kernel table that handconv runs here."""
    x, w, bias, _ = tensors
    explanation = handconv.explain(x, w, bias, *case.arguments, algorithm=algorithm)
    return str(getattr(explanation, slot).kernel)
