"""What handconv tells about itself: kernels, algorithms, explanations, the build."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from importlib import metadata

import pytest
import torch
from cases import DTYPES, MEMORY_FORMATS, SLOTS, Case
from helpers import (
    CASES,
    Operands,
    arguments,
    by_algorithm,
    by_layout,
    by_slot,
    kernels_of,
    operands_of,
    operation,
    run,
    use_device,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import handconv
from handconv import _C

EVERYTHING = CASES["lesson: everything"]

# Those that the table has rows of: a build with CUDA has them without a GPU too.
DEVICES = ("cpu", "cuda") if _C.build_info()["cuda"] else ("cpu",)


def explain(**keywords: object) -> handconv.Explanation:
    x, w, bias, _ = EVERYTHING.tensors(torch.float32)
    return handconv.explain(x, w, bias, *EVERYTHING.arguments, **keywords)


def test_algorithms() -> None:
    assert handconv.algorithms() == ("auto", "direct", "im2col", "winograd")


def test_table() -> None:
    rows = handconv.kernels()
    assert len({(row.name, row.slot) for row in rows}) == len(rows)
    assert {row.slot for row in rows} == set(SLOTS)
    for row in rows:
        device, algorithm, *_ = row.name.split(".")
        assert device in DEVICES and algorithm == row.algorithm
        assert row.summary and "\n" not in row.summary
    for slot, device in itertools.product(SLOTS, DEVICES):
        with use_device(device):
            assert kernels_of(slot)[-1].name == f"{device}.reference"
    with pytest.raises(dataclasses.FrozenInstanceError):
        rows[0].name = "another"


def test_build_info() -> None:
    info = _C.build_info()
    assert info["version"] == handconv.__version__ == metadata.version("handconv")
    assert torch.__version__.startswith(info["torch"])
    assert info["compiler"] and info["cxx_standard"] >= 201703
    assert info["cuda"] in (False, True)
    assert torch.version.cuda or not info["cuda"]
    assert _C.cpu_features()["baseline"] is True
    assert _C.isa() in _C.cpu_features()


@pytest.mark.skipif(_C.build_info()["cuda"], reason="this build has CUDA")
@by_algorithm
@by_slot
def test_a_build_without_cuda_says_so_and_how_to_get_it(slot: str, algorithm: str) -> None:
    """Called past the dispatcher's choice, as no CUDA tensor is to be had without a GPU."""
    given = arguments(EVERYTHING, slot, operands_of(EVERYTHING, slot))
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises(NotImplementedError, match="built without CUDA") as error:
        operation(slot, algorithm).redispatch(cuda, *given)
    for words in (
        f"handconv::conv2d{'' if slot == 'forward' else '_' + slot} ",
        "install it again",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("convert", [Tensor.to_sparse, Tensor.to_mkldnn], ids=["sparse", "mkldnn"])
def test_a_backend_without_kernels_is_refused(convert: Callable[[Tensor], Tensor]) -> None:
    x, w, _, _ = CASES["3x3"].tensors(torch.float32)
    with pytest.raises(NotImplementedError, match="Could not run 'handconv::conv2d'"):
        handconv.conv2d(convert(x), w)


# explain


@by_algorithm
@by_layout
@pytest.mark.parametrize(
    "name", ["3x3", "depthwise 7x7", "lesson: everything", "1x1", "output 1x1 in groups"]
)
def test_the_kernel_that_is_explained_is_the_one_that_runs(
    name: str, layout: str, algorithm: str
) -> None:
    """Forced, that kernel gives the same bits."""
    case = CASES[name]
    for dtype in DTYPES:
        x, w, bias, _ = case.tensors(dtype, layout)
        explanation = handconv.explain(x, w, bias, *case.arguments, algorithm=algorithm)
        for entry in explanation:
            operands = operands_of(case, entry.slot, dtype, layout, integers=False)
            found = run(case, entry.slot, operands, algorithm)
            with handconv.forced_kernel(entry.kernel):
                assert torch.equal(found, run(case, entry.slot, operands))


@by_algorithm
def test_the_strides_of_a_weight_are_explained_too(algorithm: str) -> None:
    """Kernels that read it where it lies need it in the order of the image."""
    case = CASES["output 1x1"]
    x, w, bias, _ = case.tensors(torch.float32)
    for weight in (w, w.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), w.flip(0)[:, ::2]):
        image = x[:, ::2] if weight.shape[1] < w.shape[1] else x
        explained = handconv.explain(image, weight, bias, *case.arguments, algorithm=algorithm)
        found = handconv.conv2d(image, weight, bias, *case.arguments, algorithm=algorithm)
        with handconv.forced_kernel(explained.forward.kernel):
            assert torch.equal(found, handconv.conv2d(image, weight, bias, *case.arguments))


