"""Conversion of models: the same answers, parameters and names."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from equal_models import Net, assert_equal_models, float64_image, with_gradients
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

import handconv


class Renamed(nn.Conv2d):
    """A subclass that computes as torch does."""

    def fan_in(self) -> int:
        return self.weight[0].numel()


class Standardized(nn.Conv2d):
    """A subclass with a convolution of its own."""

    def forward(self, input: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return F.conv2d(input, weight, self.bias)


class LazyRenamed(nn.LazyConv2d):
    cls_to_become = Renamed


class LazyStandardized(nn.LazyConv2d):
    cls_to_become = Standardized


@pytest.mark.parametrize("training", [True, False])
def test_conversion_changes_nothing_but_who_computes(training: bool) -> None:
    theirs = Net().double().train(training)
    ours = copy.deepcopy(theirs)
    parameters = dict(ours.named_parameters())
    modules = dict(ours.named_modules())
    assert handconv.convert(ours) is ours
    assert ours.training is training
    assert dict(ours.named_modules()) == modules
    assert all(parameters[name] is p for name, p in ours.named_parameters())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    assert_equal_models(ours, theirs, float64_image())
    assert ours.up.seen == theirs.up.seen != []
    assert handconv.summary(ours).on_handconv == 4


def test_conversion_and_its_undo() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3), Renamed(4, 4, 1), nn.LazyConv2d(2, 1), Net())
    before = {name: type(module) for name, module in net.named_modules()}
    handconv.convert(net)
    handconv.convert(net)
    assert handconv.summary(net).on_handconv == 7
    handconv.restore(net)
    assert handconv.summary(net).on_handconv == 0
    for name, module in net.named_modules():
        assert type(module).__mro__[-4:] == before[name].__mro__[-4:]
        assert not isinstance(module, (handconv.Conv2d, handconv.ConvTranspose2d))


def test_a_model_that_is_a_convolution() -> None:
    conv = nn.Conv2d(4, 4, 3)
    assert type(handconv.convert(conv)) is handconv.Conv2d
    assert type(handconv.restore(conv)) is nn.Conv2d


def test_lazy_convolutions_are_converted() -> None:
    net = handconv.convert(nn.Sequential(nn.LazyConv2d(6, 3), nn.LazyConvTranspose2d(3, 3)))
    net(torch.randn(1, 4, 8, 8))
    assert [type(module) for module in net] == [handconv.Conv2d, handconv.ConvTranspose2d]


def test_lazy_subclasses_become_what_they_say() -> None:
    net = nn.Sequential(LazyRenamed(6, 3), LazyStandardized(6, 3))
    handconv.convert(net)(torch.randn(2, 4, 9, 8))
    assert isinstance(net[0], handconv.Conv2d)
    assert net[0].fan_in() == 36
    assert type(net[1]) is Standardized
    assert type(handconv.restore(net)[0]) is Renamed


def test_subclasses_keep_what_they_add() -> None:
    module = handconv.convert(Renamed(4, 6, 3, dtype=torch.float64))
    assert isinstance(module, handconv.Conv2d)
    assert isinstance(module, Renamed)
    assert module.fan_in() == 36
    image = float64_image()
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(copied) is type(module)
        assert torch.equal(copied(image), module(image))
    assert type(handconv.restore(module)) is Renamed


class WithFunction(nn.Conv2d):
    """A subclass with something that cannot be pickled, and its own way round that."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.function = lambda: "made again"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "function"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.function = lambda: "made again"


def test_subclasses_are_pickled_in_their_own_way() -> None:
    module = handconv.convert(WithFunction(4, 6, 3, dtype=torch.float64))
    image = float64_image()
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(copied) is type(module)
        assert copied.function() == "made again"
        assert torch.equal(copied(image), module(image))
    parametrizations.orthogonal(module)
    for copying in (pickle.dumps, copy.copy):
        with pytest.raises(RuntimeError, match="only supported through state_dict"):
            copying(module)


class Registered(nn.Conv2d):
    """A subclass that keeps a list of the classes that derive from it."""

    names: ClassVar[list[str]] = []

    def __init_subclass__(cls, *, name: str) -> None:
        cls.names.append(name)


def test_conversion_derives_no_class_that_the_user_would_notice() -> None:
    module = handconv.convert(Registered(4, 6, 3))
    assert isinstance(module, handconv.Conv2d)
    assert Registered.names == []


def test_subclasses_that_compute_themselves_are_left_alone() -> None:
    net = nn.Sequential(Standardized(4, 4, 1), nn.Conv2d(4, 4, 1))
    with pytest.warns(UserWarning, match=r"left alone: 0 \(Standardized: .* overrides forward"):
        handconv.convert(net)
    assert type(net[0]) is Standardized
    assert type(net[1]) is handconv.Conv2d
    report = handconv.summary(net)
    assert report.on_handconv == 1
    assert "1 of 2 convolutions run on handconv" in str(report)
    assert "not 0, Standardized(4, 4" in str(report)


