"""Networks of the transformers library with random weights, small enough for tests.

Nothing is downloaded: a configuration alone makes a network. The bench asks for larger ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import Tensor, nn


def resnet(scale: int) -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=16 * scale,
        hidden_sizes=[16 * scale, 32 * scale],
        depths=[1, 2],
        layer_type="bottleneck",
    )
    return transformers.ResNetForImageClassification(config)


def regnet(scale: int) -> nn.Module:
    config = transformers.RegNetConfig(
        embedding_size=8 * scale,
        hidden_sizes=[16 * scale, 32 * scale],
        depths=[1, 2],
        groups_width=8,
    )
    return transformers.RegNetForImageClassification(config)


def convnext(scale: int) -> nn.Module:
    config = transformers.ConvNextConfig(
        hidden_sizes=[16 * scale, 32 * scale], depths=[1, 2], num_stages=2
    )
    return transformers.ConvNextForImageClassification(config)


def mobilenet(scale: int) -> nn.Module:
    config = transformers.MobileNetV2Config(depth_multiplier=0.25 * scale, min_depth=8)
    return transformers.MobileNetV2ForImageClassification(config)


def deeplab(scale: int) -> nn.Module:
    config = transformers.MobileNetV2Config(
        depth_multiplier=0.25 * scale, min_depth=8, output_stride=8
    )
    return transformers.MobileNetV2ForSemanticSegmentation(config)


def efficientnet(scale: int) -> nn.Module:
    config = transformers.EfficientNetConfig(
        width_coefficient=0.25 * scale, depth_coefficient=0.25, hidden_dim=320 * scale
    )
    return transformers.EfficientNetForImageClassification(config)


def segformer(scale: int) -> nn.Module:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8 * scale, 16 * scale, 16 * scale, 32 * scale],
        decoder_hidden_size=16 * scale,
        num_attention_heads=[1, 1, 2, 2],
    )
    return transformers.SegformerForSemanticSegmentation(config)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "ResNet": resnet,
    "RegNet": regnet,
    "ConvNeXt": convnext,
    "MobileNetV2": mobilenet,
    "DeepLabV3+": deeplab,
    "EfficientNet": efficientnet,
    "SegFormer": segformer,
}


class Logits(nn.Module):
    """The network as a function of the image alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        outputs: Any = self.network(pixel_values=images)
        logits: Tensor = outputs.logits
        return logits


def make_network(name: str, scale: int = 1) -> Logits:
    """One of NETWORKS, `scale` times as wide as the smallest; seeded, in evaluation mode."""
    torch.manual_seed(0)
    return Logits(NETWORKS[name](scale)).eval()
