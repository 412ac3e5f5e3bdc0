"""What handconv is for: every convolution that the lessons on writing conv2d by hand build.

One section for each lesson, each through the public functions and every algorithm. The oracle is
F.conv2d in float64 on contiguous tensors, on the CPU.
"""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from helpers import ALGORITHMS, on_cpu, placed
from helpers import randn as float32_randn
from torch.testing import assert_close

import handconv
from handconv import reference

pytestmark = pytest.mark.usefixtures("device")

right_conv2d, right_conv_transpose2d = on_cpu(F.conv2d), on_cpu(F.conv_transpose2d)

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
every_layout = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"]
)


def randn(*shape):
    return float32_randn(shape, dtype=torch.float64)


# 1. A window slides over one image: padding, stride, bias.


@every_algorithm
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), ((1, 3), (2, 0))], ids=str)
def test_1_sliding_window(algorithm, stride, padding):
    image, kernel, bias = randn(9, 8), randn(3, 3), randn(1)
    expected = right_conv2d(image[None, None], kernel[None, None], bias, stride, padding)
    output = handconv.conv2d(
        image[None], kernel[None, None], bias, stride, padding, algorithm=algorithm
    )
    assert_close(output, expected[0])
    assert_close(reference.sliding_window(image, kernel, stride, padding, bias), expected[0, 0])


# 2. The same as an inner product of flattened regions with the flattened kernel.


def test_2_inner_product():
    image, kernel = randn(7, 6), randn(3, 2)
    expected = right_conv2d(image[None, None], kernel[None, None], None, 2, 1)[0, 0]
    assert_close(reference.flattened(image, kernel, stride=2, padding=1), expected)
    regions = handconv.im2col(image[None], (3, 2), stride=2, padding=1).T
    assert regions.shape == (expected.numel(), 6)
    assert_close((regions @ kernel.flatten()).view_as(expected), expected)


# 3. Batch and channels.


@every_algorithm
@every_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_3_batch_and_channels(algorithm, layout, dtype):
    x, w, bias = randn(2, 3, 8, 9), randn(5, 3, 3, 3), randn(5)
    expected = right_conv2d(x, w, bias, padding=1)
    output = handconv.conv2d(
        x.to(dtype, memory_format=layout),
        w.to(dtype),
        bias.to(dtype),
        padding=1,
        algorithm=algorithm,
    )
    assert output.is_contiguous(memory_format=layout)
    assert_close(output, expected.to(dtype))
    assert_close(reference.batch_and_channels(x, w, bias, padding=1), expected)


# 4. The kernel matrix; its transpose is conv_transpose2d, and is the backward.


@every_algorithm
def test_4_kernel_matrix(algorithm):
    x, y = randn(1, 1, 4, 4).requires_grad_(), randn(1, 1, 2, 2)
    w = randn(1, 1, 3, 3)
    matrix = handconv.kernel_matrix(w, (4, 4))
    assert matrix.shape == (4, 16)

    output = handconv.conv2d(x, w, algorithm=algorithm)
    assert_close(output.flatten(), matrix @ x.flatten())
    assert_close(output, right_conv2d(x, w))

    transposed = handconv.conv_transpose2d(y, w, algorithm=algorithm)
    assert_close(transposed.flatten(), matrix.T @ y.flatten())
    assert_close(transposed, right_conv_transpose2d(y, w))

    (gradient,) = torch.autograd.grad(output, x, y)
    assert torch.equal(gradient, transposed)


# 5. Dilation: strided slices, and the receptive field (k-1)*(d-1) + k.


@every_algorithm
def test_5_dilation(algorithm):
    x, w = randn(1, 1, 7, 7), randn(1, 1, 3, 3)
    assert reference.receptive_field(3, 3) == (3 - 1) * (3 - 1) + 3 == 7
    output = handconv.conv2d(x, w, dilation=3, algorithm=algorithm)
    assert output.shape == (1, 1, 1, 1)
    assert_close(output.squeeze(), (x[0, 0, 0:7:3, 0:7:3] * w[0, 0]).sum())

    x = randn(2, 3, 12, 15)
    w = randn(4, 3, 3, 2)
    output = handconv.conv2d(x, w, dilation=(2, 5), padding=(1, 4), algorithm=algorithm)
    assert_close(output, right_conv2d(x, w, dilation=(2, 5), padding=(1, 4)))


# 6. Groups: split the channels, convolve apart, concatenate; a 1x1 convolution mixes them.


