"""Convolution written by hand, in place of `torch.nn.functional.conv2d`: direct, grouped, dilated,
depthwise, Winograd, and im2col + GEMM, differentiable to every order and bitwise reproducible.

Start reading at `handconv.reference`, which is how convolution works in a page of Python.
"""

from importlib.util import find_spec

import torch  # noqa: F401 - its libraries must be loaded before the compiled part

try:
    from handconv import _C
except ImportError as error:
    if find_spec("handconv._C") is not None:
        raise
    raise ImportError(
        "handconv's compiled part is missing: run `pip install .` in its source folder, and start "
        "Python somewhere else than there (or install with `pip install -e .`)"
    ) from error

from handconv import batching, flops, reference
from handconv.columns import col2im, im2col
from handconv.conversion import Summary, convert, restore, summary
from handconv.functional import conv2d, conv_transpose2d
from handconv.fusion import CannotFuse, fuse_branches
from handconv.graph_fusion import FusionReport, fuse
from handconv.interception import enabled
from handconv.introspection import (
    Explanation,
    Kernel,
    SlotExplanation,
    algorithms,
    explain,
    forced_kernel,
    kernels,
)
from handconv.kernel_matrix import kernel_matrix
from handconv.modules import Conv2d, ConvTranspose2d, LazyConv2d, LazyConvTranspose2d
from handconv.per_sample import conv2d_per_sample
from handconv.switches import allow_winograd

__version__: str = _C.build_info()["version"]

__all__ = [
    "CannotFuse",
    "Conv2d",
    "ConvTranspose2d",
    "Explanation",
    "FusionReport",
    "Kernel",
    "LazyConv2d",
    "LazyConvTranspose2d",
    "SlotExplanation",
    "Summary",
    "algorithms",
    "allow_winograd",
    "col2im",
    "conv2d",
    "conv2d_per_sample",
    "conv_transpose2d",
    "convert",
    "enabled",
    "explain",
    "forced_kernel",
    "fuse",
    "fuse_branches",
    "im2col",
    "kernel_matrix",
    "kernels",
    "reference",
    "restore",
    "summary",
]

batching.register()
flops.register()
