"""Any geometry: handconv refuses what F.conv2d refuses, and agrees with it on all others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import ALGORITHMS, on_cpu, placed, raised
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import handconv

pytestmark = pytest.mark.usefixtures("device")


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
    check(handconv.conv2d, on_cpu(F.conv2d), arguments, keywords)


@settings(max_examples=400)
@given(st.data())
def test_conv_transpose2d(data: st.DataObject) -> None:
    keywords: dict[str, Any] = {name: data.draw(values, name) for name, values in WINDOWS.items()}
    keywords["output_padding"] = data.draw(pairs(0, 2) | pairs(-1, 1), "output_padding")
    arguments = data.draw(tensors(keywords["groups"], transposed=True))
    check(handconv.conv_transpose2d, on_cpu(F.conv_transpose2d), arguments, keywords)
