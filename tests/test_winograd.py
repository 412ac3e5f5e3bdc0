"""Winograd's algorithm: its error, where it is chosen, its switch, refusals and derivatives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from cases import SLOTS, Case
from helpers import (
    CASES,
    Operands,
    by_layout,
    by_slot,
    each_kernel,
    operands_of,
    oracle,
    run,
    tensors_of,
)
from test_numerics import relative_error, torch_result
from torch import Tensor

import handconv
from handconv import _C

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.only_on("cpu")]

# The fewest channels and smallest images that `auto` takes, and larger ones.
CHOSEN = [
    Case(f"{channels} channels, {size}", 1, channels, size, size, channels, (3, 3), padding=(1, 1))
    for channels, size in ((32, 14), (32, 28), (48, 20), (64, 28), (96, 33), (256, 14), (256, 20))
] + [
    Case(f"{C} channels, {s}, dilation {d}", 1, C, s, s, C, (3, 3), (1, 1), (d, d), (d, d))
    for C, s, d in ((64, 14, 2), (128, 28, 2), (192, 28, 4), (256, 33, 6))
]
# Other windows, of which the weight gradient is left to direct kernels.
CHOSEN_WINDOWS = [
    Case("5x5, 32 channels", 1, 32, 20, 23, 32, (5, 5), padding=(2, 2)),
    Case("5x5, 96 channels", 1, 96, 14, 14, 96, (5, 5), padding=(2, 2)),
    Case("1x3, 64 channels", 1, 64, 20, 20, 64, (1, 3), padding=(0, 1)),
    Case("3x1, 384 channels", 1, 384, 8, 8, 384, (3, 1), padding=(1, 0)),
    Case("1x3 on a line", 1, 64, 1, 500, 64, (1, 3), padding=(0, 1)),
    Case("1x5 on a line", 1, 128, 1, 400, 64, (1, 5), padding=(0, 2)),
    Case("5x1, 64 channels", 1, 64, 28, 28, 64, (5, 1), padding=(2, 0)),
    Case("1x7, 32 channels", 1, 32, 28, 40, 32, (1, 7), padding=(0, 3)),
    Case("7x1, 128 channels", 1, 128, 17, 17, 192, (7, 1), padding=(3, 0)),
]
# Small dilated images, which tiles of the weight gradient fit badly.
DIRECT_FOR_WEIGHTS = (
    "64 channels, 14, dilation 2",
    "192 channels, 28, dilation 4",
    "256 channels, 33, dilation 6",
)
by_chosen = pytest.mark.parametrize(
    ("slot", "case"),
    [
        *itertools.product(SLOTS, CHOSEN),
        *itertools.product(("forward", "input_grad"), CHOSEN_WINDOWS),
    ],
    ids=str,
)


def explained(case: Case, layout: str = "nchw", algorithm: str = "auto") -> handconv.Explanation:
    x, w, bias, _ = tensors_of(case, torch.float32, layout)
    return handconv.explain(x, w, bias, *case.arguments, algorithm=algorithm)


@pytest.fixture
def restored_switch() -> Iterator[None]:
    before = _C.winograd_is_allowed()
    yield
    _C.allow_winograd(before)


# Error.


def with_large_mean(images: Tensor) -> Tensor:
    """As after a ReLU: nothing cancels in the sums, but much in the transforms of tiles."""
    return images.relu() + 3


def ill_scaled(images: Tensor) -> Tensor:
    """Channels of very different magnitude."""
    return images * torch.logspace(-4, 4, images.shape[1])[:, None, None]


INPUTS = {"normal": Tensor.clone, "large mean": with_large_mean, "ill-scaled": ill_scaled}


@by_chosen
@by_layout
@pytest.mark.parametrize("kind", INPUTS)
def test_error_is_at_most_twice_that_of_torch(
    kind: str, layout: str, slot: str, case: Case
) -> None:
    """With the points 0, +-1, +-2 the error of normal inputs is thrice torch's at 64 channels; that
    of weight gradients by tiles of 4x4 is up to five times torch's."""
    is_direct = slot == "weight_grad" and case.name in DIRECT_FOR_WEIGHTS
    assert (".winograd." in getattr(explained(case, layout), slot).kernel) != is_direct

    def operands_in(layout: str) -> Operands:
        first, second, _ = operands_of(case, slot, torch.float32, layout, integers=False)
        if slot == "weight_grad":
            second = INPUTS[kind](second)
        return Operands(INPUTS[kind](first), second, None)

    operands = operands_in(layout)
    right = oracle(case, slot, operands)
    allowed = 2 * relative_error(torch_result(case, slot, operands_in("channels_last")), right)
    for algorithm in ("auto", "winograd"):
        assert relative_error(run(case, slot, operands, algorithm), right) <= allowed


