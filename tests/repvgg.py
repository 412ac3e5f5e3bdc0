"""A block of RepVGG: branches that fusion makes one convolution of. For tests and bench."""

import torch.nn.functional as F
from torch import Tensor, nn


def norm(channels: int, *, affine: bool = True) -> nn.BatchNorm2d:
    """Batch normalisation in evaluation mode, with statistics that are not the initial ones."""
    module = nn.BatchNorm2d(channels, affine=affine)
    assert module.running_mean is not None and module.running_var is not None
    module.running_mean.normal_()
    module.running_var.uniform_(0.5, 2)
    if affine:
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
    return module.eval()


class RepVGGBlock(nn.Module):
    def __init__(self, c: int, oc: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.dense = nn.Conv2d(c, oc, 3, stride, padding=1, groups=groups, bias=False)
        self.dense_norm = norm(oc)
        self.pointwise = nn.Conv2d(c, oc, 1, stride, groups=groups, bias=False)
        self.pointwise_norm = norm(oc)
        self.identity_norm = norm(oc) if c == oc and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        total = self.dense_norm(self.dense(x)) + self.pointwise_norm(self.pointwise(x))
        if self.identity_norm is not None:
            total = total + self.identity_norm(x)
        return F.relu(total)
