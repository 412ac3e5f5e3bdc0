"""Times, errors and what is derived from them. Times are in seconds, rates in units of 1e9."""

from __future__ import annotations

import gc
import itertools
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from cases import Case
from clocks import Call, Clock, wall_clock
from families import family_of
from torch import Tensor

HANDCONV = "handconv"
RIVAL = "F.conv2d"

# F.conv2d on CUDA where cuDNN has tried out its algorithms on the problem, as
# torch.backends.cudnn.benchmark asks for. RIVAL then goes by heuristics, which is torch's default.
TUNED_RIVAL = "F.conv2d tuned"

# Relative L2 error against float64 from which on an answer counts as wrong. A careful result stays
# far below, with one rounding at the store; sums carried in 16 bits still count as right.
TOLERANCES = {
    torch.float32: 1e-5,
    torch.float64: 1e-13,
    torch.bfloat16: 1e-2,
    torch.float16: 1e-2,
}

# Of float32 where TF32 is allowed: its products have 10 bits.
TF32_TOLERANCE = 2e-3

# glibc hands blocks above this size back to the system at every free, so that each call has to
# fault its pages in again.
PAGE_FAULT_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Limits:
    """How long one measurement goes on; the times are of all contenders together."""

    calls: int = 30  # wanted from each contender
    enough: float = 0.3  # seconds to fill with more calls where they are quick
    most: float = 8.0  # seconds after which to stop short of `calls`
    fewest: int = 3  # calls from each contender however long they take
    warm_up: int = 0  # calls of each before, besides the one whose answer is checked


@dataclass(frozen=True)
class Times:
    minimum: float
    median: float
    calls: int


@dataclass(frozen=True)
class Result:
    """What one contender did; times is None where the error says that the answer is wrong."""

    error: float
    times: Times | None


@dataclass(frozen=True)
class Measurement:
    """One slot of one case in one dtype and layout, by every contender."""

    case: Case
    slot: str
    dtype: torch.dtype
    layout: str
    kernel: str
    results: dict[str, Result]

    @property
    def family(self) -> str:
        return family_of(self.case)

    @property
    def device(self) -> str:
        """The first word of the kernel's name."""
        return self.kernel.partition(".")[0] or "cpu"

    @property
    def bytes(self) -> int:
        return self.case.bytes(self.slot, self.dtype)

    @property
    def intensity(self) -> float:
        """FLOP per byte that must be moved."""
        return self.case.flops / self.bytes

    @property
    def page_faults(self) -> bool:
        """Whether the result is so large that each call faults its pages in, on both sides."""
        if self.device != "cpu":
            return False
        written = self.case.output_shape if self.slot == "forward" else self.case.input_shape
        if self.slot == "weight_grad":
            written = self.case.weight_shape
        return torch.Size(written).numel() * self.dtype.itemsize > PAGE_FAULT_BYTES

    def times(self, contender: str) -> Times | None:
        """None where the contender did not take part, or was wrong."""
        result = self.results.get(contender)
        return None if result is None else result.times

    def gflops(self, contender: str = HANDCONV) -> float | None:
        """GFLOP/s of the quickest call."""
        times = self.times(contender)
        return None if times is None else self.case.flops / times.minimum / 1e9

    def gbytes_per_second(self, contender: str = HANDCONV) -> float | None:
        """Of what must be moved, in the quickest call."""
        times = self.times(contender)
        return None if times is None else self.bytes / times.minimum / 1e9

    def ratio(self, which: str = "minimum", rival: str = RIVAL) -> float | None:
        """Time of the rival / time of handconv: above 1 handconv is faster."""
        ours = self.times(HANDCONV)
        theirs = self.times(rival)
        if ours is None or theirs is None:
            return None
        return float(getattr(theirs, which) / getattr(ours, which))

    def as_dict(self, peak: float, bandwidth: float = math.nan) -> dict[str, Any]:
        """Every figure, with plain types for JSON; peak in GFLOP/s, bandwidth in GB/s."""
        return {
            "case": self.case.name,
            "input": self.case.input_shape,
            "weight": self.case.weight_shape,
            "output": self.case.output_shape,
            "stride": self.case.stride,
            "padding": self.case.padding,
            "dilation": self.case.dilation,
            "groups": self.case.groups,
            "family": self.family,
            "dtype": dtype_name(self.dtype),
            "layout": self.layout,
            "slot": self.slot,
            "kernel": self.kernel,
            "flops": self.case.flops,
            "bytes": self.bytes,
            "page_faults": self.page_faults,
            "ratio_of_minima": self.ratio("minimum"),
            "ratio_of_medians": self.ratio("median"),
            "contenders": {name: self._contender(name, peak, bandwidth) for name in self.results},
        }

    def _contender(self, name: str, peak: float, bandwidth: float) -> dict[str, Any]:
        error, times, gflops = self.results[name].error, self.times(name), self.gflops(name)
        gbytes = self.gbytes_per_second(name)
        if times is None or gflops is None or gbytes is None:
            return {"error": error if math.isfinite(error) else None, "wrong": True}
        return {
            "error": error,
            "wrong": False,
            "minimum_seconds": times.minimum,
            "median_seconds": times.median,
            "calls": times.calls,
            "gflops": gflops,
            "share_of_peak": gflops / peak,
            "gbytes_per_second": gbytes,
            "share_of_copy": None if math.isnan(bandwidth) else gbytes / bandwidth,
            "ratio_of_minima": self.ratio("minimum", name),
            "ratio_of_medians": self.ratio("median", name),
        }


