"""What torch asks of an op on CUDA: streams, graphs, memory, devices, switches. Needs a GPU.

That each kernel is exact, and has the same bits in every run and batch, the other files test on
every device.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, LAYOUTS, MEMORY_FORMATS, SMALL_CASES, Case
from devices import why_no_cuda
from helpers import (
    ALGORITHMS,
    CASES,
    LARGE_CASES,
    Operands,
    by_algorithm,
    by_layout,
    by_slot,
    forced,
    operands_of,
    oracle,
    raised,
    run,
    tensors_of,
)
from torch import Tensor

import handconv

if missing := why_no_cuda():
    pytest.skip(f"tests of CUDA: {missing}", allow_module_level=True)

pytestmark = [pytest.mark.only_on("cuda"), pytest.mark.usefixtures("device")]

# A tenth of a second and more on any GPU, in which the CPU enqueues many kernels.
SLEEP_CYCLES = 400_000_000

STEPS = [
    CASES[name] for name in ("1x1", "3x3", "groups 4 of 4", "depthwise 5x5", "lesson: everything")
] + LARGE_CASES[:3]
by_step = pytest.mark.parametrize("case", STEPS, ids=str)


def problem_for(row: handconv.Kernel) -> tuple[Case, Operands]:
    """The first small problem that the row takes."""
    cases = [case for case in SMALL_CASES if case.N > 0]  # without a batch no kernel is asked
    for dtype, layout, case in itertools.product(DTYPES, LAYOUTS, cases):
        operands = operands_of(case, row.slot, dtype, layout)
        if forced(row, case, row.slot, operands) is not None:
            return case, operands
    raise AssertionError(f"{row.name} takes no case")


def training_step(case: Case, tensors: Sequence[Tensor], y: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients; `tensors` are x, w and, where there is one, the bias."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    x, w, bias = (*leaves, None)[:3]
    output = handconv.conv2d(x, w, bias, *case.arguments)
    return output.detach(), *torch.autograd.grad(output, leaves, y)


def step_inputs(case: Case, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor]:
    x, w, bias, y = tensors_of(case, dtype)
    return [tensor for tensor in (x, w, bias) if tensor is not None], y


# Streams.


@pytest.mark.usefixtures("tf32_allowed")
def test_every_kernel_runs_on_the_current_stream(row: handconv.Kernel) -> None:
    """Its operands get their values on that stream, late: on another one it would read NaN."""
    case, operands = problem_for(row)
    expected = oracle(case, row.slot, operands).to(operands.first.dtype)
    late = Operands(*(None if t is None else torch.full_like(t, torch.nan) for t in operands))
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(SLEEP_CYCLES)
        for target, source in zip(late, operands, strict=True):
            if target is not None and source is not None:
                target.copy_(source)
        found = forced(row, case, row.slot, late)
    stream.synchronize()
    assert found is not None and torch.equal(found, expected)


@contextmanager
def synchronisation_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("tf32_allowed")
def test_no_kernel_synchronises(row: handconv.Kernel) -> None:
    """torch's debug mode sees what goes through torch; the sleeping stream shows the rest."""
    case, operands = problem_for(row)
    torch.cuda.synchronize()
    with synchronisation_is_an_error():
        torch.cuda._sleep(SLEEP_CYCLES)
        forced(row, case, row.slot, operands)
        assert not torch.cuda.current_stream().query(), "the call waited for the GPU"
    torch.cuda.synchronize()


@by_step
def test_a_training_step_does_not_synchronise(case: Case) -> None:
    inputs, y = step_inputs(case)
    training_step(case, inputs, y)  # the first call loads kernels and gets memory
    torch.cuda.synchronize()
    with synchronisation_is_an_error():
        torch.cuda._sleep(SLEEP_CYCLES)
        training_step(case, inputs, y)
        assert not torch.cuda.current_stream().query(), "the step waited for the GPU"
    torch.cuda.synchronize()


# Graphs.


