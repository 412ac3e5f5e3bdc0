"""torch.compile, torch.export and compiled autograd: whole graphs, and the same values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from cases import MEMORY_FORMATS, Case
from helpers import CASES, by_layout, by_slot, layout_of, operands_of, placed, randn, run
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.func import grad, jvp

import handconv

pytestmark = pytest.mark.usefixtures("device")

EVERYTHING = CASES["lesson: everything"]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    """A strided, a depthwise and a transposed convolution, from 2 channels back to 2."""

    def __init__(self, algorithm: str = "auto") -> None:
        super().__init__()
        self.algorithm = algorithm
        self.strided = nn.Parameter(randn(6, 2, 3, 3))
        self.depthwise = nn.Parameter(randn(6, 1, 3, 3))
        self.transposed = nn.Parameter(randn(6, 2, 3, 3))
        self.bias = nn.Parameter(randn(6))

    def forward(self, x: Tensor) -> Tensor:
        chosen = {"algorithm": self.algorithm}
        x = handconv.conv2d(x, self.strided, self.bias, stride=2, padding=1, **chosen).relu()
        x = handconv.conv2d(x, self.depthwise, padding="same", groups=6, **chosen).tanh()
        return handconv.conv_transpose2d(
            x, self.transposed, stride=2, padding=1, output_padding=1, **chosen
        )


def step(net: Callable[[Tensor], Tensor], parameters: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and gradients of one training step."""
    parameters.zero_grad()
    x = x.detach().requires_grad_()
    output = net(x)
    output.square().sum().backward()
    return [output.detach(), x.grad, *(p.grad for p in parameters.parameters())]


@pytest.mark.parametrize(
    ("dynamic", "algorithm"),
    [(False, "auto"), (True, "auto"), (True, "direct"), (True, "im2col")],
    ids=["static", "dynamic", "direct", "im2col"],
)
def test_compiled_training_step(dynamic: bool, algorithm: str) -> None:
    net = Net(algorithm).double()
    x = randn(3, 2, 8, 6, dtype=torch.float64)
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    torch.testing.assert_close(step(compiled, net, x), step(net, net, x))


@by_layout
def test_inductor(layout: str) -> None:
    """Ops alone: anything between them would be compiled by a C++ compiler, for half a minute."""
    net = Net()
    x, gradient = randn(3, 2, 8, 6), randn(3, 6, 4, 3)
    x = x.contiguous(memory_format=MEMORY_FORMATS[layout])

    def convolve(x: Tensor) -> Tensor:
        x = handconv.conv2d(x, net.strided, stride=2, padding=1)
        return handconv.conv2d(x, net.depthwise, padding=1, groups=6)

    compiled = torch.compile(convolve, fullgraph=True, dynamic=True, backend="inductor")
    parameters = (net.strided, net.depthwise)
    found, expected = compiled(x), convolve(x)
    torch.testing.assert_close(found, expected)
    assert found.stride() == expected.stride()
    torch.testing.assert_close(
        torch.autograd.grad(found, parameters, gradient),
        torch.autograd.grad(expected, parameters, gradient),
    )


def test_one_graph_for_all_batches_and_sizes() -> None:
    """The choice of kernel is made while running: no shape is burnt into the graph."""
    net = Net()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=counter)
    for shape in [(3, 2, 8, 6), (2, 2, 8, 6), (64, 2, 8, 6), (5, 2, 12, 40), (7, 2, 3, 3)]:
        x = randn(shape)
        torch.testing.assert_close(step(compiled, net, x), step(net, net, x))
        torch.testing.assert_close(compiled(x), net(x))
    assert counter.frame_count == 2  # one for x with a gradient, one without


