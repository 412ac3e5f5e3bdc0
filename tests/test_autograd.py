"""Derivatives of every op: to every order, in both modes, and what they keep."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, MEMORY_FORMATS, SMALL_CASES, Case
from helpers import (
    CASES,
    TINY_CASES,
    Operands,
    arguments,
    by_algorithm,
    by_layout,
    by_slot,
    by_tiny_case,
    function_of,
    layout_of,
    on_cpu,
    operands_of,
    operation,
    oracle,
    placed,
    randn,
    run,
    tensors_of,
)
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import jvp
from torch.utils.checkpoint import checkpoint

import handconv

pytestmark = pytest.mark.usefixtures("device")


def leaves(operands: Operands) -> tuple[Tensor, ...]:
    """The operands that there are, as leaves that require a gradient."""
    return tuple(t.detach().requires_grad_() for t in operands if t is not None)


def differentiable(operands: Operands) -> Operands:
    return Operands(*(None if t is None else t.requires_grad_() for t in operands))


# One form, three slots.


@by_algorithm
@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_the_three_ops_are_one_form(case: Case, algorithm: str) -> None:
    """<y, conv(x, w)> = <input_grad(y, w), x> = <weight_grad(y, x), w>."""
    x, w, _, y = tensors_of(case, torch.float64, integers=True)

    def fill(slot: str, first: Tensor, second: Tensor) -> Tensor:
        return run(case, slot, Operands(first, second, None), algorithm)

    form = (y * fill("forward", x, w)).sum()
    assert (fill("input_grad", y, w) * x).sum() == form
    assert (fill("weight_grad", y, x) * w).sum() == form


@by_algorithm
@pytest.mark.parametrize("rest", list(itertools.product(range(3), range(2))), ids=str)
def test_input_of_any_size_that_the_output_leaves_open(
    rest: tuple[int, int], algorithm: str
) -> None:
    """With stride 3 x 2, inputs of up to 2 rows and 1 column more have the same output."""
    case = Case("", 2, 4, 7 + rest[0], 7 + rest[1], 6, (4, 3), (3, 2), (0, 1), groups=2)
    x, w, _, y = tensors_of(case, torch.float64, integers=True)
    assert y.shape[2:] == (2, 4)
    x_grad = run(case, "input_grad", Operands(y, w, None), algorithm)
    assert x_grad.shape == x.shape
    assert (x_grad * x).sum() == (y * run(case, "forward", Operands(x, w, None), algorithm)).sum()


# Numerical derivatives.


@by_tiny_case
@by_slot
@by_algorithm
def test_first_derivatives(case: Case, slot: str, algorithm: str) -> None:
    assert gradcheck(
        function_of(case, slot, algorithm),
        leaves(operands_of(case, slot, integers=False)),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@by_tiny_case
@by_slot
@by_algorithm
def test_second_derivatives(case: Case, slot: str, algorithm: str) -> None:
    assert gradgradcheck(
        function_of(case, slot, algorithm),
        leaves(operands_of(case, slot, integers=False)),
        check_fwd_over_rev=True,
        check_batched_grad=True,
        fast_mode=True,
    )


def gradient_of_square(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Derivatives of the square's gradient are third derivatives that do not vanish."""
    return lambda *inputs: torch.autograd.grad(
        function(*inputs).square().sum(), inputs, create_graph=True
    )


@by_tiny_case
@by_slot
def test_third_derivatives(case: Case, slot: str) -> None:
    inputs = leaves(operands_of(case, slot, integers=False))
    function = gradient_of_square(function_of(case, slot))
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, fast_mode=True)


