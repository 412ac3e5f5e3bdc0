"""handconv.im2col and handconv.col2im against F.unfold and F.fold, and through every transform."""

import pytest
import torch
import torch.nn.functional as F
from cases import SMALL_CASES
from helpers import on_cpu, placed, randn, tensors_of
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

import handconv

pytestmark = pytest.mark.usefixtures("device")

right_unfold, right_fold = on_cpu(F.unfold), on_cpu(F.fold)

every_case = pytest.mark.parametrize("case", SMALL_CASES, ids=str)

# kernel_size, dilation, padding, stride
WINDOW = ((2, 3), (2, 1), (1, 2), (1, 3))
IMAGE = (3, 4)
WINDOWS = 3 * 2


def image_to_columns(x):
    return handconv.im2col(x, *WINDOW)


def columns_to_image(columns):
    return handconv.col2im(columns, IMAGE, *WINDOW)


both_ways = pytest.mark.parametrize(
    ("function", "shape"),
    [(image_to_columns, (2, 1, *IMAGE)), (columns_to_image, (2, 6, WINDOWS))],
    ids=["im2col", "col2im"],
)


def window_of(case):
    stride, padding, dilation, _ = case.arguments
    return case.kernel, dilation, padding, stride


def test_by_hand():
    """A 2x2 window on a 2x3 image: two columns, which overlap in the middle."""
    columns = handconv.im2col(placed(torch.tensor([[[1, 2, 3], [4, 5, 6]]])), 2)
    assert columns.tolist() == [[1, 2], [2, 3], [4, 5], [5, 6]]
    assert handconv.col2im(columns, (2, 3), 2).tolist() == [[[1, 4, 3], [4, 10, 6]]]


@every_case
def test_equals_unfold_and_fold(case):
    x, _, _, _ = tensors_of(case, torch.float64)
    window = window_of(case)
    columns = handconv.im2col(x, *window)
    assert columns.is_contiguous()
    assert torch.equal(columns, right_unfold(x, *window))
    image = handconv.col2im(columns, x.shape[2:], *window)
    assert image.is_contiguous()
    assert_close(image, right_fold(columns, x.shape[2:], *window))


@every_case
def test_adjoint(case):
    """<im2col(x), columns> = <x, col2im(columns)>, exactly in small integers."""
    x, _, _, _ = tensors_of(case, torch.float64, integers=True)
    window = window_of(case)
    image_columns = handconv.im2col(x, *window)
    columns = torch.randint_like(image_columns, -2, 3)
    image = handconv.col2im(columns, x.shape[2:], *window)
    assert (image_columns * columns).sum() == (x * image).sum()


def test_product_with_the_weight_is_the_convolution():
    x, w = randn(2, 3, *IMAGE).double(), randn(4, 3, 2, 3).double()
    kernel_size, dilation, padding, stride = WINDOW
    output = w.flatten(1) @ handconv.im2col(x, kernel_size, dilation, padding, stride)
    expected = on_cpu(F.conv2d)(x, w, None, stride, padding, dilation)
    assert_close(output.unflatten(-1, expected.shape[2:]), expected)


def test_without_batch():
    x = randn(3, *IMAGE)
    columns = handconv.im2col(x, *WINDOW)
    assert torch.equal(columns, right_unfold(x, *WINDOW))
    assert_close(handconv.col2im(columns, IMAGE, *WINDOW), right_fold(columns, IMAGE, *WINDOW))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.int32, torch.complex64, torch.bool], ids=str
)
def test_dtypes(dtype):
    x = (torch.arange(2 * 3 * 5 * 5) % 7 - 3).reshape(2, 3, 5, 5).to(dtype)
    x = placed(x)
    columns = handconv.im2col(x, 3, stride=2)
    assert columns.dtype == dtype
    assert columns[1, :9, 0].tolist() == x[1, 0, :3, :3].flatten().tolist()
    assert handconv.col2im(columns, 5, 3, stride=2).dtype == dtype


def test_strided_input_is_left_alone():
    x = randn(2, 6, 5, 3).permute(0, 3, 1, 2)[:, :, ::2, :]
    before = x.clone()
    assert torch.equal(handconv.im2col(x, 2), right_unfold(before, 2))
    columns = randn(8, 1, 1).expand(8, 12, 6)
    assert_close(handconv.col2im(columns, (3, 4), 2), right_fold(columns, (3, 4), 2))
    assert torch.equal(x, before)


@both_ways
def test_every_derivative(function, shape):
    a = randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        function, a, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(function, a, check_fwd_over_rev=True)


