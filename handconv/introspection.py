"""What handconv has and what it would do: the kernel table, seen from Python."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from handconv import _C
from handconv.functional import (
    Pair,
    _both,
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

    The arguments are those of conv2d, and what conv2d refuses this refuses. Nothing is computed;
    tensors on the meta device do. `device` is "cpu" or "cuda"; without it that of the input, and
    "cpu" for the meta device. No GPU is needed.

    Returns:
        For each slot the chosen kernel, the reason of every row before it, FLOPs, bytes and
        workspace.
    """
    operation = _choose("conv2d", algorithm)
    _check_tensors("explain", input=input, weight=weight, bias=bias)
    strides = _pair("explain", "stride", stride)
    dilations = _pair("explain", "dilation", dilation)
    batched = input.unsqueeze(0) if input.dim() == 3 else input
    if isinstance(padding, str):
        batched, paddings = _resolve_padding(padding, batched, weight, strides, dilations)
    else:
        paddings = _pair("explain", "padding", padding)
    operands = [None if t is None else t.to("meta") for t in (batched, weight, bias)]
    output = operation(*operands, strides, paddings, dilations, groups)
    axes = [
        (batched.shape[2 + i], weight.shape[2 + i], s, p, d, output.shape[2 + i])
        for i, (s, p, d) in enumerate(
            zip(_both(strides), _both(paddings), _both(dilations), strict=True)
        )
    ]
    if device is None:
        device = "cuda" if input.is_cuda else "cpu"
    elements = batched.numel() + weight.numel() + output.numel()
    return Explanation(
        *(
            _explain_slot(
                slot,
                _C.explain(
                    device,
                    slot,
                    algorithm,
                    batched,
                    weight,
                    bias is not None and slot == "forward",
                    groups,
                    *axes,
                ),
                flops=2 * output.numel() * weight[0].numel(),
                bytes=elements * batched.element_size(),
            )
            for slot in SLOTS
        )
    )


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