def test_a_gradient_is_explained_in_the_layout_in_which_it_runs() -> None:
    """That of the result's memory: one number a sample is contiguous, whatever the image is."""
    x, w, _, _ = CASES["output 1x1 of 1 filter"].tensors(torch.float32)
    contiguous = handconv.explain(x, w)
    mixed = handconv.explain(x.contiguous(memory_format=torch.channels_last), w)
    assert mixed.forward != contiguous.forward
    assert mixed.input_grad == contiguous.input_grad


@by_algorithm
@pytest.mark.parametrize("size", [(2, 0, 1, 1), (0, 4, 1, 1), (2, 0, 5, 5), (0, 4, 5, 5)])
def test_where_nothing_is_multiplied_no_workspace_is_explained(
    size: tuple[int, ...], algorithm: str
) -> None:
    x = torch.ones(size)
    for kernel in (1, size[2]):
        w = torch.ones(5, size[1], kernel, kernel)
        for entry in handconv.explain(x, w, algorithm=algorithm):
            assert entry.flops == entry.workspace == 0


def test_autocast_is_explained() -> None:
    case = CASES["3x3"]
    explained = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x, w, _, _ = case.tensors(dtype)
        explained[dtype] = handconv.explain(x, w, None, *case.arguments)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            explained[dtype, "autocast"] = handconv.explain(x, w, None, *case.arguments)
    assert explained[torch.float32, "autocast"] == explained[torch.bfloat16]
    assert explained[torch.float32] != explained[torch.bfloat16]
    assert explained[torch.float64, "autocast"] == explained[torch.float64]


@by_layout
@pytest.mark.parametrize("groups", [1, 4, 32])
def test_an_image_of_one_column_runs_as_an_image_of_one_row(groups: int, layout: str) -> None:
    """They are the same numbers in memory, and kernels go along rows."""
    row = Case("one row", 2, 32, 1, 300, 32, (1, 5), padding=(0, 2), groups=groups)
    column = Case("one column", 2, 32, 300, 1, 32, (5, 1), padding=(2, 0), groups=groups)
    format = MEMORY_FORMATS[layout]
    for slot in SLOTS:
        first, second, _ = operands_of(row, slot, torch.float32, layout, integers=False)
        turned = (t.transpose(2, 3).clone(memory_format=format) for t in (first, second))
        of_row = run(row, slot, Operands(first, second, None))
        of_column = run(column, slot, Operands(*turned, None))
        assert torch.equal(of_row, of_column.transpose(2, 3))
    kernels = []
    for case in (row, column):
        x, w, bias, _ = case.tensors(torch.float32, layout)
        explanation = handconv.explain(x, w, bias, *case.arguments)
        kernels.append([entry.kernel for entry in explanation])
    assert kernels[0] == kernels[1]


@by_algorithm
def test_explanation(algorithm: str) -> None:
    explanation = explain(algorithm=algorithm)
    case = EVERYTHING
    assert [entry.slot for entry in explanation] == list(SLOTS)
    rows = {(row.name, row.slot): row for row in handconv.kernels()}
    for entry in explanation:
        row = rows[entry.kernel, entry.slot]
        assert row.algorithm in (algorithm, "reference") or algorithm == "auto"
        assert entry.summary == row.summary
        names = [row.name for row in kernels_of(entry.slot)]
        refused = [name for name, _ in entry.refusals]
        assert [*refused, entry.kernel] == names[: len(refused) + 1]
        assert all(reason for _, reason in entry.refusals)
        assert entry.flops == case.flops
        assert entry.bytes == case.bytes("weight_grad", torch.float32)
        assert entry.workspace >= 0


@by_algorithm
def test_explanation_is_for_reading(algorithm: str) -> None:
    explanation = explain(algorithm=algorithm)
    text = str(explanation)
    for entry in explanation:
        assert f"{entry.slot}: {entry.kernel} ({entry.summary})" in text
        for name, reason in entry.refusals:
            assert f"not {name}: {reason}" in text
    for word in ("FLOP", "workspace"):
        assert text.count(word) == 3


def test_explanation_of_flops_and_bytes() -> None:
    x, w = torch.randn(2, 6, 10, 8), torch.randn(4, 3, 3, 5)
    explanation = handconv.explain(x.half(), w.half(), None, 2, 1, groups=2)
    y = 2 * 4 * 5 * 3
    for entry in explanation:
        assert entry.flops == 2 * y * 3 * 3 * 5
        assert entry.bytes == 2 * (x.numel() + w.numel() + y)


