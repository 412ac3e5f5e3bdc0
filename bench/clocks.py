"""How one call is timed on each device. A clock runs the call and returns its seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

Call = Callable[[], Any]
Clock = Callable[[Call], float]

# About a tenth of a millisecond, in which the CPU can enqueue a call.
HEAD_START_CYCLES = 200_000


def wall_clock(call: Call) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) * 1e-9


def event_clock(call: Call) -> float:
    """The time that the GPU takes, between two events.

    The GPU first sleeps while the call is enqueued: the cost of calling, which bench/run.py
    --overhead tells, is then outside.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START_CYCLES)
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def clock_of(device: str) -> Clock:
    return event_clock if device == "cuda" else wall_clock
