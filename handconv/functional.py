"""The convolutions, called as `torch.nn.functional` calls them."""

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.overrides import handle_torch_function, has_torch_function_variadic

from handconv import _C
from handconv.operations import SLOT_SUFFIXES, TRIOS

Pair = int | Sequence[int]

_INT64_MAX = 2**63 - 1  # torch.jit.trace compares with nothing larger
_SLOTS = {"conv2d": "forward", "conv_transpose2d": "input_grad"}


def _operations(find: Callable[[str], Any]) -> dict[str, dict[str, Any]]:
    """The ops by function and algorithm, found by their names."""
    return {
        function: {algorithm: find(trio + SLOT_SUFFIXES[slot]) for algorithm, trio in TRIOS.items()}
        for function, slot in _SLOTS.items()
    }


# The same ops twice: torch.ops can be traced by torch.compile, _C costs half as much to call.
_TRACED = _operations(lambda name: getattr(torch.ops.handconv, name).default)
_CALLED = _operations(lambda name: getattr(_C, name))


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """The 2-D convolution, in place of :func:`torch.nn.functional.conv2d`.

    ``y[n, o, i, j] = bias[o]
    + sum over c, u, v of weight[o, c, u, v] * x[n, g + c, i*s - p + u*d, j*s - p + v*d]``,

    where g is the first input channel of o's group and x is zero outside the image (a
    cross-correlation, as everywhere in torch). Differentiable to every order, in reverse and
    forward mode.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        weight: (OC, C / groups, KH, KW).
        bias: (OC,), or None.
        stride, dilation: one int, or a pair (height, width).
        padding: zeros on either side: one int, a pair, ``"valid"`` (none) or ``"same"`` (stride 1
            only: the output is as large as the input; an even window gets the odd zero at the
            right and at the bottom).
        groups: the channels are split into this many independent convolutions.
        algorithm: one of :func:`handconv.algorithms`; the derivatives use the same one.

    Returns:
        (N, OC, OH, OW) or (OC, OH, OW), with
        ``OH = floor((H + 2*padding - dilation*(KH - 1) - 1) / stride) + 1``. It is channels_last if
        input or weight is. An input without channels gives the bias, as an empty sum should.

    Raises:
        RuntimeError: shapes, types or arguments that do not fit, in the words of F.conv2d.
        NotImplementedError: dtypes other than float32, float64, bfloat16 and float16.
        TypeError: arguments that are no tensors or numbers.
        ValueError: an unknown algorithm.
    """
    if has_torch_function_variadic(input, weight, bias):
        arguments = (input, weight, bias, stride, padding, dilation, groups)
        return _overridden(conv2d, arguments, algorithm)
    operation = _choose("conv2d", algorithm)
    _check_tensors("conv2d", input=input, weight=weight, bias=bias)
    stride = _pair("conv2d", "stride", stride)
    dilation = _pair("conv2d", "dilation", dilation)
    batched = input.unsqueeze(0) if input.dim() == 3 else input
    if isinstance(padding, str):
        batched, padding = _resolve_padding(padding, batched, weight, stride, dilation)
    else:
        padding = _pair("conv2d", "padding", padding)
    groups = _index("conv2d", "groups", groups)
    output: Tensor = operation(batched, weight, bias, stride, padding, dilation, groups)
    return output.squeeze(0) if batched is not input and input.dim() == 3 else output


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """The transposed convolution, in place of :func:`torch.nn.functional.conv_transpose2d`.

    With K the kernel matrix of ``conv2d(_, weight)`` (see :func:`handconv.kernel_matrix`) this is
    ``K.T @ input``: the gradient of conv2d with respect to its input. Differentiable to every
    order, in reverse and forward mode.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        weight: (C, OC / groups, KH, KW).
        bias: (OC,), or None.
        stride, padding, dilation: those of the convolution that is transposed.
        output_padding: rows and columns added at the bottom and at the right of the output, of
            which a stride leaves open how many there were; less than stride or dilation.
        groups: the channels are split into this many independent convolutions.
        algorithm: one of :func:`handconv.algorithms`; the derivatives use the same one.

    Returns:
        (N, OC, OH, OW) or (OC, OH, OW), with
        ``OH = (H - 1)*stride - 2*padding + dilation*(KH - 1) + output_padding + 1``.

    Raises:
        RuntimeError: shapes, types or arguments that do not fit, in the words of
            F.conv_transpose2d; also where that leaves an output without elements.
        NotImplementedError: dtypes other than float32, float64, bfloat16 and float16.
        TypeError: arguments that are no tensors or numbers.
        ValueError: an unknown algorithm.
    """
    if has_torch_function_variadic(input, weight, bias):
        arguments = (input, weight, bias, stride, padding, output_padding, groups, dilation)
        return _overridden(conv_transpose2d, arguments, algorithm)
    name = "conv_transpose2d"
    operation = _choose(name, algorithm)
    _check_tensors(name, input=input, weight=weight, bias=bias)
    stride = _pair(name, "stride", stride)
    padding = _pair(name, "padding", padding)
    output_padding = _pair(name, "output_padding", output_padding)
    dilation = _pair(name, "dilation", dilation)
    groups = _index(name, "groups", groups)
    batched = input.unsqueeze(0) if input.dim() == 3 else input
    size = _transposed_size(batched, weight, stride, padding, output_padding, dilation)
    output: Tensor = operation(batched, weight, bias, size, stride, padding, dilation, groups)
    return output.squeeze(0) if batched is not input else output