@by_algorithm
def test_third_derivatives_with_output_padding(algorithm: str) -> None:
    """F.conv_transpose2d has none."""
    x, w, bias = randn(1, 2, 2, 3), randn(2, 2, 3, 2), randn(4)
    inputs = leaves(Operands(x.double(), w.double(), bias.double()))

    def function(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return handconv.conv_transpose2d(
            x, w, bias, stride=(3, 2), padding=1, output_padding=(2, 1), groups=2,
            algorithm=algorithm,
        )  # fmt: skip

    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(gradient_of_square(function), inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("slot", ["input_grad", "weight_grad"])
def test_derivatives_where_y_ends_early(slot: str) -> None:
    """Before the last window, as output_padding can have it: its gradient ends there too."""
    case = TINY_CASES[0]
    operands = operands_of(case, slot, integers=False)
    inputs = leaves(operands._replace(first=operands.first[:, :, :-1, :-1]))
    function = function_of(case, slot)
    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, fast_mode=True)


# What torch asks of an op.


@by_slot
@by_algorithm
def test_opcheck(slot: str, algorithm: str) -> None:
    operands = differentiable(operands_of(TINY_CASES[0], slot, torch.float32, integers=False))
    torch.library.opcheck(operation(slot, algorithm), arguments(TINY_CASES[0], slot, operands))


@by_slot
@pytest.mark.parametrize("case", [TINY_CASES[1], CASES["empty batch"]], ids=str)
def test_opcheck_of_more_samples(case: Case, slot: str) -> None:
    operands = differentiable(operands_of(case, slot, torch.float32))
    torch.library.opcheck(operation(slot), arguments(case, slot, operands))


@by_slot
def test_opcheck_channels_last_without_gradient(slot: str) -> None:
    case = CASES["lesson: everything"]
    operands = operands_of(case, slot, torch.bfloat16, "channels_last")
    torch.library.opcheck(operation(slot), arguments(case, slot, operands))


# Autograd as a training loop uses it.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@by_layout
@pytest.mark.parametrize(
    "name", ["3x3", "depthwise 3x3 stride 2", "lesson: everything", "groups 4, 1x1"]
)
def test_gradients_are_exact_in_every_dtype(name: str, layout: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    x, w, bias, y = tensors_of(case, dtype, layout, integers=True)
    x, w, bias = leaves(Operands(x, w, y.new_ones(case.OC) if bias is None else bias))
    handconv.conv2d(x, w, bias, *case.arguments).backward(y)
    for slot, tensor in (("input_grad", x), ("weight_grad", w)):
        operands = operands_of(case, slot)
        assert torch.equal(tensor.grad, oracle(case, slot, operands._replace(bias=None)).to(dtype))
    assert torch.equal(bias.grad, y.double().sum((0, 2, 3)).to(dtype))


@pytest.mark.parametrize("layouts", list(itertools.product(MEMORY_FORMATS, repeat=2)), ids="-".join)
@by_slot
def test_gradients_have_the_format_of_their_tensor(slot: str, layouts: tuple[str, str]) -> None:
    case = CASES["3x3"]
    operands = [operands_of(case, slot, torch.float32, layout) for layout in layouts]
    first, second = operands[0].first.requires_grad_(), operands[1].second.requires_grad_()
    result = run(case, slot, Operands(first, second, None))
    for cotangent_layout in MEMORY_FORMATS.values():
        cotangent = torch.randn_like(result, memory_format=cotangent_layout)
        gradients = torch.autograd.grad(result, (first, second), cotangent, retain_graph=True)
        assert tuple(map(layout_of, gradients)) == layouts


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)), ids=str)
@by_algorithm
def test_gradient_of_some_operands(wanted: tuple[bool, ...], algorithm: str) -> None:
    case = CASES["lesson: everything"]
    x, w, bias, y = tensors_of(case, torch.float64, integers=True)
    tensors = [t.requires_grad_(flag) for t, flag in zip((x, w, bias), wanted, strict=True)]
    result = handconv.conv2d(*tensors, *case.arguments, algorithm=algorithm)
    assert result.requires_grad == any(wanted)
    if any(wanted):
        result.backward(y)
    right = [t.detach().requires_grad_() for t in (x, w, bias)]
    on_cpu(F.conv2d)(*right, *case.arguments).backward(y)
    for tensor, other, flag in zip(tensors, right, wanted, strict=True):
        assert torch.equal(tensor.grad, other.grad) if flag else tensor.grad is None


def test_gradient_asked_of_one_computes_one() -> None:
    case = CASES["3x3"]
    x, w, _ = leaves(Operands(*tensors_of(case, torch.float32)[:2], placed(torch.zeros(case.OC))))
    result = handconv.conv2d(x, w, None, *case.arguments)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.autograd.grad(result.sum(), w)
    names = {event.key for event in profile.key_averages()}
    assert "handconv::conv2d_weight_grad" in names
    assert "handconv::conv2d_input_grad" not in names


