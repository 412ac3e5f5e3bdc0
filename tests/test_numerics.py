"""The numerics contract: how large errors may be, and that results are reproducible to the bit."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from cases import MEMORY_FORMATS, SLOTS, SMALL_CASES, Case
from helpers import (
    ALGORITHMS,
    CASES,
    LARGE_CASES,
    Operands,
    by_algorithm,
    by_layout,
    by_slot,
    each_fast_kernel,
    each_kernel,
    moved,
    operands_of,
    oracle,
    run,
    tensors_of,
)
from torch import Tensor

import handconv

pytestmark = pytest.mark.usefixtures("device")


def relative_error(found: Tensor, right: Tensor) -> float:
    return ((found.double() - right).norm() / right.norm()).item()


# Accuracy.


def torch_result(case: Case, slot: str, operands: Operands) -> Tensor:
    """F.conv2d, or its gradient, on the operands as they are; on the CPU for every device."""
    first, second, _ = moved(operands, "cpu")
    if slot == "forward":
        return F.conv2d(first, second, None, *case.arguments)
    if slot == "input_grad":
        return torch.nn.grad.conv2d_input(case.input_shape, second, first, *case.arguments)
    return torch.nn.grad.conv2d_weight(second, case.weight_shape, first, *case.arguments)


# Sums over many channels and 9 taps, as in a ResNet; for weight gradients, over many pixels.
DENSE = [
    Case(f"{channels} channels", 1, channels, size, size, channels, (3, 3), padding=(1, 1))
    for channels, size in ((64, 28), (128, 14), (256, 7), (512, 7))
]
MANY_PIXELS = [
    Case(f"{size} x {size} pixels", 2, 16, size, size, 16, (3, 3), padding=(1, 1))
    for size in (14, 28, 56, 112)
]
# F.conv2d multiplies matrices, which it cuts into short sums.
ONE_TAP = [
    Case(f"1x1, {size} x {size} pixels", 1, 160, size, size, 96, (1, 1)) for size in (7, 14, 28)
]
ACCURATE = [(slot, case) for case in DENSE for slot in ("forward", "input_grad")]
ACCURATE += [("weight_grad", case) for case in (*MANY_PIXELS, *ONE_TAP)]


def problem_with_allowed_error(
    case: Case, slot: str, layout: str
) -> tuple[Operands, Tensor, float]:
    """The operands, the right result, and twice the error of F.conv2d in channels_last.

    There it sums less cleverly than in NCHW.
    """
    operands = operands_of(case, slot, torch.float32, layout, integers=False)
    right = oracle(case, slot, operands)
    rival = operands_of(case, slot, torch.float32, "channels_last", integers=False)
    return operands, right, 2 * relative_error(torch_result(case, slot, rival), right.cpu())


@by_layout
@pytest.mark.parametrize(("slot", "case"), ACCURATE, ids=str)
def test_float32_error_is_at_most_twice_that_of_torch(slot: str, case: Case, layout: str) -> None:
    operands, right, allowed = problem_with_allowed_error(case, slot, layout)
    for algorithm in ALGORITHMS:
        assert relative_error(run(case, slot, operands, algorithm), right) <= allowed, algorithm
    for kernel, found in each_fast_kernel(case, slot, operands):
        if kernel.algorithm != "winograd":  # whose bound test_winograd.py checks where auto goes
            assert relative_error(found, right) <= allowed, kernel.name


# Alone, a small image goes to matrix products of torch's own, which round less than oneDNN does.
SMALL_IMAGES = [
    Case(f"{c} to {oc} channels, {n} x {n} pixels", 1, c, n, n, oc, (3, 3), padding=(1, 1))
    for c, oc, n in (
        (1, 32, 28),
        (3, 32, 20),
        (8, 16, 7),
        (8, 32, 28),
        (8, 64, 10),
        (32, 64, 20),
        (64, 160, 14),
    )
]
LINES = [
    Case(f"{name} of {length}", 1, 32, 1, length, 32, (1, 9), (1, 1), (0, 16), (1, 4), groups)
    for length in (300, 4000)
    for name, groups in (("depthwise line", 32), ("grouped line", 4), ("dense line", 1))
]
LINES.append(Case("long window on a line", 1, 32, 1, 300, 32, (1, 31), padding=(0, 15)))
ACCURATE_BY_CHOICE = [("input_grad", case) for case in SMALL_IMAGES]
ACCURATE_BY_CHOICE += [(slot, case) for case in LINES for slot in SLOTS]


@by_layout
@pytest.mark.parametrize(("slot", "case"), ACCURATE_BY_CHOICE, ids=str)
def test_float32_error_of_the_kernel_of_choice(slot: str, case: Case, layout: str) -> None:
    """Where not every kernel is, the one that is taken keeps to twice the error of torch."""
    operands, right, allowed = problem_with_allowed_error(case, slot, layout)
    assert relative_error(run(case, slot, operands, "auto"), right) <= allowed


# Of the types: the relative error of one rounding, and the smallest difference below the normals.
UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
SMALLEST = {torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24}

SUMS = [
    CASES[name]
    for name in (
        "1x1",
        "3x3 many channels",
        "3x3 two blocks of channels",
        "7x7 stem",
        "groups 3 of 8, stride 2",
        "depthwise 13x13",
        "depthwise multiplier 2",
    )
]


def error_bound(case: Case, slot: str, operands: Operands, roundoff: float) -> Tensor:
    """What rounding each product and each partial sum can amount to, in whatever order.

    A sum of n products a_i b_i has an error of at most n u sum |a_i b_i|, to first order in the
    unit roundoff u (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
    """
    magnitudes = Operands(*(None if t is None else t.abs() for t in operands))
    return (case.longest_sum() + 1) * roundoff * oracle(case, slot, magnitudes)


@pytest.mark.parametrize(
    "dtype", [dtype for dtype in UNIT_ROUNDOFF if dtype != torch.float32], ids=str
)
@by_layout
@by_slot
@pytest.mark.parametrize("case", SUMS, ids=str)
def test_16_bits_are_one_rounding_away_from_float32(
    case: Case, slot: str, layout: str, dtype: torch.dtype
) -> None:
    operands = operands_of(case, slot, dtype, layout, integers=False)
    right = oracle(case, slot, operands)
    before_rounding = error_bound(case, slot, operands, UNIT_ROUNDOFF[torch.float32])
    allowed = UNIT_ROUNDOFF[dtype] * (right.abs() + before_rounding) + before_rounding
    for kernel, found in each_kernel(case, slot, operands):
        error = (found.double() - right).abs()
        assert (error <= allowed + SMALLEST[dtype]).all(), kernel.name


@by_layout
@by_slot
@pytest.mark.parametrize("case", SUMS, ids=str)
def test_float64_accumulates_in_float64(case: Case, slot: str, layout: str) -> None:
    operands = operands_of(case, slot, torch.float64, layout, integers=False)
    right = oracle(case, slot, operands)
    allowed = 2 * error_bound(case, slot, operands, 2.0**-53)  # its own error, and the oracle's
    for kernel, found in each_kernel(case, slot, operands):
        assert ((found - right).abs() <= allowed).all(), kernel.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@by_slot
def test_infinities_and_nan_stay_where_they_belong(slot: str, dtype: torch.dtype) -> None:
    """Lanes beyond an edge, and what is packed beside an operand, may not carry them over.

    Winograd spreads them over a tile: test_winograd.py.
    """
    case = CASES["3x3"]
    first, second, _ = operands_of(case, slot, dtype)
    first[0, 1, 2, 2], first[0, 3, 6, 9] = math.inf, math.nan
    operands = Operands(first, second, None)
    right = oracle(case, slot, operands).to(dtype)
    assert 0 < right.isfinite().sum() < right.numel()
    for kernel, found in each_kernel(case, slot, operands):
        if kernel.algorithm == "winograd":
            continue
        assert torch.equal(found.isnan(), right.isnan()), kernel.name
        assert torch.equal(found.nan_to_num(), right.nan_to_num()), kernel.name


# Reproducibility.


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@by_layout
@by_slot
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_same_bits_on_every_run_and_any_number_of_threads(
    case: Case, slot: str, layout: str, dtype: torch.dtype
) -> None:
    operands = operands_of(case, slot, dtype, layout, integers=False)

    def results() -> dict[str, Tensor]:
        found = {kernel.name: result for kernel, result in each_fast_kernel(case, slot, operands)}
        return found | {a: run(case, slot, operands, a) for a in ALGORITHMS}

    torch.set_num_threads(1)
    alone = results()
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for name, result in results().items():
            assert torch.equal(result, alone[name]), (name, threads)


@pytest.mark.usefixtures("restored_threads")
def test_gradients_have_the_same_bits_for_any_number_of_threads() -> None:
    """That of the bias too, which is a sum over everything."""
    case = LARGE_CASES[0]
    x, w, bias, y = tensors_of(case, torch.float32)
    inputs = [t.requires_grad_() for t in (x, w, bias)]

    def gradients(threads: int) -> tuple[Tensor, ...]:
        torch.set_num_threads(threads)
        return torch.autograd.grad(handconv.conv2d(*inputs, *case.arguments), inputs, y)

    alone = gradients(1)
    for threads in (2, 3):
        assert all(map(torch.equal, gradients(threads), alone))


def sample_of(case: Case, operands: Operands, n: int) -> tuple[Case, Operands]:
    first = operands.first[n : n + 1]
    return dataclasses.replace(case, N=1), operands._replace(first=first)


@pytest.mark.parametrize("slot", ["forward", "input_grad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@by_layout
@pytest.mark.parametrize("case", [c for c in (*SMALL_CASES, *LARGE_CASES) if c.N > 1], ids=str)
def test_a_sample_has_the_same_bits_alone_and_in_a_batch(
    case: Case, layout: str, dtype: torch.dtype, slot: str
) -> None:
    operands = operands_of(case, slot, dtype, layout, integers=False)
    in_batch = {kernel.name: result for kernel, result in each_fast_kernel(case, slot, operands)}
    for n in range(case.N):
        one, sample = sample_of(case, operands, n)
        alone = {kernel.name: result for kernel, result in each_fast_kernel(one, slot, sample)}
        assert alone.keys() == in_batch.keys()
        for name, result in alone.items():
            assert torch.equal(result[0], in_batch[name][n]), name
        for algorithm in ALGORITHMS:
            whole = run(case, slot, operands, algorithm)
            assert torch.equal(run(one, slot, sample, algorithm)[0], whole[n]), algorithm


@by_layout
@by_algorithm
def test_the_choice_does_not_depend_on_the_batch(algorithm: str, layout: str, device: str) -> None:
    def chosen(case: Case, batch: int) -> tuple[str, str]:
        x, w = (
            torch.empty(shape, device="meta", memory_format=MEMORY_FORMATS[layout])
            for shape in ((batch, *case.input_shape[1:]), case.weight_shape)
        )
        explanation = handconv.explain(
            x, w, None, *case.arguments, algorithm=algorithm, device=device
        )
        return explanation.forward.kernel, explanation.input_grad.kernel

    for case in (*SMALL_CASES, *LARGE_CASES):
        assert len({chosen(case, batch) for batch in (1, 2, 7, 64)}) == 1, case


def test_threads_of_python_do_not_meet() -> None:
    """Calls at the same time share no scratch memory."""
    case = LARGE_CASES[0]
    operands = {slot: operands_of(case, slot, torch.float32, integers=False) for slot in SLOTS}
    jobs = [(slot, algorithm) for slot in SLOTS for algorithm in ALGORITHMS] * 3
    alone = {job: run(case, job[0], operands[job[0]], job[1]) for job in jobs}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: run(case, job[0], operands[job[0]], job[1]), jobs))
    for job, result in zip(jobs, found, strict=True):
        assert torch.equal(result, alone[job]), job
