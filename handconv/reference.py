"""Convolution by hand, in six short lessons: the page to read first.

Each lesson adds one thing to those before it: the window, the size of the output, the inner
product, channels, groups, the way back. Nothing here is fast. All of it is plain torch arithmetic
in the dtype of its operands, differentiable, and independent of the kernels of this package, which
the tests compare with `conv2d` and `conv_transpose2d` below.

Shapes, named alike in the whole package: N samples, C input channels of H x W pixels, OC output
channels of OH x OW pixels, KH x KW taps of a kernel, G groups. As everywhere in deep learning,
"convolution" means correlation: the kernel is not flipped.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "batch_and_channels",
    "conv2d",
    "conv_transpose2d",
    "flattened",
    "footprints",
    "output_size",
    "receptive_field",
    "sliding_window",
    "windows",
]

IntOrPair = int | Sequence[int]


# Lesson 1: slide a window over an image.


def sliding_window(
    image: Tensor,
    kernel: Tensor,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    bias: Tensor | float | None = None,
) -> Tensor:
    """Slides one kernel (KH, KW) over one image (H, W); the result is (OH, OW).

        output[p, q] = bias + sum over i, j of image[p*stride + i, q*stride + j] * kernel[i, j]

    where the image is first framed by `padding` rows and columns of zeros on every side.
    """
    image = _framed(image, padding)
    (height, width), (kernel_height, kernel_width) = image.shape, kernel.shape
    stride_height, stride_width = _pair(stride)

    output = image.new_zeros(
        output_size(height, kernel_height, stride_height),
        output_size(width, kernel_width, stride_width),
    )
    for p in range(output.shape[0]):
        for q in range(output.shape[1]):
            top, left = p * stride_height, q * stride_width
            window = image[top : top + kernel_height, left : left + kernel_width]
            output[p, q] = (window * kernel).sum()
    return output if bias is None else output + bias


# Lesson 2: spread the taps, and count the windows.


def receptive_field(kernel_size: int, dilation: int = 1) -> int:
    """The pixels that a kernel spans along one axis: (k - 1) * d + 1.

    Between k taps there are k - 1 steps of d pixels; three taps with dilation 3 span 7. It is the
    same number as (k - 1) * (d - 1) + k: the k taps, and d - 1 skipped pixels in each gap.
    """
    return (kernel_size - 1) * dilation + 1


def output_size(
    input_size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int:
    """The windows along one axis: floor((H + 2p - d*(k - 1) - 1) / s + 1), always rounded down.

    A window that would hang over the far edge is left out, and so are the pixels that only it would
    have seen. RuntimeError where not even one window fits.
    """
    room = input_size + 2 * padding - receptive_field(kernel_size, dilation)
    if room < 0:
        raise RuntimeError(
            f"{kernel_size} taps with dilation {dilation} do not fit into the "
            f"{input_size + 2 * padding} pixels of the padded input"
        )
    return room // stride + 1


def footprints(count: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> list[slice]:
    """Along one axis, the pixels under the taps for each of `count` output pixels.

    Dilation is the step of the slice: three taps with dilation 3 see `a[0:7:3]`, then `a[1:8:3]`.
    """
    field = receptive_field(kernel_size, dilation)
    return [slice(p * stride, p * stride + field, dilation) for p in range(count)]


def windows(
    image: Tensor, kernel_size: IntOrPair, stride: IntOrPair = 1, dilation: IntOrPair = 1
) -> list[list[Tensor]]:
    """An image (..., H, W) as the kernel sees it: [p][q] is the window (..., KH, KW) of (p, q)."""
    rows, columns = (
        footprints(output_size(size, k, s, dilation=d), k, s, d)
        for size, k, s, d in zip(
            image.shape[-2:], _pair(kernel_size), _pair(stride), _pair(dilation), strict=True
        )
    )
    return [[image[..., row, column] for column in columns] for row in rows]


# Lesson 3: the same as an inner product.


def flattened(
    image: Tensor,
    kernel: Tensor,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    bias: Tensor | float | None = None,
) -> Tensor:
    """`sliding_window` as one product of a matrix and a vector.

        output.flatten() = bias + regions @ kernel.flatten()

    Row p*OW + q of `regions` (OH*OW, KH*KW) is the flattened window of output pixel (p, q).
    """
    grid = windows(_framed(image, padding), kernel.shape, stride)
    regions = torch.stack([window.flatten() for row in grid for window in row])
    output = (regions @ kernel.flatten()).reshape(len(grid), len(grid[0]))
    return output if bias is None else output + bias


# Lesson 4: many images, many channels, many kernels.


def batch_and_channels(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
) -> Tensor:
    """Every image of a batch (N, C, H, W) under every kernel of a bank (OC, C, KH, KW).

        output[n, o] = bias[o] + sum over c of sliding_window(input[n, c], weight[o, c])

    A kernel has one slice for each input channel and makes one output channel; the samples of a
    batch never meet. The result is (N, OC, OH, OW).
    """
    if bias is None:
        bias = weight.new_zeros(len(weight))
    return torch.stack(
        [
            torch.stack(
                [
                    sum(
                        (
                            sliding_window(plane, plane_kernel, stride, padding)
                            for plane, plane_kernel in zip(image, kernel, strict=True)
                        ),
                        start=offset,
                    )
                    for kernel, offset in zip(weight, bias, strict=True)
                ]
            )
            for image in input
        ]
    )


# Lesson 5: all of it in one function, and groups.


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolves (N, C, H, W) with (OC, C/G, KH, KW) to (N, OC, OH, OW), as F.conv2d does.

    The channels are split into groups, each group is convolved with its own OC/G kernels as if it
    were alone, and the results are concatenated. Within one group

        output[n, o, p, q] = bias[o] + sum over c, i, j of
            input[n, c, p*stride + i*dilation - padding, q*stride + j*dilation - padding]
            * weight[o, c, i, j]

    where pixels outside the input are zero. With G = C every channel is alone: this is depthwise
    convolution. With k kernels each, input channel c makes the output channels c*k ... c*k + k - 1;
    a 1x1 convolution afterwards mixes them.

    RuntimeError where the channels, kernels and groups do not match, or no window fits.
    """
    if input.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups != 0:
        raise RuntimeError(_mismatch(input, weight, groups))
    # To split, convolve apart and concatenate is to have one more axis g that both operands share.
    image = torch.unflatten(_framed(input, padding), 1, (groups, -1))
    kernel = torch.unflatten(weight, 0, (groups, -1))
    output = torch.stack(
        [
            torch.stack([torch.einsum("ngcij,gocij->ngo", w, kernel) for w in row], dim=-1)
            for row in windows(image, weight.shape[-2:], stride, dilation)
        ],
        dim=-2,
    ).flatten(1, 2)
    return output if bias is None else output + bias.reshape(-1, 1, 1)


