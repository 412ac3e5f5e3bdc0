"""Checks the choice of `auto`: times every row of the kernel table that takes a problem, one
against the other, and tells where another one than the chosen was the best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from cases import Case, Tensors
from clocks import Call
from contenders import float64_result, handconv_call, kernel_name
from measuring import Limits, Times, dtype_name, measure
from rich.console import Console
from rich.table import Table
from torch import Tensor

import handconv

# Rows within this of the best are as good: the machine's noise is larger.
AS_GOOD = 1.05


class Contest(NamedTuple):
    """The times of the rows that take one slot of one case; `chosen` is the row of `auto`."""

    case: Case
    slot: str
    dtype: torch.dtype
    layout: str
    chosen: str
    times: dict[str, Times]

    @property
    def best(self) -> str:
        return min(self.times, key=lambda name: self.times[name].minimum)

    @property
    def loss(self) -> float:
        """Time of the chosen row / time of the best one."""
        return self.times[self.chosen].minimum / self.times[self.best].minimum


def contest(case: Case, tensors: Tensors, slot: str, layout: str, limits: Limits) -> Contest:
    """Every row of the chosen one's instruction set, those that take the problem."""
    chosen = kernel_name(case, tensors, slot, "auto")
    call = handconv_call(case, tensors, slot, "auto")
    calls: dict[str, Call] = {
        name: partial(run_on, name, call) for name in rivals_of(chosen, slot) if takes(name, call)
    }
    expected = float64_result(case, tensors, slot)
    results = measure(calls, expected, tensors.x.dtype, limits)
    times = {name: result.times for name, result in results.items() if result.times}
    return Contest(case, slot, tensors.x.dtype, layout, chosen, times)


def rivals_of(chosen: str, slot: str) -> list[str]:
    isa = chosen.rpartition(".")[2]
    return [row.name for row in handconv.kernels() if row.slot == slot and row.name.endswith(isa)]


def run_on(name: str, call: Call) -> Tensor:
    with handconv.forced_kernel(name):
        result: Tensor = call()
    return result


def takes(name: str, call: Call) -> bool:
    try:
        run_on(name, call)
    except RuntimeError:
        return False
    return True


def print_contests(console: Console, contests: Sequence[Contest]) -> None:
    lost = sorted((c for c in contests if c.loss > AS_GOOD), key=lambda c: -c.loss)
    console.print(
        f"auto took the best row, or one within {AS_GOOD - 1:.0%} of it, in "
        f"{len(contests) - len(lost)} of {len(contests)} cases."
    )
    if lost:
        console.print(_table_of(lost))


def _table_of(lost: Iterable[Contest]) -> Table:
    table = Table(title="Where another row was faster", title_justify="left")
    for column in ("layer", "dtype", "layout", "slot", "auto took", "the best was"):
        table.add_column(column, no_wrap=True)
    table.add_column("times as long", justify="right")
    for c in lost:
        names = (c.case.name, dtype_name(c.dtype), c.layout, c.slot, c.chosen, c.best)
        table.add_row(*names, f"{c.loss:.2f}")
    return table
