"""Convolution with filters of their own for every sample, and vmap, against a loop."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import ALGORITHMS
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import handconv

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3x3": ((3, 4, 7, 8), (3, 5, 4, 3, 3), {"padding": 1}),
    "one sample": ((1, 4, 7, 8), (1, 5, 4, 3, 3), {}),
    "groups, stride, dilation": (
        (4, 6, 9, 11),
        (4, 9, 2, 3, 2),
        {"groups": 3, "stride": (2, 1), "dilation": (1, 2), "padding": (0, 1)},
    ),
    "depthwise, same": ((5, 3, 6, 7), (5, 6, 1, 3, 3), {"groups": 3, "padding": "same"}),
    "14x1 of each sample": ((6, 8, 14, 14), (6, 1, 8, 14, 1), {}),
    "1x14 of each sample": ((6, 8, 14, 14), (6, 1, 8, 1, 14), {}),
}
by_case = pytest.mark.parametrize("name", CASES)
by_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def operands(name: str) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    x_shape, w_shape, keywords = CASES[name]
    x, w = torch.randn(x_shape, dtype=torch.float64), torch.randn(w_shape, dtype=torch.float64)
    return x, w, torch.randn(w_shape[:2], dtype=torch.float64), keywords


def loop(x: Tensor, w: Tensor, bias: Tensor | None, **keywords: Any) -> Tensor:
    """The lesson's way: each sample with its own filters, then cat."""
    return torch.cat(
        [
            F.conv2d(x[i : i + 1], w[i], None if bias is None else bias[i], **keywords)
            for i in range(len(x))
        ]
    )


@by_algorithm
@by_case
def test_equals_the_loop(name: str, algorithm: str) -> None:
    x, w, bias, keywords = operands(name)
    for b in (bias, None):
        leaves = [t.clone().requires_grad_() for t in (x, w, *([] if b is None else [b]))]
        again = [t.clone().requires_grad_() for t in leaves]
        found = handconv.conv2d_per_sample(
            leaves[0], leaves[1], leaves[2] if b is not None else None, **keywords,
            algorithm=algorithm,
        )  # fmt: skip
        right = loop(again[0], again[1], again[2] if b is not None else None, **keywords)
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
        g = torch.randn_like(right)
        for gradient, expected in zip(
            torch.autograd.grad(found, leaves, g), torch.autograd.grad(right, again, g), strict=True
        ):
            torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_the_row_vector_of_the_lesson_is_a_matrix_product() -> None:
    """A 1 x W kernel on a 1 x W image is an inner product of all channels."""
    x = torch.randn(4, 6, 1, 14, dtype=torch.float64)
    w = torch.randn(4, 3, 6, 1, 14, dtype=torch.float64)
    found = handconv.conv2d_per_sample(x, w)
    right = torch.bmm(w.flatten(2), x.flatten(1).unsqueeze(2))
    torch.testing.assert_close(found.flatten(1), right.flatten(1), rtol=1e-12, atol=1e-12)


def test_every_order_of_derivatives() -> None:
    x, w, bias, keywords = operands("groups, stride, dilation")
    leaves = [t[:2].clone().requires_grad_() for t in (x, w, bias)]

    def call(*tensors: Tensor) -> Tensor:
        return handconv.conv2d_per_sample(*tensors, **keywords)

    assert gradcheck(call, leaves, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(call, leaves, check_fwd_over_rev=True, fast_mode=True)


def test_a_bias_for_all_samples() -> None:
    x, w, bias, keywords = operands("3x3")
    found = handconv.conv2d_per_sample(x, w, bias[0], **keywords)
    torch.testing.assert_close(found, loop(x, w, bias[:1].expand_as(bias), **keywords))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layouts(layout: torch.memory_format) -> None:
    x, w, bias, keywords = operands("groups, stride, dilation")
    found = handconv.conv2d_per_sample(x.contiguous(memory_format=layout), w, bias, **keywords)
    torch.testing.assert_close(found, loop(x, w, bias, **keywords), rtol=1e-12, atol=1e-12)


def test_a_contiguous_input_is_not_copied() -> None:
    """Only the output and the kernel's scratch are allocated: nothing as large as the input."""
    x, w = torch.randn(16, 64, 32, 32), torch.randn(16, 1, 64, 1, 1)
    handconv.conv2d_per_sample(x, w)
    with torch.profiler.profile(profile_memory=True) as profile:
        handconv.conv2d_per_sample(x, w)
    names = {event.key for event in profile.key_averages()}
    assert not {"aten::copy_", "aten::clone", "aten::contiguous"} & names


def test_no_samples() -> None:
    x, w = torch.randn(0, 4, 7, 8), torch.randn(0, 5, 4, 3, 3)
    assert handconv.conv2d_per_sample(x, w, stride=2).shape == (0, 5, 3, 3)


@pytest.mark.parametrize("bias_shape", [(0, 4), (4,), None])
def test_derivatives_of_no_samples(bias_shape: tuple[int, ...] | None) -> None:
    shapes = [(0, 6, 5, 5), (0, 4, 3, 3, 3)] + ([] if bias_shape is None else [bias_shape])
    operands = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    output = handconv.conv2d_per_sample(*operands, groups=2)
    assert output.shape == (0, 4, 3, 3)
    gradients = torch.autograd.grad(output.sum(), operands)
    for gradient, operand in zip(gradients, operands, strict=True):
        assert torch.equal(gradient, torch.zeros_like(operand))


def with_gradients(operands: tuple[Tensor, ...], **keywords: Any) -> list[Tensor]:
    """The output, and the gradients of images and filters."""
    x, w, bias = (t.detach().requires_grad_() for t in operands)
    output = handconv.conv2d_per_sample(x, w, bias, **keywords)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), (x, w))]


