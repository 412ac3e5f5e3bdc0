"""What the tests share: any op on a case, the kernels of a slot, and the result that is right.

The right result is always that of F.conv2d, or of torch.nn.grad, in float64 on contiguous tensors
on the CPU: in other dtypes and layouts F.conv2d itself has wrong values and crashes (torch 2.13).

A test that asks for the fixture `device` runs once for each device there is. Meanwhile
`current_device()` names it, and `randn`, `placed`, `tensors_of` and `operands_of` put there what
they make; the values are those of the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache, partial, wraps
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from cases import MEMORY_FORMATS, SMALL_CASES, Case, Tensors
from torch import Tensor

import handconv

# Those that take every problem; Winograd has tests of its own.
ALGORITHMS = tuple(name for name in handconv.algorithms() if name != "winograd")
CASES = {case.name: case for case in SMALL_CASES}

# Small enough for numerical derivatives.
TINY_CASES = [
    Case("everything", 2, 2, 4, 5, 4, (2, 2), (2, 1), (1, 1), (2, 1), groups=2, has_bias=True),
    Case("stride with a rest", 1, 2, 4, 6, 2, (1, 3), (2, 2)),
    Case("depthwise", 1, 2, 3, 3, 4, (3, 3), padding=(1, 1), groups=2, has_bias=True),
]

# Large enough for every thread to get work, and for sums and images to be cut into blocks.
LARGE_CASES = [
    Case("dense, large", 2, 130, 12, 29, 40, (3, 3), padding=(1, 1), has_bias=True),
    Case("depthwise, large", 2, 37, 35, 31, 37, (3, 3), padding=(1, 1), groups=37),
    Case("grouped, large", 3, 80, 22, 31, 72, (3, 3), (2, 2), (1, 1), groups=4, has_bias=True),
    Case("few channels, many pixels", 2, 3, 65, 70, 5, (3, 3), padding=(1, 1)),
    Case("1x1, large", 2, 300, 14, 15, 80, (1, 1)),
    Case("dilated, large", 2, 40, 30, 33, 40, (3, 3), padding=(4, 4), dilation=(4, 4)),
    Case("whole windows, large", 20, 60, 3, 3, 300, (3, 3), has_bias=True),
]

# Elements before and behind an operand of `guarded`; odd, so that no vector of it is aligned.
MARGIN = 67


# The device.


_device = "cpu"


def current_device() -> str:
    """Where the test that is running computes: "cpu" or "cuda"."""
    return _device


@contextmanager
def use_device(device: str) -> Iterator[None]:
    """Not torch.set_default_device: that is a mode, which turns each call into an override."""
    global _device
    before, _device = _device, device
    try:
        yield
    finally:
        _device = before


def moved(value: Any, device: str) -> Any:
    """A tensor on that device, also inside of tuples, lists and dicts; others as they are."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, Operands):
        return Operands(*(moved(item, device) for item in value))
    if type(value) in (tuple, list):
        return type(value)(moved(item, device) for item in value)
    return value


def placed(value: Any) -> Any:
    """What was made on the CPU, on the current device."""
    return moved(value, current_device())