@pytest.mark.parametrize("name", ["3x3", "5x5", "1x7", "7x1"])
@pytest.mark.parametrize("slot", ["forward", "input_grad"])
def test_an_outlier_is_felt_in_its_tile_only(slot: str, name: str) -> None:
    """Also if it is infinite: a tile of up to 4x4, and the elements that it shares."""
    case = CASES[name]
    first, second, _ = operands_of(case, slot, torch.float32)
    first[0, 1, 2, 2] = math.inf
    operands = Operands(first, second, None)
    right = oracle(case, slot, operands)
    near = torch.zeros_like(right, dtype=torch.bool)
    near[0, :, :8, :8] = True
    for kernel, found in each_kernel(case, slot, operands, pattern="*winograd*"):
        assert not found[~right.isfinite()].isfinite().any(), kernel.name
        assert found[~near].isfinite().all(), kernel.name


# The choice.


@by_layout
def test_auto_takes_it_where_it_multiplies_much_less(layout: str) -> None:
    case = Case("dense", 1, 64, 28, 28, 64, (3, 3), padding=(1, 1))
    chosen = explained(case, layout)
    assert "winograd.4x4" in chosen.forward.kernel and "winograd.4x4" in chosen.input_grad.kernel
    assert "winograd.2x2" in chosen.weight_grad.kernel
    for other in (
        Case("7x7", 1, 64, 28, 28, 64, (7, 7), padding=(3, 3)),
        Case("5x5, small", 1, 64, 9, 9, 64, (5, 5), padding=(2, 2)),
        Case("1x7 on 7x7", 1, 512, 7, 7, 512, (1, 7), padding=(0, 3)),
        Case("1x3, few channels", 1, 32, 28, 28, 32, (1, 3), padding=(0, 1)),
        Case("stride 2", 1, 64, 28, 28, 64, (3, 3), (2, 2), (1, 1)),
        Case("dilation 12", 1, 256, 33, 33, 64, (3, 3), padding=(12, 12), dilation=(12, 12)),
        Case("6x6 image", 1, 64, 6, 6, 64, (3, 3), padding=(1, 1)),
        Case("depthwise", 1, 64, 28, 28, 64, (3, 3), padding=(1, 1), groups=64),
        Case("few channels", 1, 3, 28, 28, 64, (3, 3), padding=(1, 1)),
    ):
        for entry in explained(other, layout):
            assert "winograd" not in entry.kernel, other


@pytest.mark.usefixtures("restored_switch")
def test_the_switch() -> None:
    case = CHOSEN[0]
    assert ".winograd." in explained(case).forward.kernel
    with handconv.allow_winograd(False):
        explanation = explained(case)
        for entry in explanation:
            assert ".winograd." not in entry.kernel
            assert "Winograd is switched off" in dict(entry.refusals).values()
        assert "winograd.2x2" in explained(case, algorithm="winograd").forward.kernel
        with handconv.allow_winograd(True):
            assert ".winograd." in explained(case).forward.kernel
        assert ".winograd." not in explained(case).forward.kernel
    assert ".winograd." in explained(case).forward.kernel
    handconv.allow_winograd(False)
    assert ".winograd." not in explained(case).forward.kernel


@pytest.mark.usefixtures("restored_switch")
def test_the_switch_reaches_compiled_code_without_a_guard() -> None:
    case = CHOSEN[3]
    x, w, _, _ = tensors_of(case, torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(handconv.conv2d, backend="eager", fullgraph=True)
    on = compiled(x, w, None, *case.arguments)
    with handconv.allow_winograd(False), torch.compiler.set_stance("fail_on_recompile"):
        off = compiled(x, w, None, *case.arguments)
    assert torch.equal(on, handconv.conv2d(x, w, None, *case.arguments, algorithm="winograd"))
    assert torch.equal(off, handconv.conv2d(x, w, None, *case.arguments, algorithm="direct"))


@by_slot
def test_what_it_cannot_do_it_refuses(slot: str) -> None:
    case = CASES["1x1"]
    operands = operands_of(case, slot, torch.float32)
    with pytest.raises(RuntimeError, match=r"winograd cannot run this .* needs a 3x3 window"):
        run(case, slot, operands, "winograd")


@pytest.mark.parametrize("window", [(3, 3), (5, 5), (1, 3), (7, 1)], ids=str)
def test_derivatives_of_every_order(window: tuple[int, int]) -> None:
    """Direct kernels stand in where only the weight gradient has no tiles."""
    torch.manual_seed(0)
    x, w, bias = (
        torch.randn(size, dtype=torch.float64, requires_grad=True)
        for size in ((1, 2, 7, 6), (2, 2, *window), (2,))
    )

    def function(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return handconv.conv2d(x, w, bias, padding=1, algorithm="winograd")

    assert torch.autograd.gradcheck(function, (x, w, bias), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (x, w, bias))
