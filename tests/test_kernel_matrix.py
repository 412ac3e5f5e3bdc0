"""handconv.kernel_matrix against F.conv2d in float64, by hand, and through every transform."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import SMALL_CASES
from helpers import on_cpu, placed, randn, tensors_of
from torch.func import grad, hessian, jvp, vmap
from torch.testing import assert_close

import handconv

pytestmark = pytest.mark.usefixtures("device")

# Elements: the other cases have matrices of up to 58 million, with up to 5 million products.
LARGEST_DENSE = 1_000_000
LARGEST_SPARSE = 200_000

CASES = [
    case
    for case in SMALL_CASES
    if math.prod(case.weight_shape) * math.prod(case.output_size) <= LARGEST_SPARSE
]


def test_by_hand():
    """Lesson: 3x3 on 4x4 gives 4x16."""
    matrix = handconv.kernel_matrix(placed(torch.arange(1, 10).reshape(1, 1, 3, 3)), 4)
    assert matrix.tolist() == [
        [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 0, 0, 0, 0],
        [0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0],
        [0, 0, 0, 0, 0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9],
    ]


def test_padding_and_groups_by_hand():
    """A 1x2 kernel on two channels of two pixels: padding cuts rows off, groups make blocks."""
    weight = placed(torch.tensor([[[[1, 2]]], [[[3, 4]]]]))
    matrix = handconv.kernel_matrix(weight, (1, 2), padding=(0, 1), groups=2)
    assert matrix.tolist() == [
        [2, 0, 0, 0],
        [1, 2, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 4, 0],
        [0, 0, 3, 4],
        [0, 0, 0, 3],
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_the_convolution_and_its_transpose(case):
    x, w, _, y = tensors_of(case, torch.float64)
    size = (case.H, case.W)
    matrix = handconv.kernel_matrix(w, size, *case.arguments, sparse=True)
    rows, columns = math.prod(y.shape[1:]), math.prod(x.shape[1:])
    assert matrix.shape == (rows, columns)

    output = (matrix @ x.reshape(case.N, columns).T).T.reshape(y.shape)
    assert_close(output, on_cpu(F.conv2d)(x, w, None, *case.arguments))
    back = (matrix.T @ y.reshape(case.N, rows).T).T.reshape(x.shape)
    assert_close(back, on_cpu(torch.nn.grad.conv2d_input)(x.shape, w, y, *case.arguments))

    if matrix.numel() <= LARGEST_DENSE:
        dense = handconv.kernel_matrix(w, size, *case.arguments)
        assert torch.equal(dense, matrix.to_dense())


def test_transpose_is_conv_transpose2d():
    """With the output_padding that brings back the rows and columns that the stride left over."""
    w, y = randn(4, 3, 3, 2).double(), randn(4, 3, 5).double()
    matrix = handconv.kernel_matrix(w, (8, 9), stride=(3, 2), padding=1, groups=2)
    for conv_transpose2d in (on_cpu(F.conv_transpose2d), handconv.conv_transpose2d):
        back = conv_transpose2d(y, w, None, (3, 2), 1, output_padding=(1, 1), groups=2)
        assert_close(matrix.T @ y.flatten(), back.flatten())


def test_sparse_is_coalesced():
    w = randn(4, 2, 3, 3)
    matrix = handconv.kernel_matrix(w, (5, 6), padding=1, groups=2, sparse=True)
    assert matrix.is_coalesced()
    parts = (matrix.indices(), matrix.values(), matrix.shape)
    again = torch.sparse_coo_tensor(*parts, check_invariants=True).coalesce()
    assert torch.equal(again.indices(), matrix.indices())
    assert torch.equal(again.values(), matrix.values())


def test_photograph_fits_into_memory_when_sparse():
    matrix = handconv.kernel_matrix(randn(1, 1, 3, 3), (300, 256), padding=1, sparse=True)
    assert matrix.shape == (300 * 256, 300 * 256)
    assert matrix.values().numel() == (3 * 300 - 2) * (3 * 256 - 2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bfloat16, torch.complex64], ids=str)
def test_dtypes(dtype):
    w = placed(torch.arange(8).reshape(2, 1, 2, 2).to(dtype))
    matrix = handconv.kernel_matrix(w, 3)
    assert matrix.dtype == dtype
    assert matrix[4].tolist() == [4, 5, 0, 6, 7, 0, 0, 0, 0]


def test_strided_weight():
    w = randn(2, 3, 3, 4).permute(3, 2, 0, 1)
    expected = handconv.kernel_matrix(w.contiguous(), (4, 5))
    assert torch.equal(handconv.kernel_matrix(w, (4, 5)), expected)


def padded_matrix(w, sparse=False):
    return handconv.kernel_matrix(w, (3, 4), (1, 2), (1, 0), (2, 1), groups=2, sparse=sparse)


def test_derivatives_of_the_dense_matrix():
    w = randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        padded_matrix, w, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(lambda w: padded_matrix(w).pow(3), w)


def test_function_transforms_of_the_dense_matrix():
    batch = randn(3, 2, 2, 2, 3, dtype=torch.float64)

    def energy(w):
        return padded_matrix(w).pow(2).sum() / 2

    assert_close(vmap(padded_matrix)(batch), torch.stack([padded_matrix(w) for w in batch]))
    assert_close(jvp(padded_matrix, (batch[0],), (batch[1],))[1], padded_matrix(batch[1]))
    assert_close(vmap(grad(energy))(batch)[2], grad(energy)(batch[2]))
    uses = hessian(energy)(batch[0]).reshape(24, 24)
    assert torch.equal(uses, uses.diag().diag()), "each element of K comes from one tap"


def test_first_derivative_of_the_sparse_matrix():
    w = randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    x = randn(48, dtype=torch.float64, requires_grad=True)
    y = randn(len(padded_matrix(w)), dtype=torch.float64, requires_grad=True)
    for product in (
        lambda w, x, y: padded_matrix(w, sparse=True) @ x,
        lambda w, x, y: padded_matrix(w, sparse=True).T @ y,
    ):
        assert torch.autograd.gradcheck(product, (w, x, y))


@pytest.mark.parametrize(
    ("weight_shape", "input_size", "options", "message"),
    [
        ((4, 2, 3), 5, {}, r"Expected 4D weight, but got weight of size: \[4, 2, 3\]"),
        ((4, 2, 3, 3), (2, 9), {}, r"Calculated padded input size per channel: \(2 x 9\)"),
        ((4, 2, 3, 3), 6, {"dilation": 3}, r"Kernel size: \(7 x 7\)"),
        ((4, 2, 3, 3), 5, {"groups": 3}, "expected weight to be divisible by 3 at dimension 0"),
        ((4, 2, 3, 3), 5, {"groups": 5}, "expected weight to be at least 5 at dimension 0"),
        ((4, 2, 3, 3), 5, {"groups": 0}, "non-positive groups is not supported"),
        ((4, 2, 3, 3), 5, {"stride": 0}, "non-positive stride is not supported"),
        ((4, 2, 3, 3), 5, {"padding": (0, -1)}, "negative padding is not supported"),
        ((4, 2, 3, 3), 5, {"dilation": 0}, "dilation should be greater than zero"),
        ((4, 2, 3, 3), 5, {"stride": (1, 1, 1)}, "expected stride to be a single integer value"),
        ((4, 2, 0, 3), 5, {}, "kernel size should be greater than zero"),
        ((4, 2, 3, 3), (5, 5, 5), {}, "input_size should be an integer or a pair"),
        ((4, 2, 3, 3), (5, 0), {}, "input_size should be at least 1"),
    ],
)
def test_refusals(weight_shape, input_size, options, message):
    with pytest.raises(RuntimeError, match=message):
        handconv.kernel_matrix(randn(weight_shape), input_size, **options)


@pytest.mark.parametrize(
    "options", [{"stride": 1.5}, {"padding": "same"}, {"groups": 1.0}], ids=str
)
def test_wrong_types(options):
    with pytest.raises(TypeError):
        handconv.kernel_matrix(randn(4, 2, 3, 3), 5, **options)