# Lesson 6: the way back.


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
) -> Tensor:
    """Takes (N, C, H, W) and (C, OC/G, KH, KW) to (N, OC, OH, OW), as F.conv_transpose2d does.

    `conv2d` gathers each window into one pixel; this scatters each pixel over its window:

        framed output, window of (p, q)  +=  input[p, q] * kernel

    and then takes the frame of `padding` pixels off. `conv2d` is linear in its input, a matrix with
    one row for each output pixel; this is the transposed matrix, made of the same weight. So it is
    the gradient of `conv2d` with respect to its input: <y, conv2d(x)> = <conv_transpose2d(y), x>.

        OH = (H - 1)*stride - 2*padding + (KH - 1)*dilation + 1 + output_padding

    A strided convolution gives many input sizes the same output size; `output_padding` rows and
    columns at the far edge, which no window covers, tell them apart on the way back.

    RuntimeError where the channels, kernels and groups do not match.
    """
    if input.shape[1] != weight.shape[0] or weight.shape[0] % groups != 0:
        raise RuntimeError(_mismatch(input, weight, groups))
    image = torch.unflatten(input, 1, (groups, -1))
    kernel = torch.unflatten(weight, 0, (groups, -1))

    rows, columns = (
        footprints(count, k, s, d)
        for count, k, s, d in zip(
            input.shape[-2:], weight.shape[-2:], _pair(stride), _pair(dilation), strict=True
        )
    )
    extra_rows, extra_columns = _pair(output_padding)
    height, width = rows[-1].stop + extra_rows, columns[-1].stop + extra_columns
    canvas = input.new_zeros(*image.shape[:2], weight.shape[1], height, width)
    for p, row in enumerate(rows):
        for q, column in enumerate(columns):
            spread = torch.einsum("ngc,gcoij->ngoij", image[..., p, q], kernel)
            canvas[..., row, column] += spread

    top, left = _pair(padding)
    output = canvas[..., top : height - top, left : width - left].flatten(1, 2)
    return output if bias is None else output + bias.reshape(-1, 1, 1)


def _pair(value: IntOrPair) -> tuple[int, int]:
    """The (vertical, horizontal) values of an argument that may be one number for both."""
    if isinstance(value, int):
        return value, value
    vertical, horizontal = value
    return vertical, horizontal


def _framed(image: Tensor, padding: IntOrPair) -> Tensor:
    """The image (..., H, W) in a frame of zeros: (..., H + 2*padding, W + 2*padding)."""
    vertical, horizontal = _pair(padding)
    return F.pad(image, (horizontal, horizontal, vertical, vertical))


def _mismatch(input: Tensor, weight: Tensor, groups: int) -> str:
    return (
        f"input {list(input.shape)} and weight {list(weight.shape)} do not match in {groups} groups"
    )