@by_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_is_the_same_in_every_batch_of_two_or_more(name: str, dtype: torch.dtype) -> None:
    x_shape, w_shape, keywords = CASES[name]
    x, w = torch.randn(5, *x_shape[1:], dtype=dtype), torch.randn(5, *w_shape[1:], dtype=dtype)
    bias = torch.randn(5, w_shape[1], dtype=dtype)
    expected = with_gradients((x, w, bias), **keywords)
    for n in (2, 3):
        found = with_gradients((x[:n], w[:n], bias[:n]), **keywords)
        for tensor, right in zip(found, expected, strict=True):
            assert torch.equal(tensor, right[:n])


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (
            {"input": "a"},
            TypeError,
            r"conv2d_per_sample\(\): argument 'input' must be Tensor, not str",
        ),
        ({"weight": [1.0]}, TypeError, "argument 'weight' must be Tensor, not list"),
        ({"bias": 1}, TypeError, "argument 'bias' must be Tensor, not int"),
        (
            {"groups": "a"},
            TypeError,
            r"conv2d_per_sample\(\): argument 'groups' must be int, not str",
        ),
        ({"groups": 1.0}, TypeError, "argument 'groups' must be int, not float"),
        ({"groups": 0}, RuntimeError, "non-positive groups is not supported"),
        ({"groups": -1}, RuntimeError, "non-positive groups is not supported"),
        ({"stride": "a"}, TypeError, "argument 'stride' must be int, not str"),
        ({"algorithm": "fft"}, ValueError, "algorithm should be one of"),
    ],
    ids=str,
)
@pytest.mark.parametrize("samples", [0, 2])
def test_wrong_arguments_are_refused_as_conv2d_refuses_them(
    samples: int, change: dict[str, Any], kind: type[Exception], words: str
) -> None:
    right = {"input": torch.zeros(samples, 4, 7, 8), "weight": torch.zeros(samples, 5, 4, 3, 3)}
    with pytest.raises(kind, match=words):
        handconv.conv2d_per_sample(**{**right, **change})


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "bias_shape", "words"),
    [
        ((4, 7, 8), (3, 5, 4, 3, 3), None, "expects a 4-dimensional input"),
        ((3, 4, 7, 8), (5, 4, 3, 3), None, "and a 5-dimensional weight"),
        ((2, 4, 7, 8), (3, 5, 4, 3, 3), None, "one weight for each of the 2 samples"),
        ((3, 6, 7, 8), (3, 5, 4, 3, 3), None, "to have 4 channels, but got 6 channels"),
        ((3, 4, 7, 8), (3, 5, 4, 3, 3), (3, 4), r"expected bias of size \[5\] or \[3, 5\]"),
        ((3, 4, 2, 8), (3, 5, 4, 3, 3), None, "can't be greater than actual input size"),
    ],
)
def test_refusals(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    bias_shape: tuple[int, ...] | None,
    words: str,
) -> None:
    bias = None if bias_shape is None else torch.zeros(bias_shape)
    with pytest.raises(RuntimeError, match=words):
        handconv.conv2d_per_sample(torch.zeros(x_shape), torch.zeros(w_shape), bias)


# vmap.


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0), (1, 2)])
def test_vmap_is_not_a_loop(dims: tuple[int | None, int | None]) -> None:
    """Without the batching rule torch falls back to a loop, with a warning of slowness."""
    x, w = torch.randn(3, 2, 4, 7, 8), torch.randn(3, 5, 4, 3, 3)
    x = x if dims[0] is not None else x[0]
    w = w if dims[1] is not None else w[0]
    moved = [t if d is None else t.movedim(0, d) for t, d in zip((x, w), dims, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.vmap(handconv.conv2d, in_dims=dims)(*moved)
    right = torch.vmap(F.conv2d, in_dims=dims)(*moved)
    torch.testing.assert_close(found, right)


def test_per_sample_gradients() -> None:
    x, w = torch.randn(5, 4, 7, 8).double(), torch.randn(6, 4, 3, 3).double()

    def loss(weight: Tensor, image: Tensor) -> Tensor:
        return handconv.conv2d(image, weight, padding=1).square().sum()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(w, x)
    for gradient, image in zip(found, x, strict=True):
        leaf = w.clone().requires_grad_()
        F.conv2d(image, leaf, padding=1).square().sum().backward()
        torch.testing.assert_close(gradient, leaf.grad)


def test_forward_mode() -> None:
    x, w, _, keywords = operands("3x3")
    tangent = torch.randn_like(w)
    with forward_ad.dual_level():
        output = handconv.conv2d_per_sample(x, forward_ad.make_dual(w, tangent), **keywords)
        found = forward_ad.unpack_dual(output).tangent
    torch.testing.assert_close(found, loop(x, tangent, None, **keywords))
