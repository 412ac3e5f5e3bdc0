"""Modules, conversion of models and interception: the same answers, parameters and names."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

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


def with_gradients(model: nn.Module, x: Tensor, *arguments: Any) -> list[Tensor]:
    """The output, and the gradients of the sum of its squares."""
    x = x.detach().requires_grad_()
    output = model(x, *arguments)
    output.square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return [output.detach(), x.grad, *gradients]


def assert_equal_models(ours: nn.Module, theirs: nn.Module, x: Tensor, *arguments: Any) -> None:
    found = with_gradients(ours, x, *arguments)
    right = with_gradients(theirs, x, *arguments)
    for tensor, expected in zip(found, right, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12)


def float64_image(*shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 4, 9, 8)), dtype=torch.float64)


# Modules.


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


# Conversion.


class Net(nn.Module):
    """Every kind of convolution, one of them shared, with a hook and a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.normed = parametrizations.weight_norm(nn.Conv2d(8, 8, 1))
        self.up = nn.ConvTranspose2d(8, 3, 2, stride=2)
        self.shared.weight.requires_grad_(False)
        self.up.seen = []
        self.up.register_forward_hook(lambda module, _, output: module.seen.append(output.shape))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.shared(self.shared(x)) + x
        return self.up(self.normed(x))


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


# Interception.


def functional(x: Tensor, w: Tensor) -> Tensor:
    return torch.conv2d(F.conv_transpose2d(x, w, stride=2), w, padding="same")


def test_enabled_sends_every_call_to_handconv() -> None:
    x, w = float64_image(), torch.randn(4, 4, 3, 3, dtype=torch.float64)
    net = Net().double().eval()
    expected = functional(x, w), net(x)
    with handconv.enabled() as counts:
        found = functional(x, w), net(x)
    assert counts.calls == 7
    assert not counts.passed
    for tensor, right in zip(found, expected, strict=True):
        torch.testing.assert_close(tensor, right, rtol=1e-12, atol=1e-12)
    net(x)
    assert counts.calls == 7


UNSUPPORTED: dict[str, Callable[[Tensor], Tensor]] = {
    "dtype torch.int64": lambda x: x.round().long(),
    "dtype torch.complex128": lambda x: x.to(torch.complex128),
}


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_enabled_leaves_to_torch_what_has_no_kernel(reason: str) -> None:
    x, w = UNSUPPORTED[reason](float64_image()), UNSUPPORTED[reason](float64_image(4, 4, 3, 3))
    with handconv.enabled() as counts:
        found = F.conv2d(x, w)
    assert torch.equal(found, F.conv2d(x, w))
    assert (counts.calls, counts.passed) == (0, {reason: 1})


def test_enabled_passes_keywords_and_errors() -> None:
    x, w = float64_image(), torch.randn(6, 4, 3, 3, dtype=torch.float64)
    with handconv.enabled() as counts:
        found = F.conv2d(input=x, weight=w, bias=None, stride=2, groups=1)
        with pytest.raises(RuntimeError, match="to have 4 channels, but got 3 channels"):
            F.conv2d(x[:, :3], w)
    torch.testing.assert_close(found, F.conv2d(x, w, stride=2))
    assert counts.calls == 2


def test_a_checkpoint_inside_enabled() -> None:
    """In the way that the docstring gives: torch takes function modes off in a backward pass."""
    x, w = float64_image().requires_grad_(), torch.randn(4, 4, 3, 3, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return F.conv2d(x, w).square().sum()

    again = handconv.enabled()
    with handconv.enabled() as first:
        checkpoint(
            function, x, use_reentrant=False, context_fn=lambda: (nullcontext(), again)
        ).backward()
    assert (first.calls, again.calls) == (1, 1)
    torch.testing.assert_close(x.grad, torch.autograd.grad(function(x), x)[0])


def test_gradients_and_autocast_inside_enabled() -> None:
    net = Net()
    with handconv.enabled(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(torch.randn(2, 4, 8, 8))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert net.stem.weight.grad is not None
