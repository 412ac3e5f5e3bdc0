"""Parallel branches over one input as a single convolution.

A convolution is linear in its weight, so the sum of convolutions over one input is the convolution
with the sum of their weights, once these have one size: a smaller kernel is padded with zeros, an
identity is a kernel with a single one, and batch normalisation, as it runs in evaluation, scales
and shifts each output channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from handconv.conversion import departure
from handconv.modules import Conv2d

Pair = tuple[int, int]

_KNOWN = (Conv2d, nn.Conv2d, nn.BatchNorm2d, nn.Identity, nn.Sequential)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class CannotFuse(ValueError):
    """Branches that are no single convolution, and why."""


@dataclass(frozen=True)
class _Branch:
    """One branch as a convolution: the weight (OC, C / groups, KH, KW) and bias in float64."""

    weight: Tensor
    bias: Tensor
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


def fuse_branches(*branches: nn.Module) -> Conv2d:
    """The one convolution that equals the sum of branches over the same input.

    Args:
        branches: each an nn.Conv2d, an nn.BatchNorm2d, an nn.Identity, or an nn.Sequential of an
            nn.Conv2d or nn.Identity and an nn.BatchNorm2d. Kernels may differ in size, biases may
            be missing; stride, groups, channels and (for kernels larger than one element) dilation
            must agree, and the outputs must lie over the same input. Batch normalisation must be
            in evaluation mode, with running statistics. Subclasses may be among them if they
            compute as these classes do, and parametrized modules, but none with hooks.

    Returns:
        A :class:`handconv.Conv2d` with a bias, of the dtype and on the device of the branches,
        whose output equals the sum of theirs up to rounding. The weights are summed in float64. It
        has parameters of its own, and is in evaluation mode if the first branch is. Its `algorithm`
        is that of the convolutions if they have one and the same, "auto" otherwise.

    Raises:
        CannotFuse: a ValueError with the reason.
    """
    if not branches:
        raise CannotFuse("there are no branches")
    parts = [_parts(branch) for branch in branches]
    pattern = _pattern(parts)
    reference = next(conv.weight for conv, _ in parts if conv is not None)
    folded = [_fold(conv, norm, pattern, reference.device) for conv, norm in parts]
    kernel, padding, shifts = _common_window(folded)
    first = folded[0]
    weight = first.weight.new_zeros((*first.weight.shape[:2], *kernel))
    for branch, (top, left) in zip(folded, shifts, strict=True):
        height, width = branch.weight.shape[2:]
        weight[:, :, top : top + height, left : left + width] += branch.weight
    fused = Conv2d(
        pattern.channels,
        pattern.out_channels,
        kernel,
        pattern.stride,
        padding,
        pattern.dilation,
        pattern.groups,
        device=reference.device,
        dtype=reference.dtype,
    )
    fused.load_state_dict({"weight": weight, "bias": sum(branch.bias for branch in folded)})
    fused.algorithm = _common_algorithm([conv for conv, _ in parts if conv is not None])
    return fused.train(branches[0].training)


@dataclass(frozen=True)
class _Pattern:
    """What the branches must have in common."""

    channels: int
    out_channels: int
    groups: int
    stride: Pair
    dilation: Pair


_Parts = tuple[nn.Conv2d | None, nn.BatchNorm2d | None]


def _parts(branch: nn.Module) -> _Parts:
    """The convolution and the normalisation of a branch; None, None is the identity."""
    modules = list(branch) if isinstance(branch, nn.Sequential) else [branch]
    for module in (branch, *modules):
        reason = peculiarity(module)
        if reason is not None:
            raise CannotFuse(f"{type(module).__name__}: {reason}")
    modules = [m for m in modules if not isinstance(m, nn.Identity)]
    conv = modules[0] if modules and isinstance(modules[0], nn.Conv2d) else None
    modules = modules[1:] if conv else modules
    norm = modules[0] if modules and isinstance(modules[0], nn.BatchNorm2d) else None
    modules = modules[1:] if norm else modules
    if modules:
        raise CannotFuse(f"{type(modules[0]).__name__} cannot be part of a convolution")
    if norm is not None and norm.training:
        raise CannotFuse("BatchNorm2d in training mode normalises by the batch; call eval() first")
    if norm is not None and norm.running_mean is None:
        raise CannotFuse("BatchNorm2d without running statistics normalises by the batch")
    if conv is not None and conv.padding_mode != "zeros":
        raise CannotFuse(f"padding mode {conv.padding_mode!r}: only zeros add up")
    return conv, norm


def peculiarity(module: nn.Module) -> str | None:
    """Why a call of a module may do something else than its kind does; None if it does not.

    Modules of no kind that fusion knows have no peculiarity.
    """
    if not isinstance(module, _KNOWN):
        return None
    return "it has hooks" if has_hooks(module) else departure(module, _KNOWN)


def has_hooks(module: nn.Module) -> bool:
    """Whether anything else is run when the module, or its derivative, is."""
    return any(getattr(module, name) for name in _HOOKS)


def _common_algorithm(convs: Sequence[nn.Conv2d]) -> str:
    found = {conv.algorithm if isinstance(conv, Conv2d) else "auto" for conv in convs}
    return found.pop() if len(found) == 1 else "auto"


def _pattern(parts: Sequence[_Parts]) -> _Pattern:
    convs = [conv for conv, _ in parts if conv is not None]
    if not convs:
        raise CannotFuse("there is no convolution among the branches")
    large = [conv for conv in convs if max(conv.kernel_size) > 1]
    pattern = _Pattern(
        convs[0].in_channels,
        convs[0].out_channels,
        convs[0].groups,
        _pair(convs[0].stride),
        _pair((large or convs)[0].dilation),
    )
    for conv, norm in parts:
        if conv is None:
            _check_identity(norm, pattern)
            continue
        found = {
            "input channels": (conv.in_channels, pattern.channels),
            "output channels": (conv.out_channels, pattern.out_channels),
            "groups": (conv.groups, pattern.groups),
            "stride": (_pair(conv.stride), pattern.stride),
        }
        if max(conv.kernel_size) > 1:
            found["dilation"] = (_pair(conv.dilation), pattern.dilation)
        for name, (value, expected) in found.items():
            if value != expected:
                raise CannotFuse(f"{name} differ between branches: {expected} and {value}")
    return pattern


def _check_identity(norm: nn.BatchNorm2d | None, pattern: _Pattern) -> None:
    if pattern.stride != (1, 1):
        raise CannotFuse(f"an identity beside convolutions of stride {pattern.stride}")
    if pattern.channels != pattern.out_channels:
        raise CannotFuse(
            f"an identity beside convolutions of {pattern.channels} to {pattern.out_channels} "
            "channels"
        )
    if norm is not None and norm.num_features != pattern.channels:
        raise CannotFuse(f"BatchNorm2d of {norm.num_features} channels on {pattern.channels}")


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _fold(
    conv: nn.Conv2d | None, norm: nn.BatchNorm2d | None, pattern: _Pattern, device: torch.device
) -> _Branch:
    if conv is None:
        weight, bias, padding = _identity_weight(pattern, device), None, (0, 0)
    else:
        weight = conv.weight.detach().double()
        bias = None if conv.bias is None else conv.bias.detach().double()
        padding = _numeric_padding(conv)
    if bias is None:
        bias = weight.new_zeros(pattern.out_channels)
    if norm is not None:
        scale, shift = _affine(norm)
        weight = weight * scale.reshape(-1, 1, 1, 1)
        bias = bias * scale + shift
    return _Branch(weight, bias, pattern.stride, padding, pattern.dilation, pattern.groups)


def _identity_weight(pattern: _Pattern, device: torch.device) -> Tensor:
    """(C, C / groups, 1, 1) with a one where an output channel meets its own input channel."""
    group = pattern.channels // pattern.groups
    channel = torch.arange(pattern.channels, device=device)
    weight = torch.zeros(pattern.channels, group, 1, 1, dtype=torch.float64, device=device)
    weight[channel, channel % group] = 1
    return weight


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel, in float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale, shift


def _numeric_padding(conv: nn.Conv2d) -> Pair:
    if isinstance(conv.padding, str):
        if conv.padding == "valid":
            return (0, 0)
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        if any(total % 2 for total in totals):
            raise CannotFuse("padding='same' of an even kernel pads one side more than the other")
        return (totals[0] // 2, totals[1] // 2)
    return _pair(conv.padding)


def _common_window(branches: Sequence[_Branch]) -> tuple[Pair, Pair, list[Pair]]:
    """The kernel and padding that hold every branch, and where each one's taps lie in it."""
    axes = [_common_axis(branches, axis) for axis in range(2)]
    (height, top, rows), (width, left, columns) = axes
    return (height, width), (top, left), list(zip(rows, columns, strict=True))


def _common_axis(branches: Sequence[_Branch], axis: int) -> tuple[int, int, list[int]]:
    dilation = branches[0].dilation[axis]
    padding = max(branch.padding[axis] for branch in branches)
    shifts = []
    for branch in branches:
        before = padding - branch.padding[axis]
        if before % dilation:
            raise CannotFuse(
                f"paddings {padding} and {branch.padding[axis]} differ by no multiple of the "
                f"dilation {dilation}"
            )
        shifts.append(before // dilation)
    sizes = [branch.weight.shape[2 + axis] for branch in branches]
    kernel = max(shift + size for shift, size in zip(shifts, sizes, strict=True))
    for branch, size in zip(branches, sizes, strict=True):
        # Outputs are as many as the input and 2 p - d (k - 1) give.
        growth = 2 * branch.padding[axis] - dilation * (size - 1)
        if growth != 2 * padding - dilation * (kernel - 1):
            raise CannotFuse(
                f"a kernel of {size} with padding {branch.padding[axis]} gives another output size "
                f"than the kernel of {kernel} with padding {padding} that would hold all branches"
            )
    return kernel, padding, shifts
