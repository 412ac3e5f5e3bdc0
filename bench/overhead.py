"""The cost of a call: handconv.conv2d against F.conv2d where next to nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from cases import Case, Tensors
from clocks import Call
from measuring import HANDCONV, RIVAL, Limits, race
from torch import Tensor

import handconv

Convolution = Callable[..., Tensor]

CASES = (
    Case("one pixel", 1, 1, 1, 1, 1, kernel=(1, 1)),
    Case(
        "2x2x5x5, 3x3 in 2 groups",
        *(2, 2, 5, 5, 4),
        kernel=(3, 3),
        stride=(2, 2),
        padding=(1, 1),
        dilation=(2, 2),
        groups=2,
    ),
)


@dataclass(frozen=True)
class Overhead:
    """Medians in microseconds."""

    case: str
    what: str
    handconv: float
    rival: float
    calls: int

    @property
    def difference(self) -> float:
        return self.handconv - self.rival


def measure_overhead(calls: int, device: str = "cpu") -> list[Overhead]:
    """So many interleaved calls of each side, forward alone and forward with backward.

    On CUDA too by the clock on the wall: a call returns once its kernels are enqueued.
    """
    limits = Limits(calls=calls, enough=0.0, most=float("inf"))
    found = []
    for case in CASES:
        tensors = case.tensors(torch.float32, device=device)
        for what, make in (("forward", _forward), ("forward + backward", _both)):
            sides = {
                HANDCONV: make(handconv.conv2d, case, tensors),
                RIVAL: make(F.conv2d, case, tensors),
            }
            race(sides, Limits(calls=calls // 10 + 1, enough=0.0))  # warm-up
            times = race(sides, limits)
            ours, theirs = (times[name].median * 1e6 for name in (HANDCONV, RIVAL))
            found.append(Overhead(case.name, what, ours, theirs, calls))
    return found


def _forward(convolution: Convolution, case: Case, tensors: Tensors) -> Call:
    x, w, bias, _ = tensors
    arguments = case.arguments
    return lambda: convolution(x, w, bias, *arguments)


def _both(convolution: Convolution, case: Case, tensors: Tensors) -> Call:
    """Both gradients, by torch.autograd.grad."""
    x, w, bias, y = tensors
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    arguments = case.arguments
    return lambda: torch.autograd.grad(convolution(x, w, bias, *arguments), (x, w), y)