def _overridden(function: Any, arguments: tuple[Any, ...], algorithm: str) -> Tensor:
    """What __torch_function__ makes of the call: that of a tensor's class, or of a mode."""
    tensors = arguments[:3]
    result: Tensor = handle_torch_function(function, tensors, *arguments, algorithm=algorithm)
    return result


def _choose(function: str, algorithm: str) -> Any:
    operations = (_TRACED if is_dynamo_compiling() else _CALLED)[function]
    try:
        return operations[algorithm]
    except KeyError:
        raise ValueError(
            f"algorithm should be one of {', '.join(operations)}, but got {algorithm!r}"
        ) from None


def _check_tensors(function: str, *, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if isinstance(input, Tensor) and isinstance(weight, Tensor):
        if bias is None or isinstance(bias, Tensor):
            return
        name, value = "bias", bias
    else:
        name, value = ("weight", weight) if isinstance(input, Tensor) else ("input", input)
    raise TypeError(f"{function}(): argument '{name}' must be Tensor, not {type(value).__name__}")


def _index(function: str, name: str, value: Any) -> int:
    """What counts as a number: int, torch.SymInt and whatever has __index__, but no bool."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return cast(int, value)
    if not isinstance(value, bool):
        with suppress(TypeError):
            return operator.index(value)
    raise TypeError(f"{function}(): argument '{name}' must be int, not {type(value).__name__}")


def _pair(function: str, name: str, value: Any) -> Sequence[int]:
    """One number for both axes, or a sequence of one or two."""
    if type(value) is int:
        return (value, value)
    # What modules pass, and what a small convolution has no time to look at twice.
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int:
        return value
    if isinstance(value, (tuple, list)):
        if len(value) not in (1, 2):
            raise RuntimeError(
                f"expected {name} to be a single integer value or a list of 2 values to match the "
                f"convolution dimensions, but got {name}={list(value)}"
            )
        return [_index(function, name, element) for element in value]
    number = _index(function, name, value)
    return (number, number)


def _both(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[-1]


def _resolve_padding(
    padding: str, input: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, Sequence[int]]:
    """The input and the numeric padding that stand for "same" or "valid"."""
    if padding == "valid":
        return input, (0, 0)
    if padding != "same":
        raise RuntimeError(f"Invalid padding string: '{padding}'")
    if any(s != 1 for s in stride):
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    if weight.dim() != 4 or input.dim() != 4:
        return input, (0, 0)  # refused where shapes are checked
    # Not below zero, so that a bad dilation or kernel is what gets refused.
    totals = [max(0, d * (k - 1)) for d, k in zip(_both(dilation), weight.shape[2:], strict=True)]
    odd_height, odd_width = (total % 2 for total in totals)
    if odd_height or odd_width:
        input = F.pad(input, (0, odd_width, 0, odd_height))
    return input, [total // 2 for total in totals]


def _transposed_size(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """(OH, OW) of the transposed convolution."""
    if any(extra < 0 for extra in output_padding):
        raise RuntimeError("negative output_padding is not supported")
    window_is_good = min(*stride, *dilation) > 0 and min(padding) >= 0 and max(padding) < 2**62
    if input.dim() != 4 or weight.dim() != 4 or not window_is_good:
        return [1, 1]  # refused where shapes are checked
    pairs = zip(*map(_both, (stride, padding, output_padding, dilation)), strict=True)
    size = []
    for axis, (s, p, extra, d) in enumerate(pairs):
        if extra >= s and extra >= d:
            raise RuntimeError(
                "output padding must be smaller than either stride or dilation, but got "
                f"output_padding={tuple(output_padding)} stride={tuple(stride)} "
                f"dilation={tuple(dilation)}"
            )
        length = input.shape[2 + axis]
        size.append((length - 1) * s - 2 * p + d * (weight.shape[2 + axis] - 1) + extra + 1)
    if any(length < 1 or length > _INT64_MAX for length in size):
        height, width = input.shape[2:]
        problem = "small" if min(size) < 1 else "large"
        raise RuntimeError(
            f"Given input size per channel: ({height} x {width}). Calculated output size per "
            f"channel: ({size[0]} x {size[1]}). Output size is too {problem}"
        )
    return size
