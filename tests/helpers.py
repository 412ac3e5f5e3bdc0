"""What the tests share: any op on a case, the kernels of a slot, and the result that is right.

The right result is always that of F.conv2d, or of torch.nn.grad, in float64 on contiguous tensors:
in other dtypes and layouts F.conv2d itself has wrong values and crashes (torch 2.13).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache, partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from cases import MEMORY_FORMATS, SMALL_CASES, Case
from torch import Tensor

import handconv

ALGORITHMS = handconv.algorithms()
CASES = {case.name: case for case in SMALL_CASES}

# Large enough for every thread to get work, and for sums and images to be cut into blocks.
LARGE_CASES = [
    Case("dense, large", 2, 130, 12, 29, 40, (3, 3), padding=(1, 1), has_bias=True),
    Case("depthwise, large", 2, 37, 35, 31, 37, (3, 3), padding=(1, 1), groups=37),
    Case("grouped, large", 3, 80, 22, 31, 72, (3, 3), (2, 2), (1, 1), groups=4, has_bias=True),
    Case("few channels, many pixels", 2, 3, 65, 70, 5, (3, 3), padding=(1, 1)),
    Case("1x1, large", 2, 300, 14, 15, 80, (1, 1)),
]

# Elements before and behind an operand of `guarded`; odd, so that no vector of it is aligned.
MARGIN = 67


class Operands(NamedTuple):
    """What an op reads. The bias belongs to what it fills: OC elements for y, C for x."""

    first: Tensor
    second: Tensor
    bias: Tensor | None


def operation(slot: str, algorithm: str = "auto") -> torch._ops.OpOverload:
    name = "conv2d" if algorithm == "auto" else f"conv2d_{algorithm}"
    packet = getattr(torch.ops.handconv, name if slot == "forward" else f"{name}_{slot}")
    overload: torch._ops.OpOverload = packet.default
    return overload


def arguments(case: Case, slot: str, operands: Operands) -> tuple[object, ...]:
    """The arguments of `operation(slot)`."""
    first, second, bias = operands
    if slot == "forward":
        return first, second, bias, *case.arguments
    if slot == "input_grad":
        return first, second, bias, (case.H, case.W), *case.arguments
    return first, second, case.kernel, *case.arguments


def run(case: Case, slot: str, operands: Operands, algorithm: str = "auto") -> Tensor:
    result: Tensor = operation(slot, algorithm)(*arguments(case, slot, operands))
    return result


def operands_of(
    case: Case,
    slot: str,
    dtype: torch.dtype = torch.float64,
    layout: str = "nchw",
    *,
    integers: bool = True,
) -> Operands:
    x, w, bias, y = case.tensors(dtype, layout, integers=integers)
    if slot == "forward":
        return Operands(x, w, bias)
    if slot == "weight_grad":
        return Operands(y, x, None)
    channels = torch.arange(case.C)
    values = channels % 5 - 2 if integers else torch.sin(channels)
    return Operands(y, w, values.to(dtype) if case.has_bias else None)


def oracle(case: Case, slot: str, operands: Operands) -> Tensor:
    """The right result of `run`, in float64."""
    first, second = (operand.detach().double().contiguous() for operand in operands[:2])
    bias = None if operands.bias is None else operands.bias.detach().double()
    if slot == "forward":
        return F.conv2d(first, second, bias, *case.arguments)
    if slot == "weight_grad":
        return torch.nn.grad.conv2d_weight(second, case.weight_shape, first, *case.arguments)
    filled = torch.nn.grad.conv2d_input(case.input_shape, second, first, *case.arguments)
    return filled if bias is None else filled + bias.reshape(-1, 1, 1)


@cache
def exact(case: Case, slot: str) -> Tensor:
    """The oracle of the integer operands, which every dtype holds exactly."""
    return oracle(case, slot, operands_of(case, slot))


def kernels_of(slot: str) -> tuple[handconv.Kernel, ...]:
    return tuple(kernel for kernel in handconv.kernels() if kernel.slot == slot)


def forced(kernel: handconv.Kernel, case: Case, slot: str, operands: Operands) -> Tensor | None:
    """The result of that kernel, or None if it cannot run this."""
    try:
        with handconv.forced_kernel(kernel.name):
            return run(case, slot, operands)
    except RuntimeError as error:
        if "cannot run this" not in str(error):
            raise
        return None


def each_kernel(
    case: Case, slot: str, operands: Operands, *, reference: bool = True
) -> Iterator[tuple[handconv.Kernel, Tensor]]:
    """Every kernel that takes the problem, with its result.

    Without the reference where it would take too long: it sums one product after another.
    """
    for kernel in kernels_of(slot):
        if kernel.algorithm != "reference" or reference:
            result = forced(kernel, case, slot, operands)
            if result is not None:
                yield kernel, result


each_fast_kernel = partial(each_kernel, reference=False)


def guarded(tensor: Tensor) -> Tensor:
    """A copy with the same strides in the middle of a buffer that is NaN everywhere else."""
    buffer = torch.full((tensor.numel() + 2 * MARGIN,), math.nan, dtype=tensor.dtype)
    return buffer.as_strided(tensor.shape, tensor.stride(), MARGIN).copy_(tensor)


def bytes_of(tensor: Tensor) -> Tensor:
    """Every byte of the buffer that the tensor lies in."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def layout_of(tensor: Tensor) -> str:
    """The one layout whose strides a dense tensor has; sizes of 1 may leave both."""
    for layout, memory_format in MEMORY_FORMATS.items():
        if tensor.stride() == torch.empty(tensor.shape, memory_format=memory_format).stride():
            return layout
    return "neither"


def raised(call: object, *args: object, **kwargs: object) -> Exception | None:
    """The exception that the call ends in, or None."""
    try:
        call(*args, **kwargs)  # type: ignore[operator]
    except Exception as error:
        return error
    return None


by_slot = pytest.mark.parametrize("slot", ["forward", "input_grad", "weight_grad"])
by_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
by_layout = pytest.mark.parametrize("layout", MEMORY_FORMATS)
