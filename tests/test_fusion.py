"""Branches over one input as one convolution: equal outputs, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peculiar_modules import (
    ConvolutionAndRelu,
    Doubled,
    Negated,
    NormalizationAndRelu,
    Renamed,
    Standardized,
    conv,
    hooked,
    patched,
    pre_hooked,
)
from repvgg import norm
from torch import nn
from torch.nn.utils import parametrizations

import handconv

FUSABLE: dict[str, Callable[[], list[nn.Module]]] = {
    "the lesson's residual block": lambda: [conv(padding=1), conv(1), nn.Identity()],
    "RepVGG": lambda: [
        nn.Sequential(conv(padding=1, bias=False), norm(4)),
        nn.Sequential(conv(1, bias=False), norm(4)),
        norm(4),
    ],
    "RepVGG in groups": lambda: [
        nn.Sequential(conv(padding=1, groups=2), norm(4)),
        nn.Sequential(conv(1, groups=2), norm(4, affine=False)),
        nn.Sequential(nn.Identity(), norm(4)),
    ],
    "depthwise": lambda: [conv(5, groups=4, padding=2), conv(3, groups=4, padding=1), norm(4)],
    "stride 2": lambda: [conv(3, oc=8, stride=2, padding=1), conv(1, oc=8, stride=2)],
    "dilation 2": lambda: [conv(3, dilation=2, padding=2), conv(5, dilation=2, padding=4), conv(1)],
    "rows and columns": lambda: [
        conv((1, 3), padding=(0, 1)),
        conv((3, 1), padding=(1, 0)),
        conv(3, padding=1),
    ],
    "same": lambda: [conv(5, padding="same"), conv(3, padding="same"), nn.Identity()],
    "valid": lambda: [conv(3, padding="valid"), conv(3)],
    "one convolution and its normalisation": lambda: [nn.Sequential(conv(), norm(4))],
    "handconv's own modules": lambda: [handconv.Conv2d(4, 4, 3, padding=1), nn.Identity()],
    "a subclass that computes as torch does": lambda: [Renamed(4, 4, 3, padding=1), conv(1)],
    "a converted subclass": lambda: [handconv.convert(Renamed(4, 4, 1)), nn.Identity()],
    "parametrized": lambda: [
        parametrizations.weight_norm(conv(padding=1)),
        handconv.convert(parametrizations.weight_norm(conv(1))),
    ],
}


@pytest.mark.parametrize("name", FUSABLE)
def test_fused_branches_equal_their_sum(name: str) -> None:
    branches = [branch.double() for branch in FUSABLE[name]()]
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    expected = sum(branch(x) for branch in branches)
    fused = handconv.fuse_branches(*branches)
    assert type(fused) is handconv.Conv2d
    torch.testing.assert_close(fused(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FUSABLE)
def test_fused_in_float32_to_rounding(name: str) -> None:
    branches = FUSABLE[name]()
    x = torch.randn(2, 4, 9, 8)
    expected = sum(branch.double()(x.double()) for branch in branches)
    fused = handconv.fuse_branches(*(branch.float() for branch in branches))
    assert fused.weight.dtype == torch.float32
    torch.testing.assert_close(fused(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_fused_convolution_has_parameters_of_its_own() -> None:
    branch = conv(padding=1)
    before = branch.weight.detach().clone()
    fused = handconv.fuse_branches(branch, nn.Identity())
    with torch.no_grad():
        fused.weight.zero_()
    assert torch.equal(branch.weight, before)
    assert fused.weight.requires_grad


REFUSED: dict[str, tuple[Callable[[], list[nn.Module]], str]] = {
    "nothing": (list, "no branches"),
    "no convolution": (lambda: [nn.Identity(), norm(4)], "no convolution among the branches"),
    "groups": (lambda: [conv(padding=1), conv(1, groups=2)], "groups differ"),
    "stride": (lambda: [conv(padding=1), conv(1, stride=2)], "stride differ"),
    "dilation": (
        lambda: [conv(3, padding=1), conv(5, padding=4, dilation=2)],
        "dilation differ",
    ),
    "input channels": (lambda: [conv(1), conv(1, c=2)], "input channels differ"),
    "output channels": (lambda: [conv(1), conv(1, oc=2)], "output channels differ"),
    "strided identity": (lambda: [conv(1, stride=2), nn.Identity()], "an identity beside"),
    "identity to more channels": (lambda: [conv(1, oc=8), nn.Identity()], "of 4 to 8 channels"),
    "normalisation of other channels": (lambda: [conv(1), norm(8)], "BatchNorm2d of 8 channels"),
    "training": (
        lambda: [nn.Sequential(conv(1), nn.BatchNorm2d(4))],
        "in training mode",
    ),
    "no statistics": (
        lambda: [nn.Sequential(conv(1), nn.BatchNorm2d(4, track_running_stats=False).eval())],
        "without running statistics",
    ),
    "output sizes": (lambda: [conv(3, padding=1), conv(3)], "gives another output size"),
    "padding between taps": (
        lambda: [conv(3, dilation=2, padding=2), conv(3, dilation=2, padding=1)],
        "no multiple of the dilation",
    ),
    "padding mode": (
        lambda: [conv(3, padding=1, padding_mode="reflect"), nn.Identity()],
        "padding mode 'reflect'",
    ),
    "uneven same": (lambda: [conv(2, padding="same"), conv(1)], "more than the other"),
    "another module": (lambda: [nn.Sequential(conv(1), nn.ReLU())], "ReLU cannot be part"),
    "a convolution of its own": (lambda: [Standardized(4, 4, 1)], "Standardized: .* forward"),
    "an activation in it": (lambda: [ConvolutionAndRelu(4, 4, 1)], "overrides forward"),
    "an activation in the normalisation": (
        lambda: [nn.Sequential(conv(1), NormalizationAndRelu(4).eval())],
        "NormalizationAndRelu: its class overrides forward",
    ),
    "a sequence of its own": (lambda: [Doubled(conv(1), norm(4))], "Doubled: .* forward"),
    "an identity of its own": (lambda: [conv(1), Negated()], "Negated: .* overrides forward"),
    "a hook": (lambda: [hooked(conv(1))], "Conv2d: it has hooks"),
    "a hook before": (lambda: [pre_hooked(conv(1)), nn.Identity()], "it has hooks"),
    "a hook on the normalisation": (
        lambda: [nn.Sequential(conv(1), hooked(norm(4)))],
        "BatchNorm2d: it has hooks",
    ),
    "a hook on the identity": (lambda: [conv(1), hooked(nn.Identity())], "it has hooks"),
    "a hook on the sequence": (lambda: [hooked(nn.Sequential(conv(1)))], "it has hooks"),
    "a patched forward": (lambda: [patched(conv(1))], "a forward of its own"),
    "not initialised": (lambda: [nn.LazyConv2d(4, 1)], "it has hooks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_combinations_are_refused_with_the_reason(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(handconv.CannotFuse, match=words):
        handconv.fuse_branches(*make())
    assert issubclass(handconv.CannotFuse, ValueError)


@pytest.mark.parametrize(
    ("algorithms", "kept"),
    [
        (("im2col", "im2col"), "im2col"),
        (("direct",), "direct"),
        (("im2col", "direct"), "auto"),
        (("im2col", None), "auto"),
        ((None, None), "auto"),
    ],
)
def test_the_algorithm_on_which_all_agree_is_kept(
    algorithms: tuple[str | None, ...], kept: str
) -> None:
    branches: list[nn.Module] = [nn.Identity()]
    for algorithm in algorithms:
        branches.append(conv(1) if algorithm is None else handconv.Conv2d(4, 4, 1))
        if algorithm is not None:
            branches[-1].algorithm = algorithm
    assert handconv.fuse_branches(*branches).algorithm == kept
