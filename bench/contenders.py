"""The two sides of the comparison: one call per slot, for handconv and for F.conv2d.

A contender turns a case and its operands into a call without arguments that returns the result of
one slot. What is timed is that call: argument parsing, dispatch, allocation and weight packing are
inside it, on both sides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from cases import Case, Tensors
from clocks import Call
from measuring import HANDCONV, RIVAL, TUNED_RIVAL
from torch import Tensor

import handconv


def contenders(case: Case, tensors: Tensors, slot: str, algorithm: str) -> dict[str, Call]:
    """The calls to be timed against each other, by the name of the contender."""
    rival = aten_call(case, tensors, slot)
    calls = {HANDCONV: handconv_call(case, tensors, slot, algorithm), RIVAL: rival}
    if tensors.x.is_cuda:
        calls |= {RIVAL: with_tuning(rival, False), TUNED_RIVAL: with_tuning(rival, True)}
    return calls


def with_tuning(call: Call, tuning: bool) -> Call:
    """cuDNN tries its algorithms out at the first call of a problem, or goes by its heuristics."""

    def tuned() -> Tensor:
        torch.backends.cudnn.benchmark = tuning
        result: Tensor = call()
        return result

    return tuned


# More copies than this would only take memory.
MOST_COPIES = 256


def copies_to_exceed(cache_bytes: int, case: Case, dtype: torch.dtype) -> int:
    """So many copies of the operands that a call finds nothing of its own in the cache.

    Twice the size of the cache, as what was used last may be what stays.
    """
    wanted = math.ceil(2 * cache_bytes / max(case.bytes("weight_grad", dtype), 1))
    return min(max(wanted, 1), MOST_COPIES)


def copy_of(tensors: Tensors) -> Tensors:
    return Tensors(*(None if tensor is None else tensor.clone() for tensor in tensors))


def rotated(calls_of_copies: Sequence[dict[str, Call]]) -> dict[str, Call]:
    """Calls that each take the next copy, whoever took the one before.

    With a turn of its own, a contender would find what the one before it has just read.
    """
    if len(calls_of_copies) == 1:
        return calls_of_copies[0]
    turns = itertools.cycle(calls_of_copies)

    def rotating(name: str) -> Call:
        return lambda: next(turns)[name]()

    return {name: rotating(name) for name in calls_of_copies[0]}


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
