"""torch.func: its transforms of every op, and vmap over any operand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import SLOTS, Case
from helpers import (
    CASES,
    TINY_CASES,
    Operands,
    by_slot,
    by_tiny_case,
    function_of,
    on_cpu,
    operands_of,
    oracle,
    placed,
    run,
)
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import handconv

pytestmark = pytest.mark.usefixtures("device")


def right_function_of(case: Case, slot: str) -> Callable[..., Tensor]:
    """The same by torch alone; differentiable twice."""

    def call(first: Tensor, second: Tensor, bias: Tensor | None = None) -> Tensor:
        if slot == "forward":
            return F.conv2d(first, second, bias, *case.arguments)
        if slot == "input_grad":
            filled = torch.nn.grad.conv2d_input(case.input_shape, second, first, *case.arguments)
            return filled if bias is None else filled + bias.reshape(-1, 1, 1)
        return torch.nn.grad.conv2d_weight(second, case.weight_shape, first, *case.arguments)

    return on_cpu(call)


def squared(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *inputs: function(*inputs).square().sum()


TRANSFORMS: dict[str, Callable[[Callable[..., Tensor], tuple[Tensor, ...]], Any]] = {
    "grad": lambda f, a: grad(squared(f), argnums=tuple(range(len(a))))(*a),
    "grad of grad": lambda f, a: grad(
        lambda *b: grad(squared(f))(*b).square().sum(), argnums=tuple(range(len(a)))
    )(*a),
    "jvp": lambda f, a: jvp(f, a, tuple(t.cos() for t in a)),
    "jvp of one": lambda f, a: jvp(lambda t: f(a[0], t, *a[2:]), (a[1],), (a[1].cos(),)),
    "jvp of grad": lambda f, a: jvp(grad(squared(f), argnums=1), a, tuple(t.cos() for t in a)),
    "grad of jvp": lambda f, a: grad(lambda t: jvp(squared(f), (t, *a[1:]), a)[1])(a[0]),
    "jvp of jvp": lambda f, a: jvp(lambda *b: jvp(squared(f), b, a)[1], a, a),
    "vjp": lambda f, a: vjp(f, *a)[1](f(*a).cos()),
    "jacrev": lambda f, a: jacrev(f, argnums=tuple(range(len(a))))(*a),
    "jacfwd": lambda f, a: jacfwd(f, argnums=tuple(range(len(a))))(*a),
    "hessian": lambda f, a: hessian(squared(f), argnums=tuple(range(len(a))))(*a),
    "hessian by jacrev": lambda f, a: jacrev(jacrev(squared(f), argnums=1), argnums=0)(*a),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@by_slot
@by_tiny_case
def test_func_transforms(case: Case, slot: str, transform: str) -> None:
    inputs = tuple(t for t in operands_of(case, slot, integers=False) if t is not None)
    found = TRANSFORMS[transform](function_of(case, slot), inputs)
    expected = TRANSFORMS[transform](right_function_of(case, slot), inputs)
    torch.testing.assert_close(found, expected)


# Which of (first, second, bias) are batched, and along which dimension.
BATCHED = [
    (0, None, None),
    (3, None, None),
    (None, 0, None),
    (None, 2, None),
    (None, None, 0),
    (1, 4, None),
    (2, None, 1),
    (None, 1, 0),
    (0, 0, 0),
]
SLOTS_AND_BATCHED = [
    (slot, dims)
    for slot, dims in itertools.product(SLOTS, BATCHED)
    if slot != "weight_grad" or any(dim is not None for dim in dims[:2])
]


def batch_of(tensor: Tensor | None, dim: int | None, size: int = 3) -> Tensor | None:
    """Copies of the tensor, each scaled otherwise, stacked along `dim`."""
    if tensor is None or dim is None:
        return tensor
    return torch.stack([tensor * (1 + i) + i for i in range(size)], dim)


def element(tensor: Tensor | None, dim: int | None, i: int) -> Tensor | None:
    return tensor if tensor is None or dim is None else tensor.select(dim, i)


@pytest.mark.parametrize(("slot", "dims"), SLOTS_AND_BATCHED, ids=str)
@pytest.mark.parametrize("name", ["lesson: everything", "depthwise multiplier 3, stride 2", "1x1"])
def test_vmap(name: str, slot: str, dims: tuple[int | None, ...]) -> None:
    case = CASES[name]
    single = operands_of(case, slot)
    batched = tuple(map(batch_of, single, dims))
    in_dims = tuple(
        None if tensor is None else dim for tensor, dim in zip(batched, dims, strict=True)
    )
    found = vmap(function_of(case, slot), in_dims)(*batched)
    expected = [
        oracle(
            case, slot, Operands(*(element(t, d, i) for t, d in zip(batched, dims, strict=True)))
        )
        for i in range(3)
    ]
    assert torch.equal(found, torch.stack(expected))


@by_slot
def test_vmap_of_vmap(slot: str) -> None:
    case = CASES["lesson: everything"]
    first, second, _ = operands_of(case, slot)
    firsts, seconds = batch_of(first, 0, 2), batch_of(second, 0)
    function = function_of(case, slot)
    found = vmap(vmap(function, (None, 0)), (0, None))(firsts, seconds)
    for i, j in itertools.product(range(2), range(3)):
        assert torch.equal(found[i, j], function(firsts[i], seconds[j]))


@by_slot
def test_vmap_of_grad(slot: str) -> None:
    """Gradients of each sample's own loss."""
    case = TINY_CASES[0]
    first, second, _ = operands_of(case, slot, integers=False)
    firsts = batch_of(first, 0)
    gradient = grad(squared(function_of(case, slot)), argnums=(0, 1))
    found = vmap(gradient, (0, None))(firsts, second)
    expected = [
        grad(squared(right_function_of(case, slot)), argnums=(0, 1))(f, second) for f in firsts
    ]
    for i, pair in enumerate(zip(*expected, strict=True)):
        torch.testing.assert_close(found[i], torch.stack(pair))


