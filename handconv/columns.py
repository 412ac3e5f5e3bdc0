"""im2col and col2im: between an image and the columns that make convolution a matrix product.

Both walk over the taps of the kernel. What one tap sees, for all output pixels together, is a
strided slice of the padded image: tap i begins at pixel i * dilation and takes every stride-th.
im2col gathers these slices; col2im adds them back, and is its adjoint. Torch differentiates slices
and sums to every order, batches and compiles them, so nothing more is needed here.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from operator import index
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from handconv.reference import output_size as window_count

IntOrPair = int | Sequence[int]
Pair = tuple[int, int]


def im2col(
    input: Tensor,
    kernel_size: IntOrPair,
    dilation: IntOrPair = 1,
    padding: IntOrPair = 0,
    stride: IntOrPair = 1,
) -> Tensor:
    """Copies every window of the input into a column, as torch.nn.functional.unfold does.

        columns[n, (c*KH + i)*KW + j, p*OW + q]
            = input[n, c, p*stride + i*dilation - padding, q*stride + j*dilation - padding]

    with zero for the pixels outside the input. For a weight (OC, C, KH, KW) the convolution is then
    ``(weight.flatten(1) @ columns).unflatten(-1, (OH, OW))``.

    Args:
        input: (N, C, H, W) or, without a batch, (C, H, W), of any dtype. N may be zero.
        kernel_size, dilation, padding, stride: an integer, or a pair (vertical, horizontal).

    Returns:
        (N, C*KH*KW, OH*OW) or, without a batch, (C*KH*KW, OH*OW).

    Raises:
        RuntimeError: the input has other dimensions or an empty image, an argument is out of range,
            or the kernel does not fit into the padded input.
        TypeError: an argument is not made of integers.
    """
    if input.dim() not in (3, 4) or 0 in input.shape[-3:]:
        raise RuntimeError(
            "Expected 3D (unbatched) or 4D (batched) input to im2col with at least one channel and "
            f"one pixel, but got input of size: {list(input.shape)}"
        )
    sliding = Sliding.checked(kernel_size, dilation, padding, stride)
    counts = sliding.counts(input.shape[-2:])
    vertical, horizontal = sliding.padding
    padded = F.pad(input, (horizontal, horizontal, vertical, vertical))
    taps = [padded[..., rows, columns] for rows, columns in sliding.tap_slices(counts)]
    return torch.stack(taps, dim=-3).flatten(-2).flatten(-3, -2)


def col2im(
    input: Tensor,
    output_size: IntOrPair,
    kernel_size: IntOrPair,
    dilation: IntOrPair = 1,
    padding: IntOrPair = 0,
    stride: IntOrPair = 1,
) -> Tensor:
    """Adds every column back onto its window, as torch.nn.functional.fold does.

    The adjoint of `im2col`: <im2col(x), columns> = <x, col2im(columns)>. It undoes `im2col` only
    where windows do not overlap; elsewhere a pixel is summed once for each window that sees it.

    Args:
        input: columns (N, C*KH*KW, OH*OW) or, without a batch, (C*KH*KW, OH*OW). N may be zero.
        output_size: (H, W) of the image, or one integer for a square.
        kernel_size, dilation, padding, stride: as in `im2col`.

    Returns:
        (N, C, H, W) or, without a batch, (C, H, W).

    Raises:
        RuntimeError: the columns do not belong to an image of this size, or an argument is out of
            range.
        TypeError: an argument is not made of integers.
    """
    if input.dim() not in (2, 3) or 0 in input.shape[-2:]:
        raise RuntimeError(
            "Expected 2D (unbatched) or 3D (batched) input to col2im with at least one row and one "
            f"column, but got input of size: {list(input.shape)}"
        )
    sliding = Sliding.checked(kernel_size, dilation, padding, stride)
    height, width = image_size = checked_pair("output_size", output_size, least=1)
    counts = sliding.counts(image_size)
    kernel_area = sliding.kernel_size[0] * sliding.kernel_size[1]
    if input.shape[-2] % kernel_area != 0:
        raise RuntimeError(
            f"Expected the rows of the columns to be divisible by the {kernel_area} taps of the "
            f"kernel, but got input of size: {list(input.shape)}"
        )
    if input.shape[-1] != counts[0] * counts[1]:
        raise RuntimeError(
            f"An image of {height} x {width} pixels has {counts[0]} x {counts[1]} windows for "
            f"{sliding._asdict()}, but got input of size: {list(input.shape)}"
        )
    vertical, horizontal = sliding.padding
    channels = input.shape[-2] // kernel_area
    taps = torch.unflatten(input, -1, counts)
    taps = torch.unflatten(taps, -3, (channels, kernel_area))
    padded = input.new_zeros(
        *input.shape[:-2], channels, height + 2 * vertical, width + 2 * horizontal
    )
    for (rows, columns), tap in zip(sliding.tap_slices(counts), taps.unbind(-3), strict=True):
        padded[..., rows, columns].add_(tap)
    return padded[..., vertical : vertical + height, horizontal : horizontal + width].contiguous()


class Sliding(NamedTuple):
    """How a window slides over an image: pairs (vertical, horizontal)."""

    kernel_size: Pair
    dilation: Pair
    padding: Pair
    stride: Pair

    @classmethod
    def checked(
        cls,
        kernel_size: IntOrPair,
        dilation: IntOrPair,
        padding: IntOrPair,
        stride: IntOrPair,
    ) -> "Sliding":
        return cls(
            checked_pair("kernel_size", kernel_size, least=1),
            checked_pair("dilation", dilation, least=1),
            checked_pair("padding", padding, least=0),
            checked_pair("stride", stride, least=1),
        )

    def counts(self, image_size: Sequence[int]) -> Pair:
        """(OH, OW), the number of windows on an image (H, W)."""
        rows, columns = (
            window_count(size, k, s, p, d)
            for size, k, d, p, s in zip(image_size, *self, strict=True)
        )
        return rows, columns

    def tap_slices(self, counts: Pair) -> list[tuple[slice, slice]]:
        """The rows and columns of the padded image that each tap sees, tap after tap."""
        rows, columns = (
            [slice(i * d, i * d + (count - 1) * s + 1, s) for i in range(k)]
            for count, k, d, _, s in zip(counts, *self, strict=True)
        )
        return list(product(rows, columns))


def checked_pair(name: str, value: IntOrPair, least: int) -> Pair:
    values = tuple(map(index, value)) if isinstance(value, Iterable) else (index(value),) * 2
    if len(values) != 2:
        raise RuntimeError(f"{name} should be an integer or a pair of integers, but got {value}")
    if min(values) < least:
        raise RuntimeError(f"{name} should be at least {least}, but got {value}")
    return values
