"""handconv in place of torch.nn.functional: torch's own samples and errors, formats, autocast.

What differs on purpose stands in `test_documented_differences`; where torch is wrong, in the last
part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from against_torch import FUNCTIONS, W, X, by_function, integers, randn, right_conv2d
from cases import DTYPES, MEMORY_FORMATS
from helpers import by_algorithm, by_layout, layout_of, on_cpu, placed, raised
from torch import Tensor

import handconv

pytest.importorskip("expecttest", reason="torch's samples import it")

from torch.testing._internal import common_methods_invocations as torch_samples

pytestmark = pytest.mark.usefixtures("device")

# torch's own samples.


def samples(function: str) -> list[Any]:
    generate = getattr(torch_samples, f"sample_inputs_{function}")
    return list(generate(None, "cpu", torch.float64, requires_grad=True))


SAMPLES = [(name, i) for name in FUNCTIONS for i in range(len(samples(name)))]


def leaf(value: Any, dtype: torch.dtype) -> Any:
    """Rounded to integers, of which float32 holds every sum exactly."""
    if not isinstance(value, Tensor):
        return value
    return placed(value.detach().round().to(dtype)).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("function", "sample"), SAMPLES)
@by_algorithm
def test_samples(algorithm: str, function: str, sample: int, dtype: torch.dtype) -> None:
    ours, theirs = FUNCTIONS[function]
    given = samples(function)[sample]
    inputs = [leaf(value, dtype) for value in (given.input, *given.args)]
    right = [leaf(value, torch.float64) for value in inputs]
    found = ours(*inputs, **given.kwargs, algorithm=algorithm)
    expected = theirs(*right, **given.kwargs)
    assert torch.equal(found, expected.to(dtype))
    found.square().sum().backward()
    expected.square().sum().backward()
    for tensor, other in zip(inputs, right, strict=True):
        assert tensor is None or torch.equal(tensor.grad, other.grad.to(dtype))


ERROR_SAMPLES = list(torch_samples.error_inputs_conv2d(None, "cpu"))


@pytest.mark.parametrize("sample", range(len(ERROR_SAMPLES)))
def test_error_samples(sample: int) -> None:
    error = ERROR_SAMPLES[sample]
    given = error.sample_input
    with pytest.raises(error.error_type, match=error.error_regex):
        handconv.conv2d(*placed((given.input, *given.args)), **given.kwargs)


# Padding in words, and without a batch.


@pytest.mark.parametrize("dilation", [1, 3, (2, 1)], ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 4), (5, 2), (1, 6)], ids=str)
@by_layout
def test_padding_same(layout: str, kernel: tuple[int, int], dilation: int) -> None:
    """Even windows get the odd zero at the right and at the bottom."""
    x, w = integers(2, 4, 7, 9, layout=layout), integers(6, 2, *kernel, layout=layout)
    arguments = (None, 1, "same", dilation, 2)
    found = handconv.conv2d(x, w, *arguments)
    assert found.shape[2:] == x.shape[2:]
    assert torch.equal(found, right_conv2d(x.contiguous(), w.contiguous(), *arguments))
    assert layout_of(found) == layout


def test_padding_valid() -> None:
    arguments = (None, (2, 1), "valid", 2)
    x, w = placed((X, W))
    assert torch.equal(handconv.conv2d(x, w, *arguments), handconv.conv2d(x, w, None, (2, 1), 0, 2))


@by_function
def test_unbatched(function: str) -> None:
    ours, theirs = FUNCTIONS[function]
    x, w, bias = integers(4, 7, 6), integers(4, 4, 3, 3), integers(4)
    x.requires_grad_()
    found = ours(x, w, bias, 2, 1)
    assert torch.equal(found, theirs(x, w, bias, 2, 1))
    assert torch.equal(found[None], ours(x[None], w, bias, 2, 1))
    gradient = integers(*found.shape)
    (x_gradient,) = torch.autograd.grad(found, x, gradient)
    assert torch.equal(x_gradient, torch.autograd.grad(theirs(x, w, bias, 2, 1), x, gradient)[0])


# Memory formats.

# x, weight of conv2d (the transposed convolution takes y of this one as input), keywords.
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "dense": ((2, 4, 6, 5), (6, 4, 3, 3), {}),
    "strided": ((2, 4, 6, 5), (6, 4, 3, 3), {"stride": 2}),
    "grouped": ((3, 4, 6, 6), (6, 2, 3, 3), {"groups": 2}),
    "depthwise": ((2, 4, 6, 5), (8, 1, 3, 3), {"groups": 4}),
    "depthwise 1x1": ((2, 4, 6, 5), (4, 1, 1, 1), {"groups": 4}),
    "1x1": ((2, 4, 6, 5), (6, 4, 1, 1), {}),
    "1x1 on one pixel": ((2, 4, 1, 1), (6, 4, 1, 1), {}),
    "one input channel": ((2, 1, 6, 5), (3, 1, 3, 3), {}),
    "one output channel": ((2, 4, 6, 5), (1, 4, 3, 3), {}),
    "one channel": ((2, 1, 6, 5), (1, 1, 1, 1), {}),
    "one sample": ((1, 4, 6, 5), (6, 4, 3, 3), {}),
    "one element": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "one column": ((2, 4, 6, 1), (6, 4, 3, 1), {}),
    "output of one pixel": ((2, 4, 3, 3), (6, 4, 3, 3), {}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layouts", list(itertools.product(MEMORY_FORMATS, repeat=2)), ids="-".join)
@pytest.mark.parametrize("shapes", SHAPES)
@by_function
def test_output_format(
    function: str, shapes: str, layouts: tuple[str, str], dtype: torch.dtype
) -> None:
    """The strides of F.conv2d, also where a size of 1 leaves more than one choice."""
    ours, theirs = FUNCTIONS[function]
    x_shape, w_shape, keywords = SHAPES[shapes]
    if function == "conv_transpose2d":
        groups = keywords.get("groups", 1)
        w_shape = (x_shape[1], w_shape[0] // groups, *w_shape[2:])
    x = randn(*x_shape, dtype=dtype, layout=layouts[0])
    w = randn(*w_shape, dtype=dtype, layout=layouts[1])
    assert ours(x, w, **keywords).stride() == theirs(x, w, **keywords).stride()


@by_function
def test_output_format_of_no_samples(function: str) -> None:
    """torch makes empty outputs contiguous; here the rule is the same for all."""
    ours, theirs = FUNCTIONS[function]
    x, w = randn(0, 4, 6, 5, layout="channels_last"), randn(4, 4, 3, 3, layout="channels_last")
    assert ours(x, w).shape == theirs(x, w).shape
    assert layout_of(ours(x, w)) == "channels_last"


# Autocast.


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
@by_function
def test_autocast(function: str, lower: torch.dtype, device: str) -> None:
    ours, theirs = getattr(handconv, function), getattr(F, function)
    x, w, bias = (
        integers(*shape, dtype=torch.float32) for shape in ((2, 4, 6, 6), (4, 4, 3, 3), (4,))
    )
    w.requires_grad_()
    with torch.autocast(device, dtype=lower):
        found = ours(x, w, bias)
        assert found.dtype == theirs(x, w, bias).dtype == lower
        assert ours(x.to(lower), w, bias).dtype == lower  # operands of two types
        with torch.autocast(device, enabled=False):
            assert ours(x, w, bias).dtype == torch.float32
    expected = FUNCTIONS[function][1](x.double(), w.double(), bias.double())
    assert torch.equal(found, expected.to(lower))
    found.sum().backward()
    assert w.grad.dtype == torch.float32
    (w_gradient,) = torch.autograd.grad(expected.sum(), w)
    assert torch.equal(w.grad, w_gradient.to(lower).float())


@by_function
def test_autocast_leaves_float64_alone(function: str, device: str) -> None:
    ours, theirs = getattr(handconv, function), getattr(F, function)
    x, w = placed((X, W))
    with torch.autocast(device, dtype=torch.bfloat16):
        assert ours(x, w).dtype == theirs(x, w).dtype == torch.float64


@by_function
def test_autocast_around_the_backward_pass_alone(function: str, device: str) -> None:
    """The forward pass settled the precision of its derivatives, of every order."""
    leaves = [t.float().requires_grad_() for t in placed((X, W, randn(4)))]
    output = FUNCTIONS[function][0](*leaves).square().sum()

    def derivatives() -> list[Tensor]:
        first = torch.autograd.grad(output, leaves, create_graph=True)
        penalty = sum(g.square().sum() for g in first)
        return [*first, *torch.autograd.grad(penalty, leaves, retain_graph=True)]

    expected = derivatives()
    with torch.autocast(device, dtype=torch.bfloat16):
        found = derivatives()
    assert all(map(torch.equal, found, expected))


# Where handconv differs from torch on purpose.


def test_documented_differences() -> None:
    # An empty sum is zero, and leaves the bias: torch returns an output without channels.
    x, w, bias = randn(2, 0, 6, 6), randn(4, 0, 3, 3), randn(4)
    assert right_conv2d(x, w, bias).shape == (2, 0, 4, 4)
    found = handconv.conv2d(x, w, bias)
    assert torch.equal(found, bias.reshape(1, 4, 1, 1).expand(2, 4, 4, 4))
    assert torch.equal(handconv.conv2d(x, w), torch.zeros_like(found))

    x, w = placed((X, W))
    # No integers, and no complex numbers.
    for dtype in (torch.int32, torch.int64, torch.complex64, torch.complex128):
        assert right_conv2d(x.to(dtype), w.to(dtype)).dtype == dtype
        assert type(raised(handconv.conv2d, x.to(dtype), w.to(dtype))) is NotImplementedError

    # Types are checked without samples too.
    assert right_conv2d(x[:0], w.float()).shape == (0, 4, 4, 4)
    with pytest.raises(RuntimeError, match="should be the same"):
        handconv.conv2d(x[:0], w.float())


def test_a_sum_over_no_samples_is_zero() -> None:
    x, w = placed((X, W.clone()))
    w.requires_grad_()
    handconv.conv2d(x[:0], w).sum().backward()
    assert torch.equal(w.grad, torch.zeros_like(w))


# Where torch itself is wrong (2.13): crashes and wrong values in other dtypes than float64.


@by_algorithm
def test_forward_that_crashes_torch(algorithm: str) -> None:
    x = integers(2, 8, 11, 2, dtype=torch.float32, layout="channels_last")
    w, bias = integers(4, 8, 1, 1, dtype=torch.float32), integers(4, dtype=torch.float32)
    arguments = ((3, 4), (6, 2), (1, 4))
    found = handconv.conv2d(x, w, bias, *arguments, algorithm=algorithm)
    right = right_conv2d(x.double().contiguous(), w.double(), bias.double(), *arguments)
    assert torch.equal(found, right.float())


def gradients(
    function: Callable[..., Tensor], x: Tensor, w: Tensor, *arguments: Any, **keywords: Any
) -> tuple[Tensor, ...]:
    """Of the sum of the outputs, with respect to x and w."""
    leaves = [x.detach().requires_grad_(), w.detach().requires_grad_()]
    return torch.autograd.grad(function(*leaves, *arguments, **keywords).sum(), leaves)


@by_algorithm
def test_backward_that_crashes_torch(algorithm: str) -> None:
    x = integers(2, 33, 13, 26, dtype=torch.float32)
    w = integers(16, 33, 64, 4, dtype=torch.float32)
    found = gradients(handconv.conv2d, x, w, padding="same", algorithm=algorithm)
    right = gradients(right_conv2d, x.double(), w.double(), padding="same")
    for gradient, expected in zip(found, right, strict=True):
        assert torch.equal(gradient, expected.float())


@by_algorithm
def test_gradients_that_torch_gets_wrong(algorithm: str) -> None:
    """bfloat16, depthwise, dilated, channels_last."""
    x, w = integers(2, 16, 10, 10, layout="channels_last"), integers(16, 1, 3, 3)
    arguments = (None, 1, 3, 3, 16)
    right = gradients(right_conv2d, x.contiguous(), w, *arguments)
    for dtype in DTYPES:
        operands = (x.to(dtype), w.to(dtype))
        found = gradients(handconv.conv2d, *operands, *arguments, algorithm=algorithm)
        for gradient, expected in zip(found, right, strict=True):
            assert torch.equal(gradient, expected.to(dtype))


@by_algorithm
def test_values_that_torch_gets_wrong(algorithm: str) -> None:
    """float32, two groups, channels_last, and a weight whose last dimension has stride 1."""
    x = integers(2, 10, 9, 5, dtype=torch.float32, layout="channels_last")
    w = integers(4, 5, 6, 1, dtype=torch.float32)
    assert w.stride(-1) == 1
    found = handconv.conv2d(x, w, groups=2, algorithm=algorithm)
    right = right_conv2d(x.double().contiguous(), w.double(), groups=2)
    assert torch.equal(found, right.float())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transposed_nonsense_that_torch_accepts(dtype: torch.dtype) -> None:
    """Only in float64 does torch refuse an output without pixels, and a dilation of zero."""
    x, w = randn(1, 4, 1, 1, dtype=dtype), randn(4, 2, 1, 1, dtype=dtype)
    for keywords in ({"padding": 1}, {"dilation": 0}, {"padding": 1, "stride": 2}):
        assert type(raised(handconv.conv_transpose2d, x, w, **keywords)) is RuntimeError
        right = raised(on_cpu(F.conv_transpose2d), x.double(), w.double(), **keywords)
        assert type(right) is RuntimeError
