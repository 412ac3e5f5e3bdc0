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
from clocks import Call, clock_of
from measuring import dtype_name

import handconv

MATRIX_SIZES = {"cpu": (256, 2048), "cuda": (2048, 8192)}
COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}


@dataclass(frozen=True)
class Ceilings:
    """The best that torch reaches here: arithmetic by dtype in GFLOP/s, a copy in GB/s.

    cpu_share is the part of the time that the threads were running meanwhile: well below 1 when
    other programs use the machine, and the figures are then worth little. For a GPU it is 1.
    """

    gflops: dict[str, float]
    gbytes_per_second: float
    cpu_share: float

    def peak(self, dtype: torch.dtype) -> float:
        return self.gflops[dtype_name(dtype)]

    def roof(self, dtype: torch.dtype, intensity: float) -> float:
        """GFLOP/s that the roofline allows at so many FLOP per byte."""
        return min(self.peak(dtype), intensity * self.gbytes_per_second)


def measure_ceilings(
    dtypes: Iterable[torch.dtype], seconds: float, device: str = "cpu"
) -> Ceilings:
    """Spends about so many seconds on each ceiling.

    The 16-bit types accumulate in float32: their ceiling is that of float32 unless the machine
    multiplies 16-bit matrices faster.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    float32 = _matmul_gflops(torch.float32, seconds, device)
    cpu_time, elapsed = time.process_time() - cpu_start, time.perf_counter() - start
    gflops = {"float32": float32}
    for dtype in set(dtypes) - {torch.float32}:
        rate = _matmul_gflops(dtype, seconds, device)
        gflops[dtype_name(dtype)] = max(rate, float32) if dtype.itemsize == 2 else rate
    return Ceilings(
        gflops,
        _copy_gbytes_per_second(seconds, device),
        cpu_share=cpu_time / (elapsed * torch.get_num_threads()) if device == "cpu" else 1.0,
    )


def _matmul_gflops(dtype: torch.dtype, seconds: float, device: str) -> float:
    """The best over growing matrices, as far as so many seconds allow: some dtypes crawl."""
    best = 0.0
    for size in MATRIX_SIZES[device]:
        flops = 2 * size**3
        if best and flops / (best * 1e9) > seconds:
            break
        a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
        multiply = partial(torch.mm, a, b, out=torch.empty_like(a))
        best = max(best, flops / _best_time(multiply, seconds, device) / 1e9)
    return best


def _copy_gbytes_per_second(seconds: float, device: str) -> float:
    """Bytes read and written by a copy of a block that no cache holds."""
    size = COPY_BYTES[device]
    source = torch.ones(size // 4, device=device)
    target = torch.zeros_like(source)
    return 2 * size / _best_time(lambda: target.copy_(source), seconds, device) / 1e9


def _best_time(call: Call, seconds: float, device: str) -> float:
    """The quickest of the calls that fit into so many seconds, after one to warm up."""
    call()
    clock = clock_of(device)
    best, spent = float("inf"), 0.0
    while spent < seconds:
        taken = clock(call)
        best, spent = min(best, taken), spent + taken
    return best


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """`title` is what stands over tables and pictures."""
    description = _describe_host()
    if device == "cuda":
        gpu = _describe_gpu()
        return description | gpu | {"title": f"{gpu['gpu']}, CUDA {gpu['cuda']}"}
    title = f"{description['processor']}, {description['threads']} threads"
    return description | {"title": title}


def cache_bytes(device: str) -> int:
    """The cache that inputs are rotated out of: none on the CPU, where a layer finds it warm."""
    return int(torch.cuda.get_device_properties(0).L2_cache_size) if device == "cuda" else 0


def _describe_gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "gpu_memory_bytes": properties.total_memory,
        "gpu_cache_bytes": cache_bytes("cuda"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _describe_host() -> dict[str, Any]:
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
