"""The kernel matrix: convolution with a given weight, written out as the linear map that it is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from handconv.columns import IntOrPair, Pair, Sliding, checked_pair
from handconv.functional import conv2d


def kernel_matrix(
    weight: Tensor,
    input_size: IntOrPair,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    sparse: bool = False,
) -> Tensor:
    """The matrix K of the convolution of one image with `weight`.

    Each output pixel is a row and each input pixel a column; a row is an image of zeros with the
    kernel laid where that output pixel looks, flattened. A 3x3 kernel on a 4x4 image gives 4x16.

        K @ x.flatten()    is  conv2d(x, weight, None, stride, padding, dilation, groups).flatten()
        K.T @ y.flatten()  is  conv_transpose2d of y with the same arguments, in the size of x

    K.T takes gradients back through the convolution. K has OC*OH*OW * C*H*W elements, nearly all of
    them zero: beyond images of some thousand pixels only the sparse one fits into memory.

    Args:
        weight: (OC, C/groups, KH, KW), of any dtype.
        input_size: (H, W) of the image, or one integer for a square.
        stride, padding, dilation: as in `conv2d`, but padding only in numbers.
        groups: as in `conv2d`.
        sparse: return a coalesced COO tensor, which stores one element for each multiplication of
            an input pixel with a tap.

    Returns:
        (OC*OH*OW, C*H*W) in the dtype and on the device of the weight. Dense, it is differentiable
        with respect to the weight to every order, in forward mode and under torch.func.vmap too.
        Sparse, it is differentiable once in reverse mode: torch has no forward mode for sparse
        tensors and leaves terms out of their second derivatives without an error.

    Raises:
        RuntimeError: as `conv2d` with an input of this size.
        TypeError: an argument that is not made of integers.
    """
    if weight.dim() != 4:
        raise RuntimeError(f"Expected 4D weight, but got weight of size: {list(weight.shape)}")
    height, width = checked_pair("input_size", input_size, least=1)
    channels = weight.shape[1] * groups
    # A convolution of tensors without data checks the arguments.
    image = torch.empty(1, channels, height, width, device="meta")
    kernels = torch.empty(weight.shape, device="meta")
    output = conv2d(image, kernels, None, stride, padding, dilation, groups)
    sliding = Sliding.checked(weight.shape[2:], dilation, padding, stride)

    rows, columns, taps = _products(weight.shape, (height, width), sliding, groups, weight.device)
    values = weight.flatten()[taps]
    shape = (output.numel(), image.numel())
    if sparse:
        # The products come in order of rows, then columns, and no two share both.
        return torch.sparse_coo_tensor(
            torch.stack((rows, columns)), values, shape, is_coalesced=True, check_invariants=False
        )
    return weight.new_zeros(shape).index_put((rows, columns), values)


def _products(
    weight_shape: Sequence[int],
    input_size: Pair,
    sliding: Sliding,
    groups: int,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Every product of a pixel and a tap in the convolution of one image: its row, column and tap.

    Three vectors of flat indices: into the output (OC, OH, OW), into the input (C, H, W) and into
    the weight. Taps that fall into the padding are left out.
    """
    out_channels, group_channels, kernel_height, kernel_width = weight_shape
    height, width = input_size
    output_height, output_width = sliding.counts(input_size)
    # The definition of convolution has six indices; each gets an axis.
    extents = (out_channels, output_height, output_width, group_channels, *sliding.kernel_size)
    o, p, q, c, i, j = torch.meshgrid(
        *(torch.arange(extent, device=device) for extent in extents), indexing="ij"
    )
    y = p * sliding.stride[0] + i * sliding.dilation[0] - sliding.padding[0]
    x = q * sliding.stride[1] + j * sliding.dilation[1] - sliding.padding[1]
    channel = o // (out_channels // groups) * group_channels + c

    row = (o * output_height + p) * output_width + q
    column = (channel * height + y) * width + x
    tap = ((o * group_channels + c) * kernel_height + i) * kernel_width + j
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return row[inside], column[inside], tap[inside]