@every_algorithm
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_6_groups(algorithm, groups):
    x, w, mix = randn(2, 6, 7, 8), randn(12, 6 // groups, 3, 3), randn(5, 12, 1, 1)
    apart = [
        handconv.conv2d(some_x, some_w, algorithm=algorithm)
        for some_x, some_w in zip(x.chunk(groups, 1), w.chunk(groups, 0), strict=True)
    ]
    output = handconv.conv2d(x, w, groups=groups, algorithm=algorithm)
    assert_close(output, torch.cat(apart, dim=1))
    assert_close(output, right_conv2d(x, w, groups=groups))
    mixed = handconv.conv2d(output, mix, algorithm=algorithm)
    assert_close(mixed, torch.einsum("nchw,oc->nohw", output, mix.squeeze()))


# 7. All of it in one function.


@every_algorithm
@every_layout
def test_7_everything(algorithm, layout):
    x, w, bias = randn(2, 2, 5, 5), randn(4, 1, 3, 3), randn(4)
    arguments = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}
    expected = right_conv2d(x, w, bias, **arguments)
    assert torch.allclose(reference.conv2d(x, w, bias, **arguments), expected)
    placed = x.to(memory_format=layout)
    assert torch.allclose(
        handconv.conv2d(placed, w, bias, **arguments, algorithm=algorithm), expected
    )


# 8. The size of the output is rounded down.


@every_algorithm
@pytest.mark.parametrize("size", [7, 8, 9, 10])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 2, 0, 1), (2, 3, 1, 2), (1, 4, 0, 1), (3, 2, 3, 3)],
)
def test_8_output_size(algorithm, size, kernel, stride, padding, dilation):
    x, w = randn(1, 1, size, size + 1), randn(1, 1, kernel, kernel)
    output = handconv.conv2d(x, w, None, stride, padding, dilation, algorithm=algorithm)
    height, width = (
        int((length + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1)
        for length in (size, size + 1)
    )
    assert output.shape == (1, 1, height, width)
    assert_close(output, right_conv2d(x, w, None, stride, padding, dilation))


# 9. Depthwise with a multiplier, and which channel goes where.


@every_algorithm
@every_layout
def test_9_depthwise_order(algorithm, layout):
    """Input channel i makes the output channels i*k ... i*k + k - 1."""
    channels, multiplier = 5, 3
    x = placed(torch.arange(1.0, channels + 1)).reshape(1, channels, 1, 1).expand(2, -1, 4, 6)
    w = placed(10.0 ** torch.arange(multiplier).repeat(channels).reshape(-1, 1, 1, 1))
    output = handconv.conv2d(
        x.contiguous(memory_format=layout), w, groups=channels, algorithm=algorithm
    )
    expected = [i * 10.0**m for i in range(1, channels + 1) for m in range(multiplier)]
    assert output[1, :, 2, 3].tolist() == expected


@every_algorithm
@every_layout
@pytest.mark.parametrize("multiplier", [1, 2, 4])
def test_9_depthwise(algorithm, layout, multiplier):
    x, w = randn(2, 6, 9, 10), randn(6 * multiplier, 1, 3, 3)
    output = handconv.conv2d(
        x.to(memory_format=layout), w, padding=1, groups=6, algorithm=algorithm
    )
    assert_close(output, right_conv2d(x, w, padding=1, groups=6))


@every_algorithm
@every_layout
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
def test_9_zero_and_45(algorithm, layout, dtype):
    """Two groups on an image of ones, the first kernel all 0 and the second all 1."""
    x = placed(torch.ones(1, 10, 7, 7, dtype=dtype).contiguous(memory_format=layout))
    w = placed(torch.zeros(2, 5, 3, 3, dtype=dtype))
    w[1] = 1
    output = handconv.conv2d(x, w, groups=2, algorithm=algorithm)
    assert output.shape == (1, 2, 5, 5)
    assert (output[:, 0] == 0).all()
    assert (output[:, 1] == 45).all()


# 10. Rectangles, many groups, and what is refused.


@cache
def rectangles():
    x, w = torch.randn(22, 1024, 18, 19), torch.randn(64, 16, 6, 3)
    return x, w, F.conv2d(x.double(), w.double(), padding=(1, 0), groups=64)


@every_algorithm
@every_layout
def test_10_rectangular_kernel_in_64_groups(algorithm, layout):
    x, w, expected = placed(rectangles())
    x = x.contiguous(memory_format=layout)
    output = handconv.conv2d(x, w, padding=(1, 0), groups=64, algorithm=algorithm)
    assert output.shape == (22, 64, 15, 17)
    assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)


@every_algorithm
@pytest.mark.parametrize(
    ("weight_shape", "groups", "message"),
    [
        ((63, 16, 6, 3), 64, "expected weight to be at least 64 at dimension 0"),
        ((63, 16, 6, 3), 2, "expected weight to be divisible by 2 at dimension 0"),
        ((64, 17, 6, 3), 64, "to have 1088 channels, but got 1024 channels instead"),
        ((64, 16, 6, 3), 1, "to have 16 channels, but got 1024 channels instead"),
        ((64, 16, 21, 3), 64, "Kernel size can't be greater than actual input size"),
    ],
    ids=str,
)
def test_10_refusals(algorithm, weight_shape, groups, message):
    x, w = float32_randn(2, 1024, 18, 19), float32_randn(weight_shape)
    with pytest.raises(RuntimeError, match=message):
        handconv.conv2d(x, w, padding=(1, 0), groups=groups, algorithm=algorithm)
    with pytest.raises(RuntimeError, match=message):
        right_conv2d(x, w, padding=(1, 0), groups=groups)