def captured(call: Callable[[], tuple[Tensor, ...]]) -> tuple[torch.cuda.CUDAGraph, tuple]:
    """The graph of a call, warmed up on a side stream as torch asks for, and its results."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph, results


@pytest.mark.usefixtures("tf32_allowed")
def test_every_kernel_can_be_captured(row: handconv.Kernel) -> None:
    case, operands = problem_for(row)

    def call() -> tuple[Tensor, ...]:
        result = forced(row, case, row.slot, operands)
        assert result is not None
        return (result,)

    (expected,) = call()
    graph, (found,) = captured(call)
    found.fill_(torch.nan)
    graph.replay()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@by_step
def test_a_training_step_is_captured_and_replayed(case: Case, dtype: torch.dtype) -> None:
    inputs, y = step_inputs(case, dtype)
    graph, found = captured(lambda: training_step(case, inputs, y))
    for factor in (1, -2):  # other values in the same memory, still exact
        for tensor in (*inputs, y):
            tensor.mul_(factor)
        graph.replay()
        expected = training_step(case, inputs, y)
        assert all(map(torch.equal, found, expected))


# Memory.


def requested(stat: Literal["current", "peak"]) -> int:
    """What was asked of the allocator; the blocks that it hands out may be up to 1 MB larger."""
    return int(torch.cuda.memory_stats()[f"requested_bytes.all.{stat}"])


@by_algorithm
@by_slot
@by_layout
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_memory_is_the_result_and_the_workspace_that_explain_tells(
    case: Case, layout: str, slot: str, algorithm: str
) -> None:
    x, w, bias, _ = tensors_of(case, torch.float32, layout)
    explanation = handconv.explain(x, w, bias, *case.arguments, algorithm=algorithm)
    operands = operands_of(case, slot, torch.float32, layout)
    run(case, slot, operands, algorithm)  # cuBLAS gets its own workspace at the first call
    before = requested("current")
    torch.cuda.reset_peak_memory_stats()
    result = run(case, slot, operands, algorithm)
    size = result.numel() * result.element_size()
    assert requested("current") - before <= size, "the workspace was not given back"
    workspace = getattr(explanation, slot).workspace
    assert requested("peak") - before <= size + workspace


@by_step
def test_no_memory_but_that_of_torchs_allocator(case: Case) -> None:
    """What torch has not reserved stays free; another program on this GPU would disturb this."""
    inputs, y = step_inputs(case)
    for _ in range(2):
        training_step(case, inputs, y)
    torch.cuda.synchronize()
    reserved, (free, _) = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()
    for _ in range(10):
        training_step(case, inputs, y)
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() == reserved
    assert torch.cuda.mem_get_info()[0] == free


# The same bits.


@pytest.mark.usefixtures("poisoned_memory")
@by_step
def test_deterministic_algorithms_are_what_handconv_has(case: Case) -> None:
    """Nothing is refused where torch demands them."""
    inputs, y = step_inputs(case)
    training_step(case, inputs, y)


@pytest.mark.usefixtures("tf32_allowed")
@by_slot
@by_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_same_bits_while_the_gpu_is_busy(dtype: torch.dtype, layout: str, slot: str) -> None:
    """On a problem that fills the GPU, beside other work: blocks end in another order each time."""
    case = Case("busy", 16, 128, 56, 56, 128, (3, 3), padding=(1, 1))
    noise, stream = torch.randn(2048, 2048, device="cuda"), torch.cuda.Stream()
    for groups in (1, 16, 128):
        grouped = dataclasses.replace(case, groups=groups)
        operands = operands_of(grouped, slot, dtype, layout, integers=False)
        for algorithm in ALGORITHMS:
            alone = run(grouped, slot, operands, algorithm)
            torch.cuda.synchronize()
            for _ in range(5):
                with torch.cuda.stream(stream):
                    torch.mm(noise, noise)
                assert torch.equal(run(grouped, slot, operands, algorithm), alone), algorithm


# Size.


LARGE = [
    Case("depthwise", 33, 64, 1024, 1024, 64, (3, 3), padding=(1, 1), groups=64),
    Case("grouped", 33, 64, 1024, 1024, 64, (3, 3), padding=(1, 1), groups=8),
    Case("dense", 33, 64, 1024, 1024, 8, (1, 1)),
    Case("one image", 1, 64, 5800, 5800, 64, (3, 3), padding=(1, 1), groups=64),
]


def sparse_image(shape: Sequence[int], layout: str) -> tuple[Tensor, Tensor]:
    """Zero but for small integers in the last corner; and what stands around that corner."""
    memory_format = MEMORY_FORMATS[layout]
    image = torch.empty(shape, dtype=torch.float16, device="cuda", memory_format=memory_format)
    corner = image.zero_()[-1:, :, -8:, -40:]
    corner.copy_(torch.randint(-1, 2, corner.shape))
    return image, image[-1:, :, -16:, -48:].contiguous(memory_format=memory_format)


@by_algorithm
@by_layout
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_more_than_2_to_the_31_elements(case: Case, layout: str, algorithm: str) -> None:
    """Offsets beyond an int: what stands there must be what a small image gives, and no more."""
    assert torch.Size(case.input_shape).numel() > 2**31
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of GPU memory")
    x, x_corner = sparse_image(case.input_shape, layout)
    y, y_corner = sparse_image(case.output_shape, layout)
    w = torch.randint(-1, 2, case.weight_shape, device="cuda").half()
    corner = dataclasses.replace(case, N=1, H=16, W=48)

    def check_image(slot: str, image: Tensor, image_corner: Tensor) -> None:
        found = run(case, slot, Operands(image, w, None), algorithm)
        found_corner = found[-1:, :, -16:, -48:]
        assert torch.equal(
            found_corner.double(), oracle(corner, slot, Operands(image_corner, w, None))
        )
        found_corner.zero_()
        assert not found.any()

    check_image("forward", x, x_corner)
    check_image("input_grad", y, y_corner)
    found = run(case, "weight_grad", Operands(y, x, None), algorithm)
    expected = oracle(corner, "weight_grad", Operands(y_corner, x_corner, None))
    assert torch.equal(found.double(), expected)


# Devices.


def test_tensors_on_different_devices_are_refused_as_torch_does() -> None:
    x, w, bias, _ = CASES["3x3"].tensors(torch.float32, device="cuda")
    bias = torch.zeros(CASES["3x3"].OC) if bias is None else bias.cpu()
    for arguments in [(x, w.cpu()), (x.cpu(), w), (x, w, bias)]:
        ours, theirs = raised(handconv.conv2d, *arguments), raised(F.conv2d, *arguments)
        assert type(ours) is type(theirs) is RuntimeError
        assert "should be the same" in str(ours)
        # torch goes on about MKLDNN after the same words.
        assert str(theirs).startswith(str(ours).splitlines()[0])


several_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@several_gpus
@by_step
def test_the_device_of_the_tensors_counts_not_the_current_one(case: Case) -> None:
    inputs, y = step_inputs(case)
    expected = training_step(case, inputs, y)
    elsewhere = [tensor.to("cuda:1") for tensor in inputs]
    with torch.cuda.device(0):
        found = training_step(case, elsewhere, y.to("cuda:1"))
        assert torch.cuda.current_device() == 0
    assert all(tensor.device == torch.device("cuda:1") for tensor in found)
    assert all(torch.equal(f.cpu(), e.cpu()) for f, e in zip(found, expected, strict=True))


@several_gpus
def test_two_gpus_in_one_call_are_refused() -> None:
    x, w, _, _ = CASES["3x3"].tensors(torch.float32, device="cuda")
    error = raised(handconv.conv2d, x, w.to("cuda:1"))
    assert type(error) is RuntimeError
    assert "should be the same" in str(error)


# Autocast, and TF32.


def test_autocast_has_the_default_type_of_cuda() -> None:
    x, w, _, _ = tensors_of(CASES["3x3"], torch.float32)
    w.requires_grad_()
    with torch.autocast("cuda"):
        found = handconv.conv2d(x, w)
        assert found.dtype == F.conv2d(x, w).dtype == torch.float16
    found.float().sum().backward()
    assert w.grad is not None and w.grad.dtype == torch.float32


@contextmanager
def allowed_by_flag() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        yield


@contextmanager
def allowed_by_precision() -> Iterator[None]:
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.conv.fp32_precision = "none"


DENSE = Case("dense", 4, 128, 28, 28, 128, (3, 3), padding=(1, 1))


@pytest.mark.parametrize("allowed", [allowed_by_flag, allowed_by_precision])
@by_layout
@by_slot
def test_tf32_is_used_only_where_torch_allows_it(
    slot: str, layout: str, allowed: Callable[[], Iterator[None]]
) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs a GPU with TF32")
    operands = operands_of(DENSE, slot, torch.float32, layout, integers=False)
    right = oracle(DENSE, slot, operands)

    def error() -> float:
        return float((run(DENSE, slot, operands).double() - right).norm() / right.norm())

    others = [
        operands_of(DENSE, slot, dtype, layout, integers=False)
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    ]
    strict = [run(DENSE, slot, other) for other in others]
    assert error() < 4e-6
    with allowed():
        assert 4e-6 < error() < 2e-3
        # The other types take no notice.
        found = [run(DENSE, slot, other) for other in others[1:]]
    assert all(map(torch.equal, found, strict[1:]))
    assert torch.equal(run(DENSE, slot, operands), strict[0])
