"""Convolutions, and modules that compute something else than their class says."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

import handconv


def conv(k: int | tuple[int, int] = 3, c: int = 4, oc: int = 4, **keywords: object) -> nn.Conv2d:
    return nn.Conv2d(c, oc, k, **keywords)  # type: ignore[arg-type]


class Renamed(nn.Conv2d):
    """A subclass that computes as torch does."""


class Standardized(nn.Conv2d):
    """A subclass with a convolution of its own."""

    def forward(self, input: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return F.conv2d(input, weight, self.bias, padding=self.padding)


class ConvolutionAndRelu(handconv.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))


class NormalizationAndRelu(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))


class Doubled(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Negated(nn.Identity):
    def forward(self, input: Tensor) -> Tensor:
        return -input


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def pre_hooked(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return module


def patched(module: nn.Module) -> nn.Module:
    module.forward = F.relu  # type: ignore[assignment]
    return module
