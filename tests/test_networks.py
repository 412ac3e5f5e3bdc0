"""Real networks, converted: the logits and every parameter's gradient are the original's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="the networks are those of the transformers library")

from networks import NETWORKS, make_network

import handconv

by_network = pytest.mark.parametrize("name", NETWORKS)


def images(dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)


def logits_and_gradients(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """By name. The same noise for every network: dropout draws from the same seed."""
    torch.manual_seed(1)
    net.zero_grad()
    logits = net(x)
    logits.square().mean().backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients}


def relative_error(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right.double()).norm() / right.double().norm().clamp_min(1e-30))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@by_network
def test_converted_networks_in_float64(name: str, training: bool) -> None:
    theirs = make_network(name).double().train(training)
    ours = handconv.convert(copy.deepcopy(theirs))
    assert handconv.summary(ours).on_handconv == len(handconv.summary(ours).entries) > 0
    right = logits_and_gradients(theirs, images(torch.float64))
    found = logits_and_gradients(ours, images(torch.float64))
    assert found.keys() == right.keys()
    largest = max(float(value.norm()) for key, value in right.items() if key != "logits")
    for key, value in found.items():
        # A gradient that is zero but for rounding, as a bias's before a normalisation, is measured
        # by the others.
        tolerance = 1e-10 * max(float(right[key].norm()), 1e-3 * largest)
        assert float((value - right[key]).norm()) <= tolerance, key


@by_network
def test_converted_networks_in_float32_and_channels_last(name: str) -> None:
    theirs = make_network(name)
    x = images(torch.float32)
    right = make_network(name).double()(x.double())
    errors = []
    for layout in (torch.contiguous_format, torch.channels_last):
        ours = handconv.convert(copy.deepcopy(theirs)).to(memory_format=layout)
        errors.append(relative_error(ours(x.contiguous(memory_format=layout)), right))
    # torch's own error, with room for another order of sums
    assert max(errors) <= max(4 * relative_error(theirs(x), right), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ConvNeXt", "MobileNetV2"])
def test_converted_networks_compile(name: str) -> None:
    torch._dynamo.reset()
    theirs = make_network(name).double()
    ours = handconv.convert(copy.deepcopy(theirs))
    x = images(torch.float64)
    compiled = torch.compile(ours, backend="aot_eager")
    right, found = logits_and_gradients(theirs, x), logits_and_gradients(compiled, x)
    assert relative_error(found["logits"], right["logits"]) < 1e-10


@by_network
def test_networks_inside_enabled(name: str) -> None:
    net = make_network(name).double()
    x = images(torch.float64)
    with handconv.enabled() as counts:
        found = net(x)
    assert counts.calls > 0
    assert not counts.passed
    assert relative_error(found, net(x)) < 1e-10


def test_no_hidden_copies_in_channels_last() -> None:
    """A channels_last network stays so from end to end: no convolution copies its operands."""
    layers = [nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU()]
    net = handconv.convert(nn.Sequential(*layers, nn.Conv2d(16, 4, 1)))
    net.to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 12, 12).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.profiler.profile() as profile:
        output = net(x)
        output.backward(torch.ones_like(output))
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert "aten::copy_" not in {event.name for event in profile.events()}
