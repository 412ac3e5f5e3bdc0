"""A model with convolutions, and the comparison of models: the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


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
