"""The kinds of layers by which results are grouped: those of a family stress a kernel alike."""

from __future__ import annotations

from math import prod

from cases import Case

# Below this many operations the cost of the call is all there is to measure.
TINY_FLOPS = 100_000

# Below this many, dense layers are too small to fill the threads of a machine.
SMALL_FLOPS = 5_000_000

# Depthwise kernels from this size on are bound by arithmetic and not by memory.
LARGE_KERNEL = 9

# Elements of input and output from which on, in float32, few processors' caches hold a layer.
CACHED_ELEMENTS = 4 << 20

# In the order in which tables show them.
FAMILIES = (
    "dense 3x3, 28x28 and above",
    "dense 3x3, 14x14 to 27x27",
    "dense 3x3, below 14x14",
    "dense, other kernels",
    "pointwise",
    "whole windows",
    "strided",
    "dilated",
    "stem",
    "grouped, 8 channels and less",
    "grouped, more channels",
    "depthwise 3x3",
    "depthwise 5x5, 7x7, dilated",
    "depthwise, large kernel",
    "depthwise, batches",
    "per sample",
    "small",
    "tiny",
)


def family_of(case: Case) -> str:
    """The one of FAMILIES that the case belongs to."""
    if case.flops < TINY_FLOPS:
        return "tiny"
    if case.kernel == (case.H, case.W) and case.padding == (0, 0):
        return "whole windows"
    if case.is_depthwise:
        return _depthwise_family(case)
    if case.groups > 1:
        return _grouped_family(case)
    if case.C <= 4 and case.kernel != (1, 1):
        return "stem"
    if case.dilation != (1, 1) and case.kernel != (1, 1):
        return "dilated"
    if case.stride != (1, 1):
        return "strided"
    if case.kernel == (1, 1):
        return "pointwise"
    return _dense_family(case)


def _depthwise_family(case: Case) -> str:
    if prod(case.input_shape) + prod(case.output_shape) > CACHED_ELEMENTS:
        return "depthwise, batches"
    if max(case.kernel) >= LARGE_KERNEL:
        return "depthwise, large kernel"
    is_small = max(case.kernel) <= 3 and case.dilation == (1, 1)
    return "depthwise 3x3" if is_small else "depthwise 5x5, 7x7, dilated"


def _grouped_family(case: Case) -> str:
    if case.groups == case.OC:  # one filter for each of the samples that were made groups
        return "per sample"
    few = max(case.C, case.OC) // case.groups <= 8
    return "grouped, 8 channels and less" if few else "grouped, more channels"


def _dense_family(case: Case) -> str:
    if case.flops < SMALL_FLOPS:
        return "small"
    if case.kernel != (3, 3):
        return "dense, other kernels"
    side = min(case.H, case.W)
    if side >= 28:
        return "dense 3x3, 28x28 and above"
    return "dense 3x3, 14x14 to 27x27" if side >= 14 else "dense 3x3, below 14x14"
