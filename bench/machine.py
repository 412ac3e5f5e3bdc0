"""What the figures were measured on: the machine, the builds, and the ceilings that it reaches."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Call, dtype_name, wall_clock

import handconv

MATRIX_SIZES = (256, 2048)
COPY_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Ceilings:
    """The best that torch reaches here: arithmetic by dtype in GFLOP/s, a copy in GB/s.

    cpu_share is the part of the time that the threads were running meanwhile: well below 1 when
    other programs use the machine, and the figures are then worth little.
    """

    gflops: dict[str, float]
    gbytes_per_second: float
    cpu_share: float

    def peak(self, dtype: torch.dtype) -> float:
        return self.gflops[dtype_name(dtype)]

    def roof(self, dtype: torch.dtype, intensity: float) -> float:
        """GFLOP/s that the roofline allows at so many FLOP per byte."""
        return min(self.peak(dtype), intensity * self.gbytes_per_second)


def measure_ceilings(dtypes: Iterable[torch.dtype], seconds: float) -> Ceilings:
    """Spends about so many seconds on each ceiling.

    The 16-bit types accumulate in float32: their ceiling is that of float32 unless the machine
    multiplies 16-bit matrices faster.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    float32 = _matmul_gflops(torch.float32, seconds)
    cpu_time, elapsed = time.process_time() - cpu_start, time.perf_counter() - start
    gflops = {"float32": float32}
    for dtype in set(dtypes) - {torch.float32}:
        rate = _matmul_gflops(dtype, seconds)
        gflops[dtype_name(dtype)] = max(rate, float32) if dtype.itemsize == 2 else rate
    return Ceilings(
        gflops,
        _copy_gbytes_per_second(seconds),
        cpu_share=cpu_time / (elapsed * torch.get_num_threads()),
    )


def _matmul_gflops(dtype: torch.dtype, seconds: float) -> float:
    """The best over growing matrices, as far as so many seconds allow: some dtypes crawl."""
    best = 0.0
    for size in MATRIX_SIZES:
        flops = 2 * size**3
        if best and flops / (best * 1e9) > seconds:
            break
        a, b = (torch.ones(size, size, dtype=dtype) for _ in range(2))
        multiply = partial(torch.mm, a, b, out=torch.empty_like(a))
        best = max(best, flops / _best_time(multiply, seconds) / 1e9)
    return best


def _copy_gbytes_per_second(seconds: float) -> float:
    """Bytes read and written by a copy of a block that no cache holds."""
    source = torch.ones(COPY_BYTES // 4)
    target = torch.zeros_like(source)
    return 2 * COPY_BYTES / _best_time(lambda: target.copy_(source), seconds) / 1e9


def _best_time(call: Call, seconds: float) -> float:
    """The quickest of the calls that fit into so many seconds, after one to warm up."""
    call()
    best, spent = float("inf"), 0.0
    while spent < seconds:
        taken = wall_clock(call)
        best, spent = min(best, taken), spent + taken
    return best


def describe_machine() -> dict[str, Any]:
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "processor": _processor_name(),
        "logical_cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_at_start": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_build": torch.__config__.show(),
        "handconv_build": handconv._C.build_info(),
        "handconv_isa": handconv._C.isa(),
    }


def _processor_name() -> str:
    """The model as Linux names it, else what Python knows."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
