"""What a CUDA row must hold on one problem, checked on the simulator.

Small integers make every sum exact, so that results are compared bit by bit; other operands are
compared with float64, within what rounding can amount to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from cases import MEMORY_FORMATS, Case
from helpers import Operands, exact, operands_of, oracle
from torch import Tensor

from .library import Placement, Problem, Row, Simulator, make_problem

# Of the types: the relative error of one rounding, and the smallest difference below the normals.
UNIT_ROUNDOFF = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}
SMALLEST = {torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24}
TF32_ROUNDOFF = 2.0**-11


class Failure(Exception):
    """What a check has found."""


@lru_cache(4)
def _operands(case: Case, slot: str, dtype: torch.dtype, layout: str, integers: bool) -> Operands:
    return operands_of(case, slot, dtype, layout, integers=integers)


def nan(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    return torch.empty(shape, dtype=dtype, memory_format=MEMORY_FORMATS[layout]).fill_(torch.nan)


class Setting(NamedTuple):
    """One row on one case."""

    simulator: Simulator
    row: Row
    case: Case
    dtype: torch.dtype
    layout: str

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.row.name} {self.row.slot} {self.case.name!r} {dtype} {self.layout}"

    def operands(self, *, integers: bool) -> Operands:
        first, second, bias = _operands(self.case, self.row.slot, self.dtype, self.layout, integers)
        return Operands(first.clone(), second.clone(), bias)

    def problem(self, w: Tensor, bias: Tensor | None, **more: object) -> Problem:
        return make_problem(
            self.case,
            self.row.slot,
            self.dtype,
            self.layout,
            w.stride(),
            has_bias=bias is not None,
            **more,  # type: ignore[arg-type]
        )

    def refusal(self) -> str | None:
        """Why the row cannot run this."""
        return self.simulator.cannot(self.row, self.usual_problem())

    def advice_against(self) -> str | None:
        """Why a later row is to run this."""
        return self.simulator.should_not(self.row, self.usual_problem())

    def usual_problem(self) -> Problem:
        operands = self.operands(integers=True)
        w = operands.second
        if self.row.slot == "weight_grad":
            w = nan(self.case.weight_shape, self.dtype, self.layout)
        return self.problem(w, operands.bias)

    def run(
        self,
        operands: Operands,
        *,
        seed: int = 0,
        placement: Placement = Placement.AT_END,
        w_layout: str | None = None,
        allows_tf32: bool = False,
    ) -> Tensor | None:
        """What the row fills, of which every element was NaN before; None if it refuses."""
        case, slot = self.case, self.row.slot
        first, second, bias = operands

        w_layout = w_layout or self.layout
        output_size = case.output_size
        if slot == "forward":
            x, w, y = first, second, nan(case.output_shape, self.dtype, self.layout)
        elif slot == "input_grad":
            x, w, y = nan(case.input_shape, self.dtype, self.layout), second, first
            output_size = (y.shape[2], y.shape[3])
        else:
            x, w, y = second, nan(case.weight_shape, self.dtype, w_layout), first
            output_size = (y.shape[2], y.shape[3])
        problem = self.problem(w, bias, output_size=output_size, allows_tf32=allows_tf32)
        if self.simulator.cannot(self.row, problem):
            return None
        self.simulator.run(self.row, problem, x, w, y, bias, seed=seed, placement=placement)
        return {"forward": y, "input_grad": x, "weight_grad": w}[slot]


def demand_equal(found: Tensor | None, expected: Tensor, what: str) -> None:
    if found is None or torch.equal(found, expected):
        return
    wrong = ~(found == expected)
    index = tuple(wrong.nonzero()[0].tolist())
    raise Failure(
        f"{what}: {int(wrong.sum())} of {wrong.numel()} elements differ, {int(found.isnan().sum())}"
        f" are NaN; at {index} {found[index].item()} instead of {expected[index].item()}"
    )


def other(layout: str) -> str:
    return "channels_last" if layout == "nchw" else "nchw"


def in_layout(tensor: Tensor, layout: str) -> Tensor:
    placed = torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=MEMORY_FORMATS[layout])
    return placed.copy_(tensor)


def with_gaps(tensor: Tensor) -> Tensor:
    """Every second element of a wider tensor along each dimension, the others NaN."""
    wide = torch.full([2 * size for size in tensor.shape], torch.nan, dtype=tensor.dtype)
    return wide[::2, ::2, ::2, ::2].copy_(tensor)


def check_exact(setting: Setting, seeds: int) -> None:
    """Any order of threads, any place in memory and any memory order of w: the same integers."""
    expected = exact(setting.case, setting.row.slot).to(setting.dtype)
    operands = setting.operands(integers=True)
    for seed in range(seeds):
        placement = Placement(seed % 3)
        w_layout = other(setting.layout) if seed % 2 else setting.layout
        placed = operands
        if setting.row.slot != "weight_grad":
            w = operands.second
            w = with_gaps(w) if seed == 2 else in_layout(w, w_layout)
            placed = operands._replace(second=w)
        found = setting.run(placed, seed=seed, placement=placement, w_layout=w_layout)
        demand_equal(found, expected, f"integers, seed {seed}, {placement.name}, w {w_layout}")


def check_smaller_y(setting: Setting) -> None:
    """Where y ends before the last window, as output_padding can have it, it goes on as zeros."""
    operands = setting.operands(integers=True)
    if setting.row.slot == "forward" or min(setting.case.output_size) < 2:
        return
    operands.first[:, :, -1] = operands.first[:, :, :, -1] = 0
    expected = oracle(setting.case, setting.row.slot, operands).to(setting.dtype)
    smaller = in_layout(operands.first[:, :, :-1, :-1], setting.layout)
    found = setting.run(operands._replace(first=smaller))
    demand_equal(found, expected, "a smaller y")


@cache
def float_oracle(case: Case, slot: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The result of other than integers, and that of their magnitudes."""
    operands = operands_of(case, slot, dtype, integers=False)
    bias = None if operands.bias is None else operands.bias.abs()
    magnitudes = Operands(operands.first.abs(), operands.second.abs(), bias)
    return oracle(case, slot, operands), oracle(case, slot, magnitudes)


