"""handconv.enabled: every F.conv2d of any code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from equal_models import Net, float64_image
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import handconv


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
