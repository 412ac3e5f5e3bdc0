"""handconv.reference against numbers worked out by hand, and against F.conv2d in float64."""

import pytest
import torch
import torch.nn.functional as F
from cases import SMALL_CASES
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from handconv import reference

every_case = pytest.mark.parametrize("case", SMALL_CASES, ids=str)
of_one_image = pytest.mark.parametrize("convolve", [reference.sliding_window, reference.flattened])


@of_one_image
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[11, 14], [20, 23]]),
        ({"bias": 100}, [[111, 114], [120, 123]]),
        ({"stride": 2}, [[11]]),
        ({"stride": (1, 2)}, [[11], [20]]),
        ({"padding": (0, 1)}, [[8, 11, 14, 3], [14, 20, 23, 6]]),
        ({"padding": 1, "stride": 3}, [[2, 0], [0, 9]]),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.complex64], ids=str)
def test_one_image_by_hand(convolve, options, expected, dtype):
    """Every window is a pixel and twice the pixel below it to the right."""
    image = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=dtype)
    kernel = torch.tensor([[1, 0], [0, 2]], dtype=dtype)
    output = convolve(image, kernel, **options)
    assert output.dtype == dtype
    assert output.tolist() == expected


@of_one_image
@pytest.mark.parametrize("stride", [1, 2, (3, 1)], ids=str)
@pytest.mark.parametrize("padding", [0, (2, 5)], ids=str)
def test_one_image(convolve, stride, padding):
    image, kernel = torch.randn(9, 8).double(), torch.randn(4, 3).double()
    bias = torch.randn(1).double()
    expected = F.conv2d(image[None, None], kernel[None, None], bias, stride, padding)
    assert_close(convolve(image, kernel, stride, padding, bias), expected[0, 0])


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "field"), [(3, 1, 3), (3, 2, 5), (3, 3, 7), (5, 4, 17), (1, 9, 1)]
)
def test_receptive_field(kernel_size, dilation, field):
    assert reference.receptive_field(kernel_size, dilation) == field
    assert field == (kernel_size - 1) * (dilation - 1) + kernel_size
    assert field == reference.footprints(1, kernel_size, dilation=dilation)[0].stop


def test_dilated_window_is_a_strided_slice():
    image = torch.arange(64).reshape(8, 8)
    assert reference.footprints(2, 3, dilation=3) == [slice(0, 7, 3), slice(1, 8, 3)]
    window = reference.windows(image, 3, dilation=3)[1][0]
    assert torch.equal(window, image[1:8:3, 0:7:3])
    assert window.data_ptr() == image[1:].data_ptr(), "a window is a view"


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ((4, 3), 2),
        ((7, 3, 2), 3),
        ((8, 3, 2), 3),  # the eighth pixel is left over
        ((5, 3, 2, 1, 2), 2),
        ((3, 3, 100), 1),
        ((1, 1, 1, 5), 11),
    ],
)
def test_output_size(arguments, size):
    assert reference.output_size(*arguments) == size


def test_output_size_without_room():
    with pytest.raises(RuntimeError, match="3 taps with dilation 2 do not fit into the 4 pixels"):
        reference.output_size(2, 3, padding=1, dilation=2)


def test_batch_and_channels():
    x, w, bias = torch.randn(2, 3, 5, 6), torch.randn(4, 3, 2, 3), torch.randn(4)
    x, w, bias = x.double(), w.double(), bias.double()
    for b in (bias, None):
        output = reference.batch_and_channels(x, w, b, stride=2, padding=(1, 0))
        assert_close(output, F.conv2d(x, w, b, stride=2, padding=(1, 0)))


@every_case
def test_conv2d(case):
    x, w, bias, _ = case.tensors(torch.float64)
    expected = F.conv2d(x, w, bias, *case.arguments)
    assert_close(reference.conv2d(x, w, bias, *case.arguments), expected)


@every_case
def test_conv_transpose2d_is_the_adjoint(case):
    """The gradient of F.conv2d with respect to its input, in the size that the stride forgot."""
    x, w, _, y = case.tensors(torch.float64)
    stride, padding, dilation, groups = case.arguments
    rest = [
        (size + 2 * p - reference.receptive_field(k, d)) % s
        for size, k, s, p, d in zip(x.shape[2:], case.kernel, *case.arguments[:3], strict=True)
    ]
    output = reference.conv_transpose2d(y, w, None, stride, padding, rest, groups, dilation)
    assert_close(output, torch.nn.grad.conv2d_input(x.shape, w, y, *case.arguments))


@pytest.mark.parametrize("output_padding", [0, 1, (2, 0), (1, 3)], ids=str)
def test_output_padding(output_padding):
    """Up to the larger of stride and dilation, so past the stride too."""
    x, w, bias = torch.randn(2, 4, 3, 5), torch.randn(4, 3, 3, 2), torch.randn(6)
    x, w, bias = x.double(), w.double(), bias.double()
    arguments = (x, w, bias, (3, 2), (1, 2), output_padding, 2, (1, 4))
    output = reference.conv_transpose2d(*arguments)
    assert_close(output, F.conv_transpose2d(*arguments))


@pytest.mark.parametrize("function", [reference.conv2d, reference.conv_transpose2d])
def test_derivatives(function):
    x = torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *a: function(*a, stride=2, padding=1, groups=2), (x, w, bias)
    )


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "function", [reference.batch_and_channels, reference.conv2d, reference.conv_transpose2d]
)
def test_dtypes(function, dtype):
    x = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4) % 3
    w = torch.arange(3 * 3 * 2 * 2).reshape(3, 3, 2, 2) % 2
    output = function(x.to(dtype), w.to(dtype))
    assert output.dtype == dtype
    assert torch.equal(output.long(), function(x, w))


@pytest.mark.parametrize(
    ("weight_shape", "groups"),
    [((4, 3, 3, 3), 1), ((4, 1, 3, 3), 1), ((63, 1, 3, 3), 4), ((4, 4, 3, 3), 2)],
    ids=str,
)
def test_mismatch(weight_shape, groups):
    x, w = torch.randn(1, 4, 5, 5), torch.randn(weight_shape)
    with pytest.raises(RuntimeError, match="do not match"):
        reference.conv2d(x, w, groups=groups)
    with pytest.raises(RuntimeError):
        F.conv2d(x, w, groups=groups)
    y = torch.randn(1, 5, 5, 5)
    with pytest.raises(RuntimeError, match="do not match"):
        reference.conv_transpose2d(y, w, groups=groups)


def test_independence():
    """No convolution of torch's, nor of this package's, is behind the functions of the page."""

    called = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(func.name())
            return func(*args, **(kwargs or {}))

    x, w = torch.randn(1, 2, 5, 5), torch.randn(4, 2, 3, 3)
    with Recorder():
        reference.conv2d(x, w)
        reference.conv_transpose2d(torch.randn(1, 4, 3, 3), w)
        reference.batch_and_channels(x, w)
        reference.flattened(x[0, 0], w[0, 0])
    assert called
    assert not [name for name in called if "conv" in name or "col" in name]
