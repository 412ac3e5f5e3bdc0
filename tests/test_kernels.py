"""Every row of the kernel table, forced over the small cases: exact, and only where it may be."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sanitizer_cases
import torch
from cases import DTYPES, LAYOUTS, SMALL_CASES, Case
from helpers import (
    ALGORITHMS,
    CASES,
    LARGE_CASES,
    Operands,
    agrees,
    by_layout,
    by_slot,
    bytes_of,
    each_fast_kernel,
    each_kernel,
    exact,
    forced,
    guarded,
    kernels_of,
    operands_of,
    oracle,
    run,
    tensors_of,
)
from torch import Tensor

import handconv

pytestmark = pytest.mark.usefixtures("device", "poisoned_memory", "tf32_allowed")

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_case = pytest.mark.parametrize("case", SMALL_CASES, ids=str)

# One of each kind, for what need not be tried on all.
SOME_CASES = [
    CASES[name]
    for name in (
        "1x1",
        "3x3",
        "groups 2",
        "wrong: 6x1 in groups",
        "depthwise 3x3",
        "depthwise multiplier 3, stride 2",
        "lesson: everything",
    )
]


@by_dtype
@by_layout
@by_slot
@by_case
def test_every_kernel_is_exact(case: Case, slot: str, layout: str, dtype: torch.dtype) -> None:
    operands = Operands(
        *(None if t is None else guarded(t) for t in operands_of(case, slot, dtype, layout))
    )
    buffers = [bytes_of(operand) for operand in operands if operand is not None]
    before = [buffer.clone() for buffer in buffers]
    expected = exact(case, slot).to(dtype)

    algorithms = set()
    for kernel, result in each_kernel(case, slot, operands):
        algorithms.add(kernel.algorithm)
        assert result.dtype == dtype
        assert agrees(kernel, result, expected), kernel.name
        assert all(map(torch.equal, buffers, before)), f"{kernel.name} wrote into its operands"
    assert algorithms >= {"direct", "im2col", "reference"}


def test_every_kernel_takes_some_case(row: handconv.Kernel) -> None:
    """A row that refuses everything would pass every other test."""

    def takes(case: Case, layout: str, dtype: torch.dtype) -> bool:
        operands = operands_of(case, row.slot, dtype, layout)
        return forced(row, case, row.slot, operands) is not None

    # Without a batch no kernel is asked.
    cases = [case for case in SMALL_CASES if case.N > 0]
    assert any(takes(*problem) for problem in itertools.product(cases, LAYOUTS, DTYPES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@by_layout
@by_slot
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_every_kernel_is_exact_on_large_problems(
    case: Case, slot: str, layout: str, dtype: torch.dtype
) -> None:
    operands = operands_of(case, slot, dtype, layout)
    expected = exact(case, slot).to(dtype)
    for kernel, result in each_fast_kernel(case, slot, operands):
        assert agrees(kernel, result, expected), kernel.name


@by_layout
@by_slot
@pytest.mark.parametrize(
    "case",
    [
        Case("1x1 stride 2", 1, 512, 24, 24, 520, (1, 1), (2, 2)),
        Case("3x3 stride 2", 1, 200, 19, 21, 180, (3, 3), (2, 2), (1, 1)),
        Case("3x3", 1, 260, 9, 11, 240, (3, 3), padding=(1, 1)),
        Case("1x5", 1, 260, 1, 130, 240, (1, 5), padding=(0, 2)),
        Case("1x3 stride 2 on a line of parts", 1, 240, 1, 1050, 256, (1, 3), (1, 2)),
        Case("depthwise 11x11", 1, 70, 30, 29, 70, (11, 11), padding=(5, 5), groups=70),
        Case("groups of 8, stride 2", 1, 256, 30, 29, 256, (3, 3), (2, 2), (1, 1), groups=32),
    ],
    ids=str,
)
@pytest.mark.usefixtures("restored_threads")
def test_every_kernel_stays_inside_its_workspace(case: Case, slot: str, layout: str) -> None:
    """Plans of large weights, checked by what lies behind the workspace of the only thread."""
    torch.set_num_threads(1)
    operands = operands_of(case, slot, torch.float32, layout)
    expected = exact(case, slot).float()
    for kernel, result in each_fast_kernel(case, slot, operands):
        assert agrees(kernel, result, expected), kernel.name


@by_slot
def test_every_kernel_is_exact_on_many_bytes(slot: str) -> None:
    """x alone has more than 32 MiB, at which images are cut into parts."""
    case = Case("many bytes", 3, 16, 420, 420, 2, (2, 2), (3, 2))
    operands = operands_of(case, slot, torch.float32)
    expected = exact(case, slot).float()
    for kernel, result in each_fast_kernel(case, slot, operands):
        assert agrees(kernel, result, expected), kernel.name


# Operands as they may come.


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def sliced(tensor: Tensor) -> Tensor:
    """Every second element of a wider tensor along each dimension, the others NaN."""
    wide = tensor.new_full([2 * size for size in tensor.shape], torch.nan)
    view = wide[1::2, 1::2, 1::2, 1::2]
    return view.copy_(tensor)


def permuted(tensor: Tensor) -> Tensor:
    """Stored in the order (3, 1, 0, 2) of its dimensions: neither layout."""
    return tensor.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)


def expanded(tensor: Tensor) -> Tensor:
    """Other values: those at index 0 of the first dimension, with a stride of zero."""
    return tensor[:1].expand(tensor.shape)


VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "first channels_last": (channels_last, Tensor.contiguous),
    "second channels_last": (Tensor.contiguous, channels_last),
    "first sliced": (sliced, Tensor.contiguous),
    "second sliced": (Tensor.contiguous, sliced),
    "second sliced, first channels_last": (channels_last, sliced),
    "first permuted": (permuted, Tensor.contiguous),
    "second permuted": (Tensor.contiguous, permuted),
    "second permuted, first channels_last": (channels_last, permuted),
    "both expanded": (expanded, expanded),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@by_slot
@pytest.mark.parametrize("case", [*SOME_CASES, CASES["output 1x1"]], ids=str)
def test_every_kernel_takes_any_strides(
    case: Case, slot: str, dtype: torch.dtype, view: str
) -> None:
    first, second, bias = operands_of(case, slot, dtype)
    view_first, view_second = VIEWS[view]
    operands = Operands(view_first(first), view_second(second), bias)
    expected = oracle(case, slot, operands).to(dtype)
    for kernel, result in each_kernel(case, slot, operands):
        assert agrees(kernel, result, expected), kernel.name


@by_layout
@pytest.mark.parametrize("slot", ["input_grad", "weight_grad"])
@pytest.mark.parametrize("case", SOME_CASES, ids=str)
def test_every_kernel_takes_a_smaller_y(case: Case, slot: str, layout: str) -> None:
    """Where y ends before the last window, as output_padding can have it, it goes on as zeros."""
    operands = operands_of(case, slot, torch.float32, layout)
    operands.first[:, :, -1] = operands.first[:, :, :, -1] = 0
    expected = oracle(case, slot, operands).float()
    smaller = operands._replace(first=guarded(operands.first[:, :, :-1, :-1].clone()))
    for kernel, result in each_kernel(case, slot, smaller):
        assert agrees(kernel, result, expected), kernel.name


# The choice.


@by_layout
@by_slot
@pytest.mark.parametrize("case", SOME_CASES, ids=str)
def test_an_algorithm_runs_its_own_kernels(case: Case, slot: str, layout: str) -> None:
    operands = operands_of(case, slot, torch.float32, layout)
    for algorithm in ALGORITHMS:
        assert torch.equal(run(case, slot, operands, algorithm), exact(case, slot).float())
    x, w, bias, _ = tensors_of(case, torch.float32, layout)
    for algorithm in ("direct", "im2col"):
        explanation = handconv.explain(x, w, bias, *case.arguments, algorithm=algorithm)
        assert algorithm in getattr(explanation, slot).kernel


def test_a_forced_kernel_says_what_it_has_not() -> None:
    without_input_grad = {kernel.name for kernel in handconv.kernels()}
    without_input_grad -= {kernel.name for kernel in kernels_of("input_grad")}
    case = CASES["3x3"]
    for name in without_input_grad:
        with handconv.forced_kernel(name), pytest.raises(RuntimeError, match="has no kernel for"):
            run(case, "input_grad", operands_of(case, "input_grad"))


# Memory.


@pytest.mark.only_on("cpu")
def test_the_script_for_the_sanitizer_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """On the CPU, as far as that goes: it is made for CUDA."""
    options = ["--device", "cpu", "--case", "3x3 v*", "--kernel", "*direct*", "--layout", "nchw"]
    assert sanitizer_cases.main(options) == 0
    assert "0 wrong" in capsys.readouterr().out
    assert sanitizer_cases.main([*options, "--case", "no such case"]) == 1


@pytest.mark.only_on("cpu")
@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect and glibc's malloc checks")
def test_every_kernel_stays_inside_its_memory() -> None:
    """A read outside an operand faults, a write behind a result aborts: hence another process."""
    script = Path(__file__).with_name("guard_pages.py")
    debug_malloc = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}
    process = subprocess.run(
        [sys.executable, script],
        env=os.environ | debug_malloc,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-200:] + process.stderr[-2000:]
    assert process.stdout.endswith("all done\n")