def test_a_patched_forward_is_left_alone() -> None:
    conv = nn.Conv2d(4, 4, 1)
    conv.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match="forward of its own"):
        assert type(handconv.convert(conv)) is nn.Conv2d


class Classic(nn.Conv2d):
    """A subclass whose `algorithm` means something else."""

    algorithm = "classic"


def with_algorithm(value: Any) -> nn.Conv2d:
    conv = nn.Conv2d(4, 4, 1)
    conv.algorithm = value
    return conv


@pytest.mark.parametrize(
    "make", [lambda: Classic(4, 4, 1), lambda: with_algorithm(3), lambda: with_algorithm(nn.ReLU())]
)
def test_a_module_with_an_algorithm_of_its_own_is_left_alone(
    make: Callable[[], nn.Conv2d],
) -> None:
    net = nn.Sequential(make(), nn.Conv2d(4, 4, 1))
    before = type(net[0])
    with pytest.warns(UserWarning, match="it has an attribute 'algorithm' of its own"):
        handconv.convert(net)
    assert type(net[0]) is before
    assert "attribute 'algorithm'" in str(handconv.summary(net))
    assert net(torch.ones(1, 4, 2, 2)).shape == (1, 4, 2, 2)


def test_restore_takes_the_algorithm_back() -> None:
    module = handconv.convert(nn.Conv2d(4, 4, 1))
    module.algorithm = "direct"
    handconv.restore(module)
    assert not hasattr(module, "algorithm")
    assert handconv.convert(module).algorithm == "auto"


def test_restore_tells_what_it_leaves() -> None:
    net = handconv.convert(nn.Sequential(nn.Conv2d(4, 4, 1), Renamed(4, 4, 1), nn.Conv2d(4, 4, 1)))
    for module in net[:2]:  # as a library does that adds to the classes of modules
        module.__class__ = type("Sharded", (type(module),), {})
    before = [type(module) for module in net[:2]]
    with pytest.warns(UserWarning, match=r"restore left alone: 0 \(Sharded: .*, 1 \(Sharded: "):
        handconv.restore(net)
    assert [type(module) for module in net] == [*before, nn.Conv2d]


def test_parametrizations_before_and_after_conversion() -> None:
    theirs = nn.Conv2d(4, 4, 3, dtype=torch.float64)
    parametrizations.orthogonal(theirs)
    ours = handconv.convert(copy.deepcopy(theirs))
    assert isinstance(ours, handconv.Conv2d)
    assert parametrize.is_parametrized(ours)
    assert_equal_models(ours, theirs, float64_image())
    assert torch.equal(copy.deepcopy(ours).weight, ours.weight)
    parametrize.remove_parametrizations(ours, "weight")
    assert type(ours) is handconv.Conv2d
    assert not parametrize.is_parametrized(ours)
    parametrizations.weight_norm(ours)
    assert isinstance(ours, handconv.Conv2d)
    handconv.restore(ours)
    assert not isinstance(ours, handconv.Conv2d)
    parametrize.remove_parametrizations(ours, "weight")
    assert type(ours) is nn.Conv2d


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_converted_model_compiles_whole(dynamic: bool) -> None:
    torch._dynamo.reset()
    net = handconv.convert(Net().double())
    net.up._forward_hooks.clear()
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    assert_equal_models(compiled, net, float64_image())


def test_a_converted_model_can_be_traced_by_torchscript() -> None:
    net = handconv.convert(Net().eval())
    net.up._forward_hooks.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecation, and that the size of images is fixed
        traced = torch.jit.trace(net, torch.randn(2, 4, 9, 8))
    x = torch.randn(3, 4, 9, 8)
    torch.testing.assert_close(traced(x), net(x))


@pytest.mark.slow
def test_a_converted_model_runs_from_an_aot_inductor_package(tmp_path: Path) -> None:
    net = handconv.convert(Net().eval())
    net.up._forward_hooks.clear()
    x = torch.randn(2, 4, 9, 8)
    package = torch._inductor.aoti_compile_and_package(
        torch.export.export(net, (x,)), package_path=str(tmp_path / "net.pt2")
    )
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(x), net(x))


def test_activation_checkpointing() -> None:
    net = handconv.convert(Net().double())
    x = float64_image().requires_grad_()
    checkpoint(net, x, use_reentrant=False).square().sum().backward()
    found = x.grad
    right = with_gradients(net.requires_grad_(False), x)[1]
    torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
