"""Any geometry: handconv refuses what F.conv2d refuses, and agrees with it on all others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from against_torch import right_conv2d
from cases import MEMORY_FORMATS, Case
from helpers import (
    ALGORITHMS,
    agrees,
    each_kernel,
    exact,
    on_cpu,
    operands_of,
    placed,
    raised,
    run,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import handconv

pytestmark = pytest.mark.usefixtures("device")

right_input_grad = on_cpu(torch.nn.grad.conv2d_input)
right_weight_grad = on_cpu(torch.nn.grad.conv2d_weight)


def pairs(least: int, most: int) -> st.SearchStrategy[int | tuple[int, int]]:
    """One number for both axes, or two."""
    numbers = st.integers(least, most)
    return numbers | st.tuples(numbers, numbers)


def integers(*shape: int) -> Tensor:
    values: Tensor = placed(torch.randint(-2, 3, shape).double())
    return values


# Windows that often fit, and sometimes do not; zero and less are refused.
WINDOWS = {
    "stride": pairs(1, 4) | pairs(0, 1),
    "padding": pairs(0, 6) | pairs(-1, 0),
    "dilation": pairs(1, 4) | pairs(0, 1),
    "groups": st.integers(1, 4) | st.integers(-1, 1),
}


@st.composite
def tensors(draw: st.DrawFn, groups: int, transposed: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """input, weight and bias that mostly fit together."""
    per_group, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    channels, out_channels = per_group * max(groups, 1), outputs * max(groups, 1)
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    w_shape = (channels, outputs) if transposed else (out_channels, per_group)
    # Now and then one too many somewhere.
    off = draw(st.sampled_from([0] * 9 + [1]))
    place = draw(st.integers(0, 3))
    x_channels = channels + off * (place == 0)
    w_shape = (w_shape[0] + off * (place == 1), w_shape[1] + off * (place == 2))
    bias = draw(st.sampled_from([None, out_channels + off * (place == 3)]))
    batch = draw(st.sampled_from([(1,), (2,), ()]))  # without samples, torch checks less
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return (
        integers(*batch, x_channels, *size),
        integers(*w_shape, *kernel),
        None if bias is None else integers(bias),
    )


def check(ours: Any, theirs: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    refused = raised(theirs, *arguments, **keywords)
    for algorithm in ALGORITHMS:
        error = raised(ours, *arguments, **keywords, algorithm=algorithm)
        assert type(error) is type(refused), (error, refused)
        if refused is None:
            expected = theirs(*arguments, **keywords)
            found = ours(*arguments, **keywords, algorithm=algorithm)
            assert torch.equal(found, expected)
            x, w, _ = arguments
            gradient = integers(*expected.shape)
            leaves = [t.requires_grad_() for t in (x, w)]
            for mine, right in zip(
                torch.autograd.grad(ours(*arguments, **keywords), leaves, gradient),
                torch.autograd.grad(theirs(*arguments, **keywords), leaves, gradient),
                strict=True,
            ):
                assert torch.equal(mine, right)


@settings(max_examples=400)
@given(st.data())
def test_conv2d(data: st.DataObject) -> None:
    keywords: dict[str, Any] = {name: data.draw(values, name) for name, values in WINDOWS.items()}
    if data.draw(st.booleans(), "padding in words"):
        keywords["padding"] = data.draw(st.sampled_from(["same", "valid"]))
        if data.draw(st.booleans(), "stride 1"):
            keywords["stride"] = 1
    arguments = data.draw(tensors(keywords["groups"], transposed=False))
    check(handconv.conv2d, right_conv2d, arguments, keywords)


@settings(max_examples=400)
@given(st.data())
def test_conv_transpose2d(data: st.DataObject) -> None:
    keywords: dict[str, Any] = {name: data.draw(values, name) for name, values in WINDOWS.items()}
    keywords["output_padding"] = data.draw(pairs(0, 2) | pairs(-1, 1), "output_padding")
    arguments = data.draw(tensors(keywords["groups"], transposed=True))
    check(handconv.conv_transpose2d, on_cpu(F.conv_transpose2d), arguments, keywords)


# Every kernel, on windows that meet long lines, see nothing, or skip most of the image.

SHORT = ((1, 6), [1, 2, 3], [1, 2, 5], [0, 1, 4], [1, 2, 3])
LONG = ((1, 1300), [1, 3, 33, 260], [1, 2, 64, 256], [0, 1, 16, 600], [1, 2, 16, 64])


@st.composite
def unusual_cases(draw: st.DrawFn) -> Case:
    def axis(long: bool) -> tuple[int, ...]:
        size, *others = LONG if long else SHORT
        return (draw(st.integers(*size)), *(draw(st.sampled_from(values)) for values in others))

    which = draw(st.sampled_from(["height", "width", "neither"]))
    axes = axis(which == "height"), axis(which == "width")
    for size, kernel, _, padding, dilation in axes:
        assume(size + 2 * padding >= dilation * (kernel - 1) + 1)
    (h, kh, *_), (w, kw, *_) = axes
    stride, padding, dilation = zip(*(a[2:] for a in axes), strict=True)
    groups = draw(st.sampled_from([1, 1, 2, 8]))
    channels = [1, 3, 8] if groups > 1 else [1, 3, 17, 64]
    ic, oc = (groups * draw(st.sampled_from(channels)) for _ in range(2))
    case = Case("unusual", draw(st.sampled_from([1, 2])), ic, h, w, oc, (kh, kw))
    case = replace(case, stride=stride, padding=padding, dilation=dilation, groups=groups)
    assume(case.flops <= 1e7)
    return case


@pytest.mark.parametrize("slot", ["forward", "input_grad", "weight_grad"])
@settings(max_examples=400)
@given(case=unusual_cases(), layout=st.sampled_from(sorted(MEMORY_FORMATS)))
def test_every_kernel_on_unusual_geometry(case: Case, slot: str, layout: str) -> None:
    operands = operands_of(case, slot, torch.float32, layout)
    expected = exact(case, slot).float()
    for kernel, result in each_kernel(case, slot, operands):
        assert agrees(kernel, result, expected), kernel.name
    assert torch.allclose(run(case, slot, operands), expected, atol=0.5, rtol=1e-3)


# Windows that reach far beyond the image, or lie far apart: (C, OC, groups), padding, stride and
# dilation of a 3x3 window on 8x8 pixels.
CHANNELS = {"dense": (5, 3, 1), "stem": (3, 17, 1), "groups": (16, 16, 2), "depthwise": (8, 8, 8)}
FAR = {
    "dilated": (10**6, 1, 10**6),
    "dilated beyond all memory": (2**55, 1, 2**55),
    "strided": (2**24, 2**24, 1),
    "strided beyond all memory": (2**60, 2**60, 1),
}


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("channels", CHANNELS)
def test_windows_that_reach_far(channels: str, far: str, layout: str) -> None:
    ic, oc, groups = CHANNELS[channels]
    padding, stride, dilation = FAR[far]
    window = ([stride] * 2, [padding] * 2, [dilation] * 2, groups)
    x = integers(2, ic, 8, 8).float().contiguous(memory_format=MEMORY_FORMATS[layout])
    w = integers(oc, ic // groups, 3, 3).float()
    y = handconv.conv2d(x, w, None, *window)
    gradient = integers(*y.shape).float().contiguous(memory_format=MEMORY_FORMATS[layout])
    x_grad = torch.ops.handconv.conv2d_input_grad(gradient, w, None, (8, 8), *window)
    w_grad = torch.ops.handconv.conv2d_weight_grad(gradient, x, (3, 3), *window)

    expected = torch.zeros_like(y)
    expected_x, expected_w = torch.zeros_like(x), torch.zeros_like(w)
    if stride == 1:  # the middle tap alone sees the image
        middle = w[:, :, 1:2, 1:2]
        expected = right_conv2d(x, middle, groups=groups)
        expected_x = right_input_grad(x.shape, middle, gradient, groups=groups)
        seen = right_weight_grad(x, middle.shape, gradient, groups=groups)
        expected_w[:, :, 1:2, 1:2] = seen
    else:  # the middle one of 3x3 windows alone does
        corner, seen_by = x[:, :, :3, :3].contiguous(), gradient[:, :, 1:2, 1:2].contiguous()
        expected[:, :, 1:2, 1:2] = right_conv2d(corner, w, groups=groups)
        expected_x[:, :, :3, :3] = right_input_grad(corner.shape, w, seen_by, groups=groups)
        expected_w = right_weight_grad(corner, w.shape, seen_by, groups=groups)
    assert torch.equal(y, expected)
    assert torch.equal(x_grad, expected_x)
    assert torch.equal(w_grad, expected_w)


# Shapes that strips of padded rows, or tables of masks, would make large.
BULKY = {
    "a long line": ((1, 2, 1, 10**6), (32, 2, 1, 3), 1, 1),
    "a long line of one channel": ((1, 1, 1, 10**6), (1, 1, 1, 2**12), 0, 1),
    "far taps": ((1, 64, 512, 512), (64, 8, 3, 3), 128, 128),
    "taps beyond the image": ((1, 64, 33, 33), (64, 8, 3, 3), 200, 200),
    "far taps, depthwise": ((1, 32, 256, 256), (32, 1, 3, 3), 2000, 2000),
    "a large image": ((1, 3, 4096, 4096), (64, 3, 7, 7), 3, 1),
}


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("shape", BULKY)
def test_workspace_is_bounded(shape: str, layout: str) -> None:
    x_shape, w_shape, padding, dilation = BULKY[shape]
    x = torch.empty(x_shape, device="meta").to(memory_format=MEMORY_FORMATS[layout])
    w = torch.empty(w_shape, device="meta")
    groups = x_shape[1] // w_shape[1]
    window = (1, padding, dilation, groups)
    elements = x.numel() + w.numel() + F.conv2d(x, w, None, *window).numel()

    def workspaces(threads: int) -> list[int]:
        torch.set_num_threads(threads)
        return [e.workspace for e in handconv.explain(x, w, None, *window, device="cpu")]

    for alone, two in zip(workspaces(1), workspaces(2), strict=True):
        of_thread = two - alone
        assert of_thread <= 16 << 20
        assert alone - of_thread <= (16 << 20) + 64 * elements
