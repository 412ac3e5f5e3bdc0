"""Branches of whole models as one convolution: equal outputs, and a report of what is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from peculiar_modules import (
    ConvolutionAndRelu,
    Negated,
    NormalizationAndRelu,
    Renamed,
    Standardized,
    conv,
    hooked,
    patched,
    pre_hooked,
)
from repvgg import RepVGGBlock, norm
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations

import handconv


class Residual(nn.Module):
    """A branch over the input, and one over something else: only the former can go."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv(3, c, c, padding=1), norm(c))
        self.second = nn.Sequential(conv(3, c, c, padding=1), norm(c))
        self.short = conv(1, c, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x))) + self.short(x) + x


def repvgg() -> nn.Sequential:
    return nn.Sequential(
        RepVGGBlock(3, 8, stride=2), RepVGGBlock(8, 8), RepVGGBlock(8, 8, groups=4), Residual(8)
    ).eval()


class TwoInputs(nn.Module):
    """One sum of branches over two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.ModuleList([conv(padding=1), conv(1)]) for _ in range(2))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.a[0](a) + self.b[0](b) + self.a[1](a) + self.b[1](b)


def test_branches_over_several_inputs_of_one_sum_are_all_fused() -> None:
    net = TwoInputs().double().eval()
    a, b = torch.randn(2, 2, 4, 9, 8, dtype=torch.float64)
    fused, report = handconv.fuse(net)
    torch.testing.assert_close(fused(a, b), net(a, b), rtol=1e-12, atol=1e-12)
    assert (report.convolutions_before, report.convolutions_after) == (4, 2)


def test_repvgg_becomes_a_chain_of_convolutions() -> None:
    net = repvgg().double()
    x = torch.randn(2, 3, 11, 12, dtype=torch.float64)
    expected = net(x)
    fused, report = handconv.fuse(net)
    torch.testing.assert_close(fused(x), expected, rtol=1e-12, atol=1e-12)
    assert (report.convolutions_before, report.convolutions_after) == (9, 6)
    assert (report.normalizations_before, report.normalizations_after) == (10, 0)
    assert not report.refused
    assert str(report) == "9 convolutions became 6, 10 batch normalisations 0"
    assert not any(module.training for module in fused.modules())
    torch.testing.assert_close(net(x), expected)  # and the model itself is unchanged
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 9


def test_a_converted_model_can_be_fused() -> None:
    net = repvgg().double()
    x = torch.randn(2, 3, 11, 12, dtype=torch.float64)
    fused, report = handconv.fuse(handconv.convert(net))
    assert report.convolutions_after == 6
    torch.testing.assert_close(fused(x), net(x), rtol=1e-12, atol=1e-12)


def test_what_cannot_go_is_left_and_reported() -> None:
    net = nn.Sequential(conv(3), nn.BatchNorm2d(4)).double()  # training
    fused, report = handconv.fuse(net)
    assert report.convolutions_after == 1
    assert report.normalizations_after == 1
    ((names, reason),) = report.refused
    assert names == ("0", "1")
    assert "training mode" in reason
    assert "not 0 + 1: BatchNorm2d in training mode" in str(report)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(fused(x), net(x))


class Shared(nn.Module):
    """One convolution used twice, and an intermediate result used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(1)
        self.norm = norm(4)
        self.other = conv(1)
        self.other_norm = norm(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.other(x)
        return self.norm(self.conv(self.conv(x))) + self.other_norm(y) * y


def test_what_is_used_twice_is_left() -> None:
    net = Shared().double().eval()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    fused, report = handconv.fuse(net)
    torch.testing.assert_close(fused(x), net(x), rtol=1e-12, atol=1e-12)
    assert report.fused == []


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x + x


def test_an_input_that_is_added_twice() -> None:
    net = Twice().double().eval()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    fused, _ = handconv.fuse(net)
    torch.testing.assert_close(fused(x), net(x), rtol=1e-12, atol=1e-12)


class Branches(nn.Module):
    """The sum of branches over one input."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return sum((branch(x) for branch in self.branches[1:]), self.branches[0](x))


def assert_fuses_rightly(net: nn.Module) -> handconv.FusionReport:
    """The fused model gives what the model gives; the report of it."""
    net = net.double().eval()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    fused, report = handconv.fuse(net)
    torch.testing.assert_close(fused(x.clone()), net(x.clone()), rtol=1e-12, atol=1e-12)
    return report


PECULIAR: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a convolution of its own": (lambda: Standardized(4, 4, 1), "overrides forward"),
    "an activation in it": (lambda: ConvolutionAndRelu(4, 4, 1), "overrides forward"),
    "a hook": (lambda: hooked(conv(1)), "it has hooks"),
    "a hook before": (lambda: pre_hooked(conv(1)), "it has hooks"),
    "a patched forward": (lambda: patched(conv(1)), "a forward of its own"),
    "normalisation with activation": (lambda: NormalizationAndRelu(4), "overrides forward"),
    "a hook on the normalisation": (lambda: hooked(norm(4)), "it has hooks"),
    "a hook on an identity": (lambda: hooked(nn.Identity()), "it has hooks"),
}


@pytest.mark.parametrize("name", PECULIAR)
def test_peculiar_modules_are_left_and_reported(name: str) -> None:
    make, words = PECULIAR[name]
    report = assert_fuses_rightly(Branches(make(), conv(3, padding=1), conv(1)))
    assert report.fused == [("branches.1", "branches.2")]
    ((names, reason),) = report.refused
    assert names == ("branches.0",)
    assert words in reason
    report = assert_fuses_rightly(nn.Sequential(conv(1), make(), norm(4)))
    assert ("1",) in [names for names, _ in report.refused]


def test_what_a_hook_may_write_to_is_read_where_it_was() -> None:
    def double(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].mul_(2)

    middle = conv(1)
    middle.register_forward_pre_hook(double)
    report = assert_fuses_rightly(Branches(conv(3, padding=1), middle, conv(1)))
    assert report.fused == []
    assert "branches_1 may write" in str(report)


def test_an_identity_of_its_own_is_no_identity() -> None:
    assert_fuses_rightly(Branches(conv(3, padding=1), Negated(), conv(1)))


def test_subclasses_that_compute_as_torch_does_are_fused() -> None:
    report = assert_fuses_rightly(
        Branches(Renamed(4, 4, 3, padding=1), parametrizations.weight_norm(conv(1)))
    )
    assert report.convolutions_after == 1
    assert not report.refused


@pytest.mark.parametrize("peculiar", [hooked, pre_hooked, patched])
def test_a_model_whose_call_does_more_than_its_forward_is_refused(
    peculiar: Callable[[nn.Module], nn.Module],
) -> None:
    """torch.fx sees the forward of its class alone."""
    with pytest.raises(handconv.CannotFuse, match="the model itself"):
        handconv.fuse(peculiar(Branches(conv(1), nn.Identity())))


def between_branches(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    first = a(x)
    x.mul_(2)
    return first + b(x)


def before_the_sum(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    first, second = a(x), b(x)
    F.relu(x, inplace=True)
    return first + second


def through_a_view(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    first = a(x)
    x.flatten(1).neg_()
    return first + b(x)


def of_what_is_a_view(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    view = x[:, :, 1:]
    first = a(view)
    x.neg_()
    return first + b(view)


def as_out(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    first = a(x)
    torch.mul(x, 2, out=x)
    return first + b(x)


def before_the_normalisation(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    first = a(x)
    x.mul_(2)
    return n(first)


def of_another_summand(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    other = x.cos()
    total = a(x) + other
    other.mul_(2)
    return total + b(x)


def by_the_sum_itself(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    return x.add_(a(x) + b(x)) + x


def by_an_overload(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    first = a(x)
    torch.ops.aten.neg_.default(x)
    return first + b(x)


@torch.library.custom_op("handconv_tests::double", mutates_args={"x"})
def double(x: Tensor) -> None:
    x.mul_(2)


def by_a_custom_operation(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    first = a(x)
    torch.ops.handconv_tests.double(x)
    return first + b(x)


@fx.wrap
def doubled(x: Tensor) -> Tensor:
    return x.mul_(2)


def by_a_function_that_is_not_traced(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    first = a(x)
    return first + doubled(x) + b(x)


IN_PLACE = [
    between_branches,
    before_the_sum,
    through_a_view,
    of_what_is_a_view,
    as_out,
    before_the_normalisation,
    of_another_summand,
    by_the_sum_itself,
    by_an_overload,
    by_a_custom_operation,
    by_a_function_that_is_not_traced,
]


class Calls(nn.Module):
    """Two convolutions and a normalisation, called by `function`."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.n = conv(1), conv(1), norm(4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.a, self.b, self.n, x)


@pytest.mark.parametrize("function", IN_PLACE, ids=lambda function: function.__name__)
def test_changes_in_place_stay_where_they_are(function: Callable[..., Tensor]) -> None:
    assert_fuses_rightly(Calls(function))


def test_a_module_that_changes_its_input() -> None:
    report = assert_fuses_rightly(Branches(conv(3, padding=1), nn.ReLU(inplace=True), conv(1)))
    assert report.fused == []


def test_a_change_whose_result_is_not_used_remains() -> None:
    def change(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
        x.mul_(2)
        return a(x) + b(x)

    assert assert_fuses_rightly(Calls(change)).fused == [("a", "b")]


def test_a_change_in_place_is_reported() -> None:
    report = assert_fuses_rightly(Calls(between_branches))
    ((names, reason),) = report.refused
    assert names == ("a", "b")
    assert "mul_ may write" in reason


def elsewhere(a: nn.Module, b: nn.Module, n: nn.Module, x: Tensor) -> Tensor:
    first = a(x)
    other = F.relu(n(x), inplace=True)
    return first.add_(b(x)) * other


def test_changes_of_something_else_do_not_matter() -> None:
    report = assert_fuses_rightly(Calls(elsewhere))
    assert report.fused == [("a", "b")]
    assert not report.refused


class NamedAsFused(nn.Module):
    """A model that has a module of the name that fusion would give."""

    def __init__(self) -> None:
        super().__init__()
        self.fused_1, self.a, self.b = conv(1), conv(3, padding=1), conv(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fused_1(x)) + self.a(x) + self.b(x)


def test_names_that_are_taken() -> None:
    assert assert_fuses_rightly(NamedAsFused()).fused == [("a", "b")]