def test_a_batch_whose_size_depends_on_data() -> None:
    """No value stands for the size while it is traced, so no check may ask whether it is zero."""
    net = Net()

    def chosen(x: Tensor) -> Tensor:
        return net(x[x.mean((1, 2, 3)) > 0])

    compiled = torch.compile(chosen, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for means in [(1.0, -1.0, 1.0), (-1.0, -1.0, 1.0), (-1.0, -1.0, -1.0)]:
            x = randn(3, 2, 8, 6).clamp_(-0.9, 0.9) + placed(torch.tensor(means)).view(3, 1, 1, 1)
            torch.testing.assert_close(step(compiled, net, x), step(chosen, net, x))


def test_arguments_need_not_be_constants() -> None:
    """Strides and the like are SymInts too: a model may read them from somewhere."""
    counter = CompileCounterWithBackend("aot_eager")

    def convolve(x: Tensor, w: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
        return handconv.conv2d(x, w, None, stride, padding, dilation)

    compiled = torch.compile(convolve, fullgraph=True, dynamic=True, backend=counter)
    x, w = randn(2, 5, 23, 29), randn(6, 5, 3, 4)
    for arguments in [(2, 7, 3), (4, 9, 8), (6, 3, 2)]:
        assert torch.equal(compiled(x, w, *arguments), convolve(x, w, *arguments))
    assert counter.frame_count == 1


@by_slot
@by_layout
def test_compiled_format(slot: str, layout: str) -> None:
    """The strides foretold by the Meta kernel are those of the result."""
    operands = operands_of(EVERYTHING, slot, torch.float32, layout)
    compiled = torch.compile(
        lambda: run(EVERYTHING, slot, operands), fullgraph=True, backend="aot_eager"
    )
    found, eager = compiled(), run(EVERYTHING, slot, operands)
    assert found.stride() == eager.stride() and layout_of(found) == layout
    on_meta = operands._replace(
        first=operands.first.to("meta"),
        second=operands.second.to("meta"),
        bias=None if operands.bias is None else operands.bias.to("meta"),
    )
    foretold = run(EVERYTHING, slot, on_meta)
    assert (foretold.shape, foretold.stride()) == (found.shape, found.stride())


# What torch.func makes, compiled.


def loss(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return handconv.conv2d(x, w, bias, *EVERYTHING.arguments).square().sum()


FUNCTIONS: dict[str, Callable[..., object]] = {
    "grad": lambda x, w, bias: grad(loss, argnums=(0, 1, 2))(x, w, bias),
    "jvp": lambda x, w, bias: jvp(loss, (x, w, bias), (x.cos(), w.cos(), bias.cos())),
    "vmap of grad": lambda x, w, bias: torch.vmap(
        lambda sample: grad(loss, argnums=1)(sample[None], w, bias)
    )(x),
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiled_func(function: str, dynamic: bool) -> None:
    inputs = operands_of(EVERYTHING, "forward", integers=False)
    call = FUNCTIONS[function]
    compiled = torch.compile(call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), call(*inputs))


# Compiled autograd: the graph of the backward pass is captured when it runs.


@pytest.mark.parametrize(
    ("slot", "algorithm"),
    [("forward", "auto"), ("input_grad", "direct"), ("weight_grad", "im2col")],
)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled_autograd(dynamic: bool, algorithm: str, slot: str) -> None:
    operands = operands_of(EVERYTHING, slot, torch.float32, integers=False)
    inputs = [t.requires_grad_() for t in operands if t is not None]
    narrower = dataclasses.replace(EVERYTHING, padding=(1, 0), dilation=(2, 1))  # the same sizes

    def backward(case: Case = EVERYTHING) -> tuple[Tensor, ...]:
        for tensor in inputs:
            tensor.grad = None
        run(case, slot, operands, algorithm).square().sum().backward()
        return tuple(tensor.grad for tensor in inputs)

    expected, expected_of_narrower = backward(), backward(narrower)
    counter = CompileCounterWithBackend("aot_eager")
    compiler = torch.compile(backend=counter, dynamic=dynamic, fullgraph=True)
    with torch._dynamo.compiled_autograd._enable(compiler):
        torch.testing.assert_close(backward(), expected)
        torch.testing.assert_close(backward(), expected)
        assert counter.frame_count == 1
        torch.testing.assert_close(backward(narrower), expected_of_narrower)


# Export.


def test_export() -> None:
    net = Net().eval()
    x = randn(3, 2, 8, 6)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x))
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"handconv.conv2d.default", "handconv.conv2d_input_grad.default"} <= targets


def test_export_with_dynamic_sizes() -> None:
    net = Net().eval()
    dims = {0: Dim("batch"), 2: 2 * Dim("half_height", min=2), 3: 2 * Dim("half_width", min=2)}
    program = torch.export.export(net, (randn(3, 2, 8, 6),), dynamic_shapes=(dims,))
    for shape in [(1, 2, 8, 6), (5, 2, 32, 4)]:
        x = randn(shape)
        torch.testing.assert_close(program.module()(x), net(x))


def test_wrong_shapes_are_refused_while_tracing() -> None:
    compiled = torch.compile(
        lambda x, w: handconv.conv2d(x, w), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(Exception, match="to have 3 channels, but got 2 channels instead"):
        compiled(randn(1, 2, 4, 4), randn(1, 3, 3, 3))