@by_slot
def test_vmap_of_nothing_folds_nothing(slot: str) -> None:
    """A batch that only meets the result, as in vmap over something else."""
    case = CASES["lesson: everything"]
    operands = operands_of(case, slot)
    found = vmap(lambda factor: factor * run(case, slot, operands))(
        placed(torch.arange(3.0).double())
    )
    assert torch.equal(found[2], 2 * oracle(case, slot, operands))


@pytest.mark.parametrize(("slot", "dims"), SLOTS_AND_BATCHED, ids=str)
def test_vmap_over_nothing(slot: str, dims: tuple[int | None, ...]) -> None:
    """Nothing, of the right shape; over weights a refusal, as torch's vmap of F.conv2d has."""
    case = CASES["lesson: everything"]
    single = operands_of(case, slot)
    batched = tuple(
        tensor if tensor is None or dim is None else tensor.unsqueeze(dim).narrow(dim, 0, 0)
        for tensor, dim in zip(single, dims, strict=True)
    )
    in_dims = tuple(
        None if tensor is None else dim for tensor, dim in zip(batched, dims, strict=True)
    )
    call = vmap(function_of(case, slot), in_dims)
    if slot != "weight_grad" and dims[1] is not None:
        with pytest.raises(RuntimeError, match="non-positive groups is not supported"):
            call(*batched)
    else:
        expected = function_of(case, slot)(*single)
        assert call(*batched).shape == (0, *expected.shape)


def test_derivatives_of_vmap_over_nothing() -> None:
    images, w = placed(torch.zeros(0, 4, 7, 8)), placed(torch.ones(5, 4, 3, 3))
    function = squared(vmap(handconv.conv2d, (0, None)))
    of_images, of_weight = grad(function, argnums=(0, 1))(images, w)
    assert torch.equal(of_images, images)
    assert torch.equal(of_weight, torch.zeros_like(w))
    per_sample = vmap(grad(squared(handconv.conv2d), argnums=1), (0, None))(images, w)
    assert per_sample.shape == (0, *w.shape)
