"""Calls that something else intercepts: __torch_function__, modes, tracers, fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import raised, randn
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

import handconv

pytestmark = pytest.mark.usefixtures("device")

FUNCTIONS: list[Callable[..., Tensor]] = [handconv.conv2d, handconv.conv_transpose2d]
by_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


def operands() -> tuple[Tensor, Tensor, Tensor]:
    return randn(2, 4, 6, 6), randn(4, 4, 3, 3), randn(4)


class Convolution(nn.Module):
    def __init__(self, function: Callable[..., Tensor], weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight, self.bias, stride=2, padding=1)


class Recorder(TorchFunctionMode):
    """Keeps every function that is called, and calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


class Annotated(Tensor):
    """A subclass that adds nothing."""


class Duck:
    """Not a tensor, but it says what becomes of a function that is called on it."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func, args, kwargs


@by_function
def test_symbolic_trace(function: Callable[..., Tensor]) -> None:
    x, w, bias = operands()
    net = Convolution(function, w, bias)
    traced = fx.symbolic_trace(net)
    assert function in [node.target for node in traced.graph.nodes]
    assert torch.equal(traced(x), net(x))


@by_function
def test_function_mode(function: Callable[..., Tensor]) -> None:
    x, w, bias = operands()
    with Recorder() as recorder:
        found = function(x, w, bias, 2, 1, algorithm="im2col")
    assert function in recorder.functions
    assert torch.equal(found, function(x, w, bias, 2, 1, algorithm="im2col"))


@by_function
@pytest.mark.parametrize("position", range(3), ids=("input", "weight", "bias"))
def test_tensor_subclass(function: Callable[..., Tensor], position: int) -> None:
    plain = operands()
    mixed = list(plain)
    mixed[position] = mixed[position].as_subclass(Annotated)
    found = function(*mixed)
    assert type(found) is Annotated
    assert torch.equal(found.as_subclass(Tensor), function(*plain))


def test_arguments_that_an_override_gets() -> None:
    duck = Duck()
    x, w, bias = operands()
    function, args, keywords = handconv.conv2d(x, duck, None, 1, 2, 3, 4, algorithm="direct")
    assert function is handconv.conv2d
    assert args == (x, duck, None, 1, 2, 3, 4)
    assert keywords == {"algorithm": "direct"}
    function, args, keywords = handconv.conv_transpose2d(duck, w, bias, 1, 2, 3, 4, 5)
    assert function is handconv.conv_transpose2d
    assert args == (duck, w, bias, 1, 2, 3, 4, 5)
    assert keywords == {"algorithm": "auto"}
    function, args, keywords = handconv.conv2d_per_sample(x, duck, None, 1, 2, 3, 4)
    assert function is handconv.conv2d_per_sample
    assert args == (x, duck, None, 1, 2, 3, 4)
    assert keywords == {"algorithm": "auto"}


@by_function
def test_fake_tensors(function: Callable[..., Tensor]) -> None:
    x, w, _ = operands()
    with FakeTensorMode() as mode:
        found = function(mode.from_tensor(x), mode.from_tensor(w), stride=2)
    expected = function(x, w, stride=2)
    assert (found.shape, found.device) == (expected.shape, expected.device)


@by_function
@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_make_fx(function: Callable[..., Tensor], mode: str) -> None:
    def call(x: Tensor, w: Tensor) -> Tensor:
        return function(x, w, stride=2)

    x, w, _ = operands()
    traced = make_fx(call, tracing_mode=mode)(x, w)
    names = [str(node.target) for node in traced.graph.nodes]
    assert sum(name.startswith("handconv.conv2d") for name in names) == 1
    assert torch.equal(traced(x, w), call(x, w))


@by_function
def test_refusals_keep_their_type(function: Callable[..., Tensor]) -> None:
    x, w, _ = operands()
    error = raised(function, x.int(), w.int())
    assert type(error) is NotImplementedError
    assert "float32, float64, bfloat16 and float16" in str(error)
    assert type(raised(function, x, w[:, :3, :, :0])) is RuntimeError