@dataclass(frozen=True)
class Summary:
    """The ratios of one group of measurements, by their geometric mean."""

    mean: float
    lowest: float
    highest: float
    count: int


def summarize(
    measurements: Iterable[Measurement], which: str = "minimum", rival: str = RIVAL
) -> Summary | None:
    """None where nothing was measured right on both sides."""
    ratios = [ratio for m in measurements if (ratio := m.ratio(which, rival)) is not None]
    if not ratios:
        return None
    return Summary(statistics.geometric_mean(ratios), min(ratios), max(ratios), len(ratios))


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def relative_error(result: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference over that of the expected values; NaN if anything is NaN."""
    difference = float((result.double() - expected).norm())
    norm = float(expected.norm())
    return difference / norm if norm else difference


def tolerance(dtype: torch.dtype, tf32: bool) -> float:
    return TF32_TOLERANCE if tf32 and dtype == torch.float32 else TOLERANCES[dtype]


def race(calls: dict[str, Call], limits: Limits, clock: Clock = wall_clock) -> dict[str, Times]:
    """Times every contender, one call each in turn, so that a change of the machine meets all."""
    for _, call in itertools.product(range(limits.warm_up), calls.values()):
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    elapsed, rounds = 0.0, 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        while not _finished(rounds, elapsed, limits):
            for name, call in calls.items():
                taken = clock(call)
                seconds[name].append(taken)
                elapsed += taken
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return {
        name: Times(min(taken), statistics.median(taken), rounds) for name, taken in seconds.items()
    }


def _finished(rounds: int, elapsed: float, limits: Limits) -> bool:
    if rounds < limits.calls:
        return rounds >= limits.fewest and elapsed > limits.most
    return elapsed > limits.enough


def measure(
    calls: dict[str, Call],
    expected: Tensor,
    dtype: torch.dtype,
    limits: Limits,
    clock: Clock = wall_clock,
    *,
    tf32: bool = False,
) -> dict[str, Result]:
    """Checks what each contender answers, which warms it up too, and times those that are right."""
    allowed = tolerance(dtype, tf32)
    errors = {name: relative_error(call(), expected) for name, call in calls.items()}
    right = {name: call for name, call in calls.items() if errors[name] <= allowed}
    times = race(right, limits, clock) if right else {}
    return {name: Result(errors[name], times.get(name)) for name in calls}
