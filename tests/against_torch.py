"""The functions of torch.nn.functional that handconv stands in for, and operands for both."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import MEMORY_FORMATS
from helpers import on_cpu, placed
from torch import Tensor

import handconv

# What handconv does on the device of the test, torch does on the CPU.
right_conv2d = on_cpu(F.conv2d)
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "conv2d": (handconv.conv2d, right_conv2d),
    "conv_transpose2d": (handconv.conv_transpose2d, on_cpu(F.conv_transpose2d)),
}
by_function = pytest.mark.parametrize("function", FUNCTIONS)


def randn(*shape: int, dtype: torch.dtype = torch.float64, layout: str = "nchw") -> Tensor:
    tensor = torch.empty(shape, dtype=dtype, memory_format=MEMORY_FORMATS[layout])
    result: Tensor = placed(tensor.copy_(torch.randn(shape, dtype=torch.float64)))
    return result


def integers(*shape: int, dtype: torch.dtype = torch.float64, layout: str = "nchw") -> Tensor:
    return randn(*shape, dtype=dtype, layout=layout).round_().clamp_(-2, 2)


X, W = randn(2, 4, 6, 6), randn(4, 4, 3, 3)