def allowed_error(setting: Setting, *, tf32: bool = False) -> Tensor:
    """A sum of n products a_i b_i has an error of at most n u sum |a_i b_i| (Higham, section 3.1).

    Twice that is allowed; then the result is rounded to its type.
    """
    right, magnitudes = float_oracle(setting.case, setting.row.slot, setting.dtype)
    is_double = setting.dtype == torch.float64
    roundoff = UNIT_ROUNDOFF[torch.float64 if is_double else torch.float32]
    sum_error = 2 * (setting.case.longest_sum() + 1) * roundoff * magnitudes
    if tf32:
        sum_error = sum_error + 2.01 * TF32_ROUNDOFF * magnitudes
    if setting.dtype in SMALLEST:
        rounding = UNIT_ROUNDOFF[setting.dtype] * (right.abs() + sum_error)
        return sum_error + rounding + SMALLEST[setting.dtype]
    return sum_error


def demand_close(setting: Setting, found: Tensor, allowed: Tensor, what: str) -> None:
    right, _ = float_oracle(setting.case, setting.row.slot, setting.dtype)
    error = (found.double() - right).abs()
    if not (error <= allowed).all():
        worst = (error / allowed).nan_to_num(nan=torch.inf).max().item()
        raise Failure(f"{what}: the error is {worst:.3g} times what is allowed")


def check_accuracy(setting: Setting, seeds: int) -> None:
    """Near float64, and the same bits whatever the order of threads."""
    operands = setting.operands(integers=False)
    results = [
        setting.run(operands, seed=seed, placement=Placement.AT_BEGIN)
        for seed in range(3, 3 + seeds)
    ]
    if results[0] is None:
        return
    demand_close(setting, results[0], allowed_error(setting), "floats")
    for result in results[1:]:
        demand_equal(result, results[0], "floats with another order of threads")


def check_tf32(setting: Setting) -> None:
    """Products may be rounded to TF32 where that is allowed."""
    operands = setting.operands(integers=False)
    found = setting.run(operands, allows_tf32=True, placement=Placement.AT_BEGIN)
    if found is not None:
        demand_close(setting, found, allowed_error(setting, tf32=True), "TF32")


def check_batch(setting: Setting) -> None:
    """A sample has the same bits alone and in a batch."""
    if setting.row.slot == "weight_grad" or setting.case.N < 2:
        return
    operands = setting.operands(integers=False)
    whole = setting.run(operands, placement=Placement.AT_BEGIN)
    alone = setting._replace(case=dataclasses.replace(setting.case, N=1))
    for n in range(setting.case.N):
        sample = operands._replace(first=in_layout(operands.first[n : n + 1], setting.layout))
        found = alone.run(sample, placement=Placement.AT_BEGIN)
        if (found is None) != (whole is None):
            raise Failure("takes or refuses a sample by the batch that it sits in")
        if found is not None and whole is not None:
            demand_equal(found[0], whole[n], f"sample {n} alone")


def checks_of(setting: Setting) -> Iterator[str | None]:
    """What each check finds: an error, or None. float32 is tried in more ways than the others.

    A row that a later one is better than, and that is thus never chosen, is looked at for integers.
    """
    is_float32 = setting.dtype == torch.float32
    checks: list[Callable[[], None]] = [
        lambda: check_exact(setting, 3 if is_float32 else 2),
    ]
    is_chosen = setting.advice_against() is None
    if is_chosen:
        checks.append(lambda: check_accuracy(setting, 2 if is_float32 else 1))
    if is_chosen and is_float32:
        checks += [lambda: check_tf32(setting), lambda: check_smaller_y(setting)]
    if is_chosen and setting.dtype in (torch.float32, torch.float16):
        checks.append(lambda: check_batch(setting))
    for check in checks:
        try:
            check()
            yield None
        except Exception as error:
            yield f"{type(error).__name__}: {error}"