@both_ways
def test_function_transforms(function, shape):
    """Linear functions: the Jacobian is what vmap and jvp must agree with."""
    a = randn(shape, dtype=torch.float64)
    batch = randn(3, *shape, dtype=torch.float64)

    def energy(a):
        return function(a).pow(2).sum() / 2

    assert_close(vmap(function)(batch), torch.stack([function(b) for b in batch]))
    jacobian = jacrev(function)(a)
    assert_close(jacfwd(function)(a), jacobian)
    assert_close(jvp(function, (a,), (batch[0],))[1], function(batch[0]))
    assert_close(vmap(grad(energy))(batch)[1], grad(energy)(batch[1]))
    matrix = jacobian.reshape(-1, a.numel())
    assert_close(hessian(energy)(a).reshape(a.numel(), -1), matrix.T @ matrix)


def test_compile():
    """Static at the first call, with dynamic shapes at the second; aot_eager generates no code."""

    def there_and_back(x):
        return columns_to_image(image_to_columns(x).pow(2))

    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    for batch in (2, 4):
        x = randn(batch, 1, *IMAGE, dtype=torch.float64, requires_grad=True)
        output = compiled(x)
        assert_close(output, there_and_back(x))
        (gradient,) = torch.autograd.grad(output.pow(2).sum(), x)
        assert_close(gradient, torch.autograd.grad(there_and_back(x).pow(2).sum(), x)[0])


def assert_refused_alike(ours, theirs, *arguments, message=None, **options):
    """The same type of exception, and our own message."""
    with pytest.raises((RuntimeError, TypeError)) as refusal:
        theirs(*arguments, **options)
    with pytest.raises(refusal.type, match=message):
        ours(*arguments, **options)


BAD_WINDOWS = [
    {"kernel_size": 0},
    {"kernel_size": (3, -1)},
    {"kernel_size": 3, "stride": 0},
    {"kernel_size": 3, "stride": (1, -1)},
    {"kernel_size": 3, "dilation": 0},
    {"kernel_size": 3, "padding": -1},
    {"kernel_size": (3,)},
    {"kernel_size": (3, 3, 3)},
    {"kernel_size": ()},
    {"kernel_size": 3, "stride": (1, 1, 1)},
    {"kernel_size": 3.0},
    {"kernel_size": "same"},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": None},
]


@pytest.mark.parametrize("options", BAD_WINDOWS, ids=str)
def test_bad_window(options):
    assert_refused_alike(handconv.im2col, right_unfold, randn(2, 3, 6, 5), **options)
    assert_refused_alike(handconv.col2im, right_fold, randn(2, 27, 12), (6, 5), **options)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (
            (2, 3, 6, 5),
            {"kernel_size": (7, 5), "message": "7 taps .* do not fit into the 6 pixels"},
        ),
        ((2, 3, 6, 5), {"kernel_size": 3, "dilation": 3, "message": "3 taps with dilation 3"}),
        ((1, 2, 3, 6, 5), {"kernel_size": 3, "message": "Expected 3D"}),
        ((2, 0, 6, 5), {"kernel_size": 3, "message": "at least one channel"}),
        ((2, 3, 0, 5), {"kernel_size": 3, "padding": 2, "message": "one pixel"}),
        ((0, 6, 5), {"kernel_size": 3, "message": "at least one channel"}),
    ],
    ids=str,
)
def test_bad_image(shape, options):
    assert_refused_alike(handconv.im2col, right_unfold, randn(shape), **options)


def test_image_without_channels():
    with pytest.raises(RuntimeError, match=r"Expected 3D .* but got input of size: \[6, 5\]"):
        handconv.im2col(randn(6, 5), 3)


@pytest.mark.parametrize(
    ("shape", "output_size", "kernel_size", "message"),
    [
        ((2, 26, 12), (6, 5), 3, "divisible by the 9 taps"),
        ((2, 27, 11), (6, 5), 3, "6 x 5 pixels has 4 x 3 windows"),
        ((2, 27, 12), 6, 3, "6 x 6 pixels has 4 x 4 windows"),
        ((2, 27, 12), (6,), 3, "output_size should be an integer or a pair"),
        ((2, 27, 12), (6, 5, 1), 3, "output_size should be an integer or a pair"),
        ((2, 27, 12), (-6, 5), 3, "output_size should be at least 1"),
        ((2, 27, 12), (6.0, 5), 3, "'float' object cannot be interpreted as an integer"),
        ((2, 27, 12), (2, 2), 3, "3 taps with dilation 1 do not fit into the 2 pixels"),
        ((12,), (6, 5), 3, "Expected 2D"),
        ((2, 2, 27, 12), (6, 5), 3, "Expected 2D"),
        ((2, 0, 12), (6, 5), 3, "at least one row"),
        ((2, 27, 0), (6, 5), 3, "at least one row and one column"),
    ],
    ids=str,
)
def test_bad_columns(shape, output_size, kernel_size, message):
    columns = randn(shape)
    assert_refused_alike(
        handconv.col2im, right_fold, columns, output_size, kernel_size, message=message
    )
