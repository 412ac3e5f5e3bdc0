"""What handconv has and what it would do: the kernel table, seen from Python."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from handconv import _C
from handconv.functional import (
    Pair,
    _check_tensors,
    _choose,
    _pair,
    _resolve_padding,
)
from handconv.operations import SLOT_SUFFIXES, TRIOS

SLOTS = tuple(SLOT_SUFFIXES)


def algorithms() -> tuple[str, ...]:
    """The values that `algorithm=` takes: "auto" chooses among the others."""
    return tuple(TRIOS)


@dataclass(frozen=True)
class Kernel:
    """A row of the kernel table.

    Attributes:
        name: device, algorithm, variant and instruction set, as in "cpu.direct.channels.avx512".
        slot: what it computes: "forward", "input_grad" or "weight_grad".
        algorithm: "direct", "im2col", "winograd" or "reference".
        summary: how it goes about it, in one line.
    """

    name: str
    slot: str
    algorithm: str
    summary: str


def kernels() -> tuple[Kernel, ...]:
    """Every kernel that this build has and this processor can run, best first within a slot.

    Those of CUDA, in a build that has them, are listed without a GPU too.
    """
    return tuple(Kernel(**row) for row in _C.kernels())


@contextmanager
def forced_kernel(name: str) -> Iterator[None]:
    """Inside, every op of this process runs on the kernel of that name, whatever its `algorithm`.

    For tests and benchmarks: the switch is global, not per thread.

    Raises:
        RuntimeError: there is no such kernel; and, from an op inside, it cannot run that problem.
    """
    before = _C.forced_kernel()
    _C.force_kernel(name)
    try:
        yield
    finally:
        _C.force_kernel(before)


@dataclass(frozen=True)
class SlotExplanation:
    """Which kernel runs one of the three operations, and at what cost.

    Attributes:
        slot: "forward", "input_grad" or "weight_grad".
        kernel: the name of the kernel that runs.
        summary: how that kernel works, in one line.
        refusals: (kernel, reason) for every row of the table before it, in order.
        flops: multiplications and additions of the definition, padding included.
        bytes: the two operands read once and the result written once.
        workspace: scratch memory in bytes, at the present number of threads.
    """

    slot: str
    kernel: str
    summary: str
    refusals: tuple[tuple[str, str], ...]
    flops: int
    bytes: int
    workspace: int


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found: one entry per slot; `str` of it is made to be read."""

    forward: SlotExplanation
    input_grad: SlotExplanation
    weight_grad: SlotExplanation

    def __iter__(self) -> Iterator[SlotExplanation]:
        return iter((self.forward, self.input_grad, self.weight_grad))

    def __str__(self) -> str:
        return "\n".join(_paragraph(entry) for entry in self)


def explain(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    device: str | None = None,
) -> Explanation:
    """Which kernel :func:`handconv.conv2d` and its two gradients would run on, and why.

    The arguments are those of conv2d, and what conv2d refuses this refuses. The gradient of the
    output is taken to lie in memory as the output does; dtypes are those of autocast inside it.
    Nothing is computed; tensors on the meta device do. `device` is "cpu" or "cuda"; without it that
    of the input, and "cpu" for the meta device. No GPU is needed.

    Returns:
        For each slot the chosen kernel, the reason of every row before it, FLOPs, bytes and
        workspace.
    """
    operation = _choose("conv2d", algorithm)
    _check_tensors("explain", input=input, weight=weight, bias=bias)
    strides = _pair("explain", "stride", stride)
    dilations = _pair("explain", "dilation", dilation)
    if device is None:
        device = "cuda" if input.is_cuda else "cpu"
    x, w = _stand_in(input, device), _stand_in(weight, device)
    b = None if bias is None else _stand_in(bias, device)
    if x.dim() == 3:
        x = x.unsqueeze(0)
    if isinstance(padding, str):
        x, paddings = _resolve_padding(padding, x, w, strides, dilations)
    else:
        paddings = _pair("explain", "padding", padding)
    y = operation(x, w, b, strides, paddings, dilations, groups)
    window = strides, paddings, dilations, groups
    return Explanation(
        *(
            _explain_slot(
                slot,
                _C.explain(
                    device, slot, algorithm, x, w, y, b if slot == "forward" else None, *window
                ),
                flops=2 * y.numel() * w.shape[1:].numel(),
                bytes=(x.numel() + w.numel() + y.numel()) * x.element_size(),
            )
            for slot in SLOTS
        )
    )


def _stand_in(tensor: Tensor, device: str) -> Tensor:
    """A tensor without data, with the sizes, strides and dtype that an op on `device` would get."""
    if tensor.layout != torch.strided:
        return tensor.to("meta")  # refused where operands are checked
    like = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if (
        torch.is_autocast_enabled(device)
        and like.is_floating_point()
        and like.dtype != torch.float64
    ):
        like = like.to(torch.get_autocast_dtype(device))
    return like


def _explain_slot(
    slot: str,
    verdicts: list[tuple[dict[str, str], str | None, int]],
    *,
    flops: int,
    bytes: int,
) -> SlotExplanation:
    *refused, (chosen, _, workspace) = verdicts
    return SlotExplanation(
        slot=slot,
        kernel=chosen["name"],
        summary=chosen["summary"],
        refusals=tuple((row["name"], reason) for row, reason, _ in refused if reason),
        flops=flops,
        bytes=bytes,
        workspace=workspace,
    )


def _paragraph(entry: SlotExplanation) -> str:
    lines = [
        f"{entry.slot}: {entry.kernel} ({entry.summary})",
        f"  {entry.flops / 1e6:.3f} MFLOP, {entry.bytes / 1e6:.3f} MB read and written, "
        f"{entry.workspace / 1e6:.3f} MB of workspace",
    ]
    lines += [f"  not {name}: {reason}" for name, reason in entry.refusals]
    return "\n".join(lines)