@pytest.mark.parametrize("groups", [1, 2])
@by_algorithm
def test_torchs_counter_counts_what_is_explained(algorithm: str, groups: int) -> None:
    x = torch.randn(2, 4, 9, 8, requires_grad=True)
    w = torch.randn(6, 4 // groups, 3, 3, requires_grad=True)
    chosen = {"padding": 1, "groups": groups, "algorithm": algorithm}
    with FlopCounterMode(display=False) as counter:
        handconv.conv2d(x, w, **chosen).sum().backward()
    slots = handconv.explain(x, w, **chosen)
    assert counter.get_total_flops() == sum(slot.flops for slot in slots)
    if groups == 1:  # torch counts too many for weight gradients of groups
        with FlopCounterMode(display=False) as counter_of_torch:
            torch.nn.functional.conv2d(x, w, padding=1).sum().backward()
        assert counter.get_total_flops() == counter_of_torch.get_total_flops()


def test_explanation_of_a_forced_kernel() -> None:
    with handconv.forced_kernel("cpu.reference"):
        for entry in explain():
            assert entry.kernel == "cpu.reference"
            assert entry.refusals == ()
            assert entry.workspace == 0


@pytest.mark.usefixtures("restored_threads")
@by_algorithm
def test_workspace_is_bounded(algorithm: str) -> None:
    """Four thousand million elements, on the meta device: explained, not computed."""
    torch.set_num_threads(2)
    x = torch.empty(64, 64, 1024, 1024, device="meta")
    w = torch.empty(64, 64, 3, 3, device="meta")
    for memory_format in MEMORY_FORMATS.values():
        x = x.contiguous(memory_format=memory_format)
        for entry in handconv.explain(x, w, padding="same", algorithm=algorithm):
            assert entry.flops == 2 * x.numel() * 64 * 9
            assert entry.workspace < 2**28


def test_explanation_of_an_unbatched_image_and_of_even_windows() -> None:
    x, w = torch.randn(3, 9, 8), torch.randn(4, 3, 2, 4)
    batched = handconv.explain(x[None], w, padding="same", dilation=3)
    assert handconv.explain(x, w, padding="same", dilation=3) == batched
    assert batched.forward.flops == 2 * 4 * 9 * 8 * 3 * 2 * 4


def test_explain_refuses_an_unknown_algorithm_as_conv2d_does() -> None:
    x, w, _, _ = EVERYTHING.tensors(torch.float32)
    for call in (handconv.conv2d, handconv.conv_transpose2d, handconv.explain):
        with pytest.raises(ValueError, match="algorithm should be one of auto, direct, im2col"):
            call(x, w, algorithm="fft")


def test_explain_refuses_what_is_no_tensor() -> None:
    x, w, _, _ = EVERYTHING.tensors(torch.float32)
    for wrong in [(None, w), (x, [1.0]), (x, w, 1.0)]:
        with pytest.raises(TypeError, match="must be Tensor, not"):
            handconv.explain(*wrong)


# forced_kernel


def test_forced_kernel_ends() -> None:
    before = explain()
    with handconv.forced_kernel("cpu.reference"):
        assert explain().forward.kernel == "cpu.reference"
    assert explain() == before
    with pytest.raises(ZeroDivisionError), handconv.forced_kernel("cpu.reference"):
        raise ZeroDivisionError
    assert explain() == before


def test_forced_kernels_nest() -> None:
    """The inner one counts, and after it the outer one again."""
    chosen = explain().forward.kernel
    with handconv.forced_kernel("cpu.reference"):
        with handconv.forced_kernel(chosen):
            assert explain().forward.kernel == chosen
        assert explain().forward.kernel == "cpu.reference"


def test_unknown_kernel() -> None:
    with (
        pytest.raises(RuntimeError, match="no kernel named cpu_magic can run on this machine"),
        handconv.forced_kernel("cpu_magic"),
    ):
        pass
    assert explain().forward.kernel != "cpu_magic"


def test_forced_kernel_says_why_it_cannot() -> None:
    """Every reason that a forced kernel gives is one that explain knows."""
    refusing = 0
    for case in CASES.values():
        operands = operands_of(case, "forward", torch.float32)
        for row in kernels_of("forward"):
            try:
                with handconv.forced_kernel(row.name):
                    run(case, "forward", operands)
            except RuntimeError as error:
                refusing += 1
                assert f"{row.name} was forced, but cannot run this: " in str(error)
    assert refusing > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_run_on_the_threads_that_torch_was_given(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert _C.threads_at_work() == threads
    finally:
        torch.set_num_threads(before)