class Absorb(torch.autograd.Function):
    """Passes its input on and gives no gradient back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        return None


def test_undefined_gradient() -> None:
    case = CASES["lesson: everything"]
    x, w, bias = leaves(Operands(*tensors_of(case, torch.float64)[:3]))
    Absorb.apply(handconv.conv2d(x, w, bias, *case.arguments)).sum().backward()
    assert x.grad is w.grad is bias.grad is None


@pytest.mark.parametrize("changed", [0, 1], ids=["input", "weight"])
def test_changed_operand_raises(changed: int) -> None:
    case = CASES["3x3"]
    operands = leaves(Operands(*tensors_of(case, torch.float32)[:2], None))
    result = handconv.conv2d(*operands, None, *case.arguments)
    with torch.no_grad():
        operands[changed].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_an_operand_that_no_gradient_reads_may_change() -> None:
    """The gradient of w reads x alone: w, and the bias, are not kept."""
    case = CASES["3x3"]
    x, w, _, _ = tensors_of(case, torch.float32)
    bias = placed(torch.ones(case.OC))
    w.requires_grad_()
    result = handconv.conv2d(x, w, bias, *case.arguments)
    with torch.no_grad():
        w.zero_()
        bias.zero_()
    result.sum().backward()
    assert w.grad is not None and w.grad.abs().sum() > 0


def test_second_backward() -> None:
    case = CASES["3x3"]
    x, w = leaves(Operands(*tensors_of(case, torch.float32)[:2], None))
    result = handconv.conv2d(x, w, None, *case.arguments).sum()
    once = torch.autograd.grad(result, (x, w), retain_graph=True)
    again = torch.autograd.grad(result, (x, w))
    assert all(map(torch.equal, once, again))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(result, (x, w))


def test_two_threads_in_one_graph() -> None:
    """While one is about to compute its gradient, the other asks the same node for another one."""
    case = CASES["3x3"]
    x, w = leaves(Operands(*tensors_of(case, torch.float32)[:2], None))
    kept: list[Tensor] = []
    others: list[Thread] = []
    found: dict[str, Tensor] = {}

    def pack(tensor: Tensor) -> int:
        kept.append(tensor)
        return len(kept) - 1

    def unpack(index: int) -> Tensor:
        if not others:
            others.append(Thread(target=ask, args=("w", w)))
            others[0].start()
            others[0].join(timeout=0.5)  # it may have to wait for this thread
        return kept[index]

    def ask(name: str, operand: Tensor) -> None:
        (found[name],) = torch.autograd.grad(result, operand, retain_graph=True)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        result = handconv.conv2d(x, w, None, *case.arguments).sum()
    ask("x", x)
    others[0].join()
    expected = torch.autograd.grad(result, (x, w))
    assert torch.equal(found["x"], expected[0])
    assert torch.equal(found["w"], expected[1])


def test_backward_releases_what_was_kept() -> None:
    case = CASES["3x3"]
    x, w = leaves(Operands(*tensors_of(case, torch.float32)[:2], None))
    intermediate = x * 2
    kept = weakref.ref(intermediate)
    result = handconv.conv2d(intermediate, w, None, *case.arguments)
    del intermediate
    assert kept() is not None
    result.sum().backward()
    assert kept() is None
    assert result.grad_fn is not None  # the node is still there, without its tensors


def test_nodes_have_names() -> None:
    x, w, _, _ = tensors_of(CASES["3x3"], torch.float32)
    y = handconv.conv2d(x.requires_grad_(), w, padding=1)
    assert y.grad_fn is not None and y.grad_fn.name() == "HandconvConv2dBackward"
    (gradient,) = torch.autograd.grad(y, x, y, create_graph=True)
    assert gradient.grad_fn is not None
    assert gradient.grad_fn.name() == "HandconvConv2dInputGradBackward"


def test_nothing_is_kept_without_need() -> None:
    case = CASES["3x3"]
    x, w, _, _ = tensors_of(case, torch.float32)
    w.requires_grad_()
    for scope in (torch.no_grad(), torch.inference_mode()):
        with scope:
            assert handconv.conv2d(x, w, None, *case.arguments).grad_fn is None
    kept = weakref.ref(w)
    result = handconv.conv2d(x.requires_grad_(), w.detach(), None, *case.arguments)
    del w
    assert kept() is None and result.requires_grad


def test_saved_tensor_hooks() -> None:
    case = CASES["3x3"]
    x, w = leaves(Operands(*tensors_of(case, torch.float32)[:2], None))
    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> int:
        packed.append(tensor)
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, packed.__getitem__):
        result = handconv.conv2d(x, w, None, *case.arguments)
    result.sum().backward()
    assert sorted(t.data_ptr() for t in packed) == sorted((x.data_ptr(), w.data_ptr()))
    assert x.grad is not None and w.grad is not None


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant: bool) -> None:
    case = CASES["lesson: everything"]
    inputs = leaves(Operands(*tensors_of(case, torch.float64)[:3]))

    def function(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return handconv.conv2d(x, w, bias, *case.arguments).tanh().sum()

    expected = torch.autograd.grad(function(*inputs), inputs)
    checkpoint(function, *inputs, use_reentrant=use_reentrant).backward()
    assert all(torch.equal(t.grad, e) for t, e in zip(inputs, expected, strict=True))


@pytest.mark.parametrize("moving", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_dual_tensors(moving: tuple[int, ...]) -> None:
    case = CASES["lesson: everything"]
    primals = tensors_of(case, torch.float64)[:3]
    tangents = [torch.randn_like(t) if i in moving else None for i, t in enumerate(primals)]
    with forward_ad.dual_level():
        x, w, bias = (
            p if t is None else forward_ad.make_dual(p, t)
            for p, t in zip(primals, tangents, strict=True)
        )
        found = forward_ad.unpack_dual(handconv.conv2d(x, w, bias, *case.arguments)).tangent
    tangents = tuple(
        torch.zeros_like(p) if t is None else t for p, t in zip(primals, tangents, strict=True)
    )
    _, expected = jvp(lambda *a: on_cpu(F.conv2d)(*a, *case.arguments), primals, tangents)
    torch.testing.assert_close(found, expected)
