"""handconv's modules: the answers, parameters and refusals of torch's."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from equal_models import assert_equal_models, float64_image
from torch import nn

import handconv

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {"stride": 2, "padding": (1, 2), "dilation": (2, 1), "groups": 2, "bias": False},
    "same": {"padding": "same"},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "replicate, same": {"padding": "same", "padding_mode": "replicate"},
    "circular, strided": {"padding": (2, 1), "stride": 2, "padding_mode": "circular"},
}
TRANSPOSED: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {"stride": 3, "padding": 1, "output_padding": 2, "groups": 2, "dilation": 2},
}
by_convolution = pytest.mark.parametrize("name", CONVOLUTIONS)


@by_convolution
def test_conv2d_is_torchs(name: str) -> None:
    keywords = CONVOLUTIONS[name]
    torch.manual_seed(1)
    theirs = nn.Conv2d(4, 6, (3, 2), **keywords, dtype=torch.float64)
    torch.manual_seed(1)
    ours = handconv.Conv2d(4, 6, (3, 2), **keywords, dtype=torch.float64)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert torch.equal(ours.weight, theirs.weight)
    assert_equal_models(ours, theirs, float64_image())
    assert_equal_models(ours, theirs, float64_image(4, 9, 8))


@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose2d_is_torchs(name: str) -> None:
    keywords = TRANSPOSED[name]
    torch.manual_seed(1)
    theirs = nn.ConvTranspose2d(4, 6, (3, 2), **keywords, dtype=torch.float64)
    torch.manual_seed(1)
    ours = handconv.ConvTranspose2d(4, 6, (3, 2), **keywords, dtype=torch.float64)
    assert repr(ours) == repr(theirs)
    assert_equal_models(ours, theirs, float64_image())


def test_output_size_of_the_transposed_convolution() -> None:
    theirs = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, dtype=torch.float64)
    ours = handconv.convert(copy.deepcopy(theirs))
    for size in ([17, 15], [18, 16], [2, 6, 18, 15]):
        assert_equal_models(ours, theirs, float64_image(), size)
    with pytest.raises(ValueError, match="requested an output size"):
        ours(float64_image(), [40, 40])


def test_padding_modes_that_torch_refuses() -> None:
    module = handconv.ConvTranspose2d(4, 6, 3)
    module.padding_mode = "reflect"
    with pytest.raises(ValueError, match="Only `zeros` padding mode"):
        module(torch.randn(1, 4, 5, 5))


@pytest.mark.parametrize("algorithm", handconv.algorithms())
def test_the_algorithm_of_a_module(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr(
        "handconv.modules.conv2d", lambda *_, algorithm: chosen.append(algorithm) or torch.ones(1)
    )
    module = handconv.Conv2d(1, 1, 1)
    module.algorithm = algorithm
    module(torch.ones(1, 1, 1, 1))
    assert chosen == [algorithm]


def test_copies_and_pickles() -> None:
    module = handconv.Conv2d(4, 6, 3)
    module.algorithm = "im2col"
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(copied) is handconv.Conv2d
        assert copied.algorithm == "im2col"
        assert torch.equal(copied.weight, module.weight)


def test_lazy_modules() -> None:
    net = nn.Sequential(handconv.LazyConv2d(6, 3), handconv.LazyConvTranspose2d(5, 2))
    assert net(torch.randn(2, 4, 9, 8)).shape == (2, 5, 8, 7)
    assert [type(module) for module in net] == [handconv.Conv2d, handconv.ConvTranspose2d]
