"""The CUDA rows of the table on the simulator: `Simulator("reference").run(row, problem, ...)`."""

from __future__ import annotations

import ctypes
import enum
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cases import DTYPES, SLOTS, Case
from torch import Tensor

from . import build

ALGORITHMS = ("auto", "direct", "im2col", "winograd", "reference")


class Placement(enum.IntEnum):
    """Where each operand lies between its fences: see fenced.h."""

    AT_END = 0
    AT_BEGIN = 1
    UNALIGNED = 2


# csrc/geometry.h, field by field.


class _Axis(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("input", "kernel", "stride", "padding", "dilation", "output")
    ]


class _Geometry(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "groups", "in_channels", "out_channels")),
        ("height", _Axis),
        ("width", _Axis),
    ]


class Problem(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("device", "slot", "dtype", "layout")),
        ("has_bias", ctypes.c_bool),
        ("allows_tf32", ctypes.c_bool),
        ("allows_winograd", ctypes.c_bool),
        ("geometry", _Geometry),
        ("w_strides", ctypes.c_int64 * 4),
    ]


class _HostBuffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_int64)]


class _HostBuffers(ctypes.Structure):
    _fields_ = [(name, _HostBuffer) for name in ("x", "w", "y", "bias")]


CUDA = 1
LAYOUTS = ("nchw", "channels_last")
DTYPE_ORDER = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
assert set(DTYPE_ORDER) == set(DTYPES)


def make_problem(
    case: Case,
    slot: str,
    dtype: torch.dtype,
    layout: str,
    w_strides: Sequence[int],
    *,
    output_size: tuple[int, int] | None = None,
    has_bias: bool = False,
    allows_tf32: bool = False,
) -> Problem:
    axes = [
        _Axis(*numbers)
        for numbers in zip(
            (case.H, case.W),
            case.kernel,
            case.stride,
            case.padding,
            case.dilation,
            output_size or case.output_size,
            strict=True,
        )
    ]
    return Problem(
        CUDA,
        SLOTS.index(slot),
        DTYPE_ORDER.index(dtype),
        LAYOUTS.index(layout),
        has_bias,
        allows_tf32,
        False,
        _Geometry(case.N, case.groups, case.C, case.OC, *axes),
        (ctypes.c_int64 * 4)(*w_strides),
    )


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    index: int
    name: str
    slot: str
    algorithm: str


class SimulatorError(Exception):
    """What the simulator has found, which names kernel, block, thread and line."""


def _with_line(message: str, library: Path) -> str:
    """The message with the lines of the source, inmost first, in place of "[+0x1234]"."""
    found = re.search(r"\[\+(0x[0-9a-f]+)\]", message)
    if found is None or shutil.which("addr2line") is None:
        return message
    command = ["addr2line", "-i", "-s", "-e", str(library), found[1]]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return message.replace(found[0], f"({' < '.join(lines)})")


def _extent(tensor: Tensor) -> int:
    """Elements from the first to the last, gaps included."""
    return 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _buffer(tensor: Tensor | None) -> _HostBuffer:
    if tensor is None:
        return _HostBuffer(None, 0)
    return _HostBuffer(tensor.data_ptr(), _extent(tensor) * tensor.element_size())


class Simulator:
    """The rows of one family, or of all."""

    def __init__(self, family: str = build.ALL) -> None:
        self._path = build.build(family)
        self._library = ctypes.CDLL(str(self._path))
        for name in ("name", "cannot", "should_not", "run"):
            self._function(name).restype = ctypes.c_char_p
        self._function("workspace").restype = ctypes.c_int64
        self._function("problem_bytes").restype = ctypes.c_int64
        assert self._function("problem_bytes")() == ctypes.sizeof(Problem), "geometry.h has changed"
        self.rows = tuple(
            Row(
                i,
                self._function("name")(i).decode(),
                SLOTS[self._function("slot")(i)],
                ALGORITHMS[self._function("algorithm")(i)],
            )
            for i in range(self._function("rows")())
        )

    def _function(self, name: str) -> Any:
        return getattr(self._library, f"simulator_{name}")

    def cannot(self, row: Row, problem: Problem) -> str | None:
        """Why the row does not take the problem."""
        return self._answer("cannot", row, problem)

    def should_not(self, row: Row, problem: Problem) -> str | None:
        """Why a later row is to take it."""
        return self._answer("should_not", row, problem)

    def _answer(self, question: str, row: Row, problem: Problem) -> str | None:
        reason = self._function(question)(row.index, ctypes.byref(problem))
        return None if reason is None else str(reason.decode())

    def workspace(self, row: Row, problem: Problem) -> int:
        """Bytes of scratch memory."""
        return int(self._function("workspace")(row.index, ctypes.byref(problem)))

    def run(
        self,
        row: Row,
        problem: Problem,
        x: Tensor,
        w: Tensor,
        y: Tensor,
        bias: Tensor | None,
        *,
        seed: int = 0,
        placement: Placement = Placement.AT_END,
    ) -> None:
        """Fills x, w or y. What may not be read, and what is to be filled, should hold NaN."""
        buffers = _HostBuffers(*map(_buffer, (x, w, y, bias)))
        error = self._function("run")(
            row.index,
            ctypes.byref(problem),
            ctypes.byref(buffers),
            ctypes.c_uint64(seed),
            int(placement),
        )
        if error is not None:
            raise SimulatorError(_with_line(error.decode(), self._path))