def on_cpu(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function computed on the CPU, its result brought back; derivatives go the same way."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = placed(function(*moved(args, "cpu"), **moved(kwargs, "cpu")))
        return result

    return call


def randn(*shape: Any, dtype: torch.dtype | None = None, requires_grad: bool = False) -> Tensor:
    """torch.randn on the current device."""
    values: Tensor = placed(torch.randn(*shape, dtype=dtype))
    return values.requires_grad_(requires_grad)


def tensors_of(
    case: Case, dtype: torch.dtype, layout: str = "nchw", *, integers: bool = False
) -> Tensors:
    return case.tensors(dtype, layout, integers=integers, device=current_device())


# An op on a case.


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
    x, w, bias, y = tensors_of(case, dtype, layout, integers=integers)
    if slot == "forward":
        return Operands(x, w, bias)
    if slot == "weight_grad":
        return Operands(y, x, None)
    channels = torch.arange(case.C)
    values = channels % 5 - 2 if integers else torch.sin(channels)
    return Operands(y, w, placed(values.to(dtype)) if case.has_bias else None)


def oracle(case: Case, slot: str, operands: Operands) -> Tensor:
    """The right result of `run`, in float64; computed on the CPU and moved to the operands."""
    first, second = (operand.detach().cpu().double().contiguous() for operand in operands[:2])
    bias = None if operands.bias is None else operands.bias.detach().cpu().double()
    return _float64_result(case, slot, first, second, bias).to(operands.first.device)


def _float64_result(
    case: Case, slot: str, first: Tensor, second: Tensor, bias: Tensor | None
) -> Tensor:
    if slot == "forward":
        return F.conv2d(first, second, bias, *case.arguments)
    if slot == "weight_grad":
        return torch.nn.grad.conv2d_weight(second, case.weight_shape, first, *case.arguments)
    filled = torch.nn.grad.conv2d_input(case.input_shape, second, first, *case.arguments)
    return filled if bias is None else filled + bias.reshape(-1, 1, 1)


@cache
def _exact(case: Case, slot: str) -> Tensor:
    with use_device("cpu"):
        return oracle(case, slot, operands_of(case, slot))


def exact(case: Case, slot: str) -> Tensor:
    """The oracle of the integer operands, which every dtype holds exactly."""
    result: Tensor = placed(_exact(case, slot))
    return result


def device_of(kernel: handconv.Kernel) -> str:
    return kernel.name.partition(".")[0]


def kernels_of(slot: str) -> tuple[handconv.Kernel, ...]:
    """The kernels of that slot on the current device; the table has those of all."""
    rows = (kernel for kernel in handconv.kernels() if kernel.slot == slot)
    return tuple(kernel for kernel in rows if device_of(kernel) == current_device())


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
    case: Case, slot: str, operands: Operands, *, reference: bool = True, pattern: str = "*"
) -> Iterator[tuple[handconv.Kernel, Tensor]]:
    """Every kernel that takes the problem, with its result, if its name matches the pattern.

    Without the reference where it would take too long: it sums one product after another.
    """
    for kernel in kernels_of(slot):
        if not fnmatchcase(kernel.name, pattern):
            continue
        if kernel.algorithm != "reference" or reference:
            result = forced(kernel, case, slot, operands)
            if result is not None:
                yield kernel, result


each_fast_kernel = partial(each_kernel, reference=False)


def agrees(kernel: handconv.Kernel, found: Tensor, exact: Tensor) -> bool:
    """Bit by bit; Winograd up to rounding, since it multiplies integers by fractions."""
    if kernel.algorithm != "winograd":
        return torch.equal(found, exact)
    precision = {torch.float64: 1e-14, torch.float32: 5e-6}.get(exact.dtype)
    if precision is None:
        precision = torch.finfo(exact.dtype).eps
    scale = exact.double().abs().max() if exact.numel() else 0
    return bool(((found.double() - exact.double()).abs() <= precision * scale).all())


def guarded(tensor: Tensor) -> Tensor:
    """A copy with the same strides in the middle of a buffer that is NaN everywhere else."""
    buffer = tensor.new_full((tensor.numel() + 2 * MARGIN,), math.nan)
    return buffer.as_strided(tensor.shape, tensor.stride(), MARGIN).copy_(tensor)


def bytes_of(tensor: Tensor) -> Tensor:
    """Every byte of the buffer that the tensor lies in."""
    return tensor.new_empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


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
by_tiny_case = pytest.mark.parametrize("case", TINY_CASES, ids=str)


def function_of(case: Case, slot: str, algorithm: str = "auto") -> Callable[..., Tensor]:
    """The op as a function of tensors alone: two operands, and a bias or not."""
    return lambda first, second, bias=None: run(
        case, slot, Operands(first, second, bias), algorithm
    )
