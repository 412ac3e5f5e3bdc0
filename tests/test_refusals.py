"""Bad calls: handconv refuses them as torch does, one by one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy
import pytest
import torch
from against_torch import FUNCTIONS, W, X, by_function, randn
from helpers import by_algorithm, operation, placed, raised
from torch import Tensor

import handconv

pytestmark = pytest.mark.usefixtures("device")


class Refused(NamedTuple):
    """A bad call, and words that must be in the messages of both libraries."""

    words: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any] = {}  # noqa: RUF012
    type: type[Exception] = RuntimeError


X32, W32 = X.float(), W.float()
PAIR = "to be a single integer value or a list of 2 values to match the convolution dimensions"
INTEGER = 2**62

CONV2D_REFUSES = {
    "two dimensions": Refused(
        "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [6, 6]",
        (randn(6, 6), W),
    ),
    "five dimensions": Refused(
        "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: "
        "[1, 2, 4, 6, 6]",
        (randn(1, 2, 4, 6, 6), W),
    ),
    "no dimensions": Refused("input to conv2d, but got input of size: []", (randn(), W)),
    "three strides": Refused(
        f"expected stride {PAIR}, but got stride=[1, 1, 1]", (X, W), {"stride": [1, 1, 1]}
    ),
    "no strides": Refused(f"expected stride {PAIR}, but got stride=[]", (X, W), {"stride": []}),
    "three paddings": Refused(
        f"expected padding {PAIR}, but got padding=[1, 1, 1]", (X, W), {"padding": (1, 1, 1)}
    ),
    "three dilations": Refused(
        f"expected dilation {PAIR}, but got dilation=[2, 2, 2]", (X, W), {"dilation": (2, 2, 2)}
    ),
    "channels": Refused(
        "Given groups=1, weight of size [4, 3, 3, 3], expected input[2, 4, 6, 6] to have 3 "
        "channels, but got 4 channels instead",
        (X, randn(4, 3, 3, 3)),
    ),
    "channels of groups": Refused(
        "Given groups=2, weight of size [4, 4, 3, 3], expected input[2, 4, 6, 6] to have 8 "
        "channels, but got 4 channels instead",
        (X, W),
        {"groups": 2},
    ),
    "output channels not divisible": Refused(
        "Given groups=3, expected weight to be divisible by 3 at dimension 0, but got weight of "
        "size [[4, 4, 3, 3]] instead",
        (X, W),
        {"groups": 3},
    ),
    "63 output channels in 64 groups": Refused(
        "Given groups=64, expected weight to be at least 64 at dimension 0, but got weight of "
        "size [63, 16, 6, 3] instead",
        (randn(1, 1024, 6, 3), randn(63, 16, 6, 3)),
        {"groups": 64},
    ),
    "mismatched channels in 64 groups": Refused(
        "Given groups=64, weight of size [64, 15, 6, 3], expected input[1, 1024, 6, 3] to have "
        "960 channels, but got 1024 channels instead",
        (randn(1, 1024, 6, 3), randn(64, 15, 6, 3)),
        {"groups": 64},
    ),
    "no groups": Refused("non-positive groups is not supported", (X, W), {"groups": 0}),
    "negative groups": Refused("non-positive groups is not supported", (X, W), {"groups": -1}),
    "negative padding": Refused("negative padding is not supported", (X, W), {"padding": (0, -1)}),
    "stride 0": Refused("non-positive stride is not supported", (X, W), {"stride": (1, 0)}),
    "negative stride": Refused("non-positive stride is not supported", (X, W), {"stride": -1}),
    "dilation 0": Refused("dilation should be greater than zero", (X, W), {"dilation": (0, 1)}),
    "negative dilation": Refused("dilation should be greater than zero", (X, W), {"dilation": -1}),
    "kernel too large": Refused(
        "Calculated padded input size per channel: (6 x 8). Kernel size: (7 x 3). Kernel size "
        "can't be greater than actual input size",
        (X, randn(4, 4, 7, 3)),
        {"padding": (0, 1)},
    ),
    "dilated kernel too large": Refused(
        "Calculated padded input size per channel: (6 x 6). Kernel size: (3 x 7). Kernel size "
        "can't be greater than actual input size",
        (X, W),
        {"dilation": (1, 3)},
    ),
    "empty kernel": Refused(
        "kernel size should be greater than zero, but got kernel_height: 0 kernel_width: 3",
        (X, randn(4, 4, 0, 3)),
    ),
    "absurd padding": Refused(
        "Given padding=4611686018427387904 at dimension 0 , expected padding to be at most "
        "4611686018427387903",
        (X, W),
        {"padding": INTEGER},
    ),
    "bias too long": Refused(
        "Given weight of size [4, 4, 3, 3], expected bias to be 1-dimensional with 4 elements, "
        "but got bias of size [5] instead",
        (X, W, randn(5)),
    ),
    "bias with two dimensions": Refused(
        "expected bias to be 1-dimensional with 4 elements, but got bias of size [4, 1] instead",
        (X, W, randn(4, 1)),
    ),
    "type of the bias": Refused(
        "Input type (float) and bias type (double) should be the same", (X32, W32, randn(4))
    ),
    "type of the weight": Refused("should be the same", (X32, W)),
    "type of the weight, 16 bits": Refused("should be the same", (X32, W.bfloat16())),
    "'same' with a stride": Refused(
        "padding='same' is not supported for strided convolutions",
        (X, W),
        {"padding": "same", "stride": (1, 2)},
    ),
    "'same' with dilation 0": Refused(
        "dilation should be greater than zero", (X, W), {"padding": "same", "dilation": 0}
    ),
    # torch blames the padding if the kernel is odd; handconv the dilation in either case.
    "'same' with a negative dilation": Refused(
        "dilation should be greater than zero",
        (X, randn(4, 4, 2, 2)),
        {"padding": "same", "dilation": -1},
    ),
    "'same' with an empty kernel": Refused(
        "kernel size should be greater than zero, but got kernel_height: 0 kernel_width: 2",
        (X, randn(4, 4, 0, 2)),
        {"padding": "same"},
    ),
    "'full'": Refused("Invalid padding string: 'full'", (X, W), {"padding": "full"}),
    "'SAME'": Refused("Invalid padding string: 'SAME'", (X, W), {"padding": "SAME"}),
    "no pixels": Refused(
        "Only zero batch or zero channel inputs are supported, but got input shape: [1, 4, 0, 8]",
        (randn(1, 4, 0, 8), W),
        {"padding": 2},
    ),
    "no samples, wrong channels": Refused(
        "expected input[0, 3, 6, 6] to have 4 channels, but got 3 channels instead",
        (randn(0, 3, 6, 6), W),
    ),
    "no output channels": Refused(
        "Given groups=1, expected weight to be at least 1 at dimension 0, but got weight of size "
        "[0, 4, 3, 3] instead",
        (X, randn(0, 4, 3, 3)),
    ),
    "bool": Refused("not implemented for", (X.bool(), W.bool()), {}, NotImplementedError),
    "float8": Refused(
        "not implemented for",
        (X.to(torch.float8_e5m2), W.to(torch.float8_e5m2)),
        {},
        NotImplementedError,
    ),
    "no weight": Refused("conv2d", (X, None), {}, TypeError),
    "a list": Refused("conv2d", ([[1.0]], W), {}, TypeError),
    "a number for the bias": Refused("conv2d", (X, W, 1.0), {}, TypeError),
    "a broken stride": Refused("conv2d", (X, W), {"stride": 1.5}, TypeError),
    "a broken dilation": Refused("conv2d", (X, W), {"dilation": (1, 1.5)}, TypeError),
    "no padding": Refused("conv2d", (X, W), {"padding": None}, TypeError),
    "broken groups": Refused("conv2d", (X, W), {"groups": 1.0}, TypeError),
    "groups in words": Refused("conv2d", (X, W), {"groups": "2"}, TypeError),
    "True for an integer": Refused("conv2d", (X, W), {"stride": True}, TypeError),
    "an unknown argument": Refused("conv2d", (X, W), {"strides": 1}, TypeError),
    "no second tensor": Refused("conv2d", (X,), {}, TypeError),
}

XT, WT = randn(2, 4, 5, 5), randn(4, 2, 3, 3)
CONV_TRANSPOSE2D_REFUSES = {
    "two dimensions": Refused(
        "Expected 3D (unbatched) or 4D (batched) input to conv_transpose2d, but got input of "
        "size: [6, 6]",
        (randn(6, 6), WT),
    ),
    "three strides": Refused(
        f"expected stride {PAIR}, but got stride=[1, 1, 1]", (XT, WT), {"stride": [1, 1, 1]}
    ),
    "three paddings": Refused(
        f"expected padding {PAIR}, but got padding=[1, 1, 1]", (XT, WT), {"padding": [1, 1, 1]}
    ),
    "three output paddings": Refused(
        f"expected output_padding {PAIR}, but got output_padding=[1, 1, 1]",
        (XT, WT),
        {"output_padding": [1, 1, 1], "stride": 2},
    ),
    "three dilations": Refused(
        f"expected dilation {PAIR}, but got dilation=[1, 1, 1]", (XT, WT), {"dilation": [1, 1, 1]}
    ),
    "channels": Refused(
        "Given transposed=1, weight of size [3, 4, 3, 3], expected input[2, 4, 5, 5] to have 3 "
        "channels, but got 4 channels instead",
        (XT, randn(3, 4, 3, 3)),
    ),
    "channels not divisible": Refused(
        "Given groups=3, expected weight to be divisible by 3 at dimension 0, but got weight of "
        "size [[4, 2, 3, 3]] instead",
        (XT, WT),
        {"groups": 3},
    ),
    "fewer channels than groups": Refused(
        "Given groups=5, expected weight to be at least 5 at dimension 0, but got weight of size "
        "[4, 2, 3, 3] instead",
        (XT, WT),
        {"groups": 5},
    ),
    "no groups": Refused("non-positive groups is not supported", (XT, WT), {"groups": 0}),
    "negative padding": Refused("negative padding is not supported", (XT, WT), {"padding": -1}),
    "negative output padding": Refused(
        "negative output_padding is not supported", (XT, WT), {"output_padding": (0, -1)}
    ),
    "output padding without stride": Refused(
        "output padding must be smaller than either stride or dilation, but got ",
        (XT, WT),
        {"output_padding": 1},
    ),
    "output padding like stride": Refused(
        "output padding must be smaller than either stride or dilation, but got ",
        (XT, WT),
        {"output_padding": (0, 2), "stride": (3, 2)},
    ),
    "stride 0": Refused("non-positive stride is not supported", (XT, WT), {"stride": 0}),
    "dilation 0": Refused("dilation should be greater than zero", (XT, WT), {"dilation": 0}),
    "dilation 0 of one tap": Refused(
        "dilation should be greater than zero", (XT, randn(4, 2, 1, 1)), {"dilation": 0}
    ),
    "nothing left": Refused(
        "Given input size per channel: (5 x 5). Calculated output size per channel: (-1 x 1). "
        "Output size is too small",
        (XT, WT),
        {"padding": (4, 3)},
    ),
    "empty kernel": Refused(
        "kernel size should be greater than zero, but got kernel_height: 0 kernel_width: 3",
        (XT, randn(4, 2, 0, 3)),
    ),
    "absurd padding": Refused(
        "expected padding to be at most 4611686018427387903", (XT, WT), {"padding": INTEGER}
    ),
    "bias of groups": Refused(
        "Given transposed=1, weight of size [4, 2, 3, 3], expected bias to be 1-dimensional with "
        "4 elements, but got bias of size [2] instead",
        (XT, WT, randn(2)),
        {"groups": 2},
    ),
    "type of the weight": Refused("should be the same", (XT.float(), WT)),
    "no pixels": Refused(
        "Only zero batch or zero channel inputs are supported, but got input shape: [1, 4, 0, 5]",
        (randn(1, 4, 0, 5), WT),
    ),
    "bool": Refused("not implemented for", (XT.bool(), WT.bool()), {}, NotImplementedError),
    "no weight": Refused("argument 'weight'", (XT, None), {}, TypeError),
    "a number for the bias": Refused("argument 'bias'", (XT, WT, 1.0), {}, TypeError),
    "padding in words": Refused("argument 'padding'", (XT, WT), {"padding": "same"}, TypeError),
}
# torch 2.11 blames the padding.
WORDED_OTHERWISE = (
    {"'same' with a negative dilation", "'same' with an empty kernel"}
    if torch.__version__ < "2.13"
    else set()
)
REFUSALS = [("conv2d", *item) for item in CONV2D_REFUSES.items()]
REFUSALS += [("conv_transpose2d", *item) for item in CONV_TRANSPOSE2D_REFUSES.items()]


@pytest.mark.parametrize(
    ("function", "name", "refused"), REFUSALS, ids=[f"{f}: {name}" for f, name, _ in REFUSALS]
)
def test_refusals(function: str, name: str, refused: Refused) -> None:
    for call in FUNCTIONS[function]:
        error = raised(call, *placed(refused.arguments), **refused.keywords)
        assert type(error) is refused.type
        if call is FUNCTIONS[function][0] or name not in WORDED_OTHERWISE:
            assert refused.words in str(error)


def test_refusals_while_tracing_and_of_explain() -> None:
    """The checks stand in one place: shapes on the meta device, and explain, meet the same."""
    for name, (words, arguments, keywords, kind) in CONV2D_REFUSES.items():
        if kind is TypeError:
            continue
        on_meta = [t.to("meta") if isinstance(t, Tensor) else t for t in arguments]
        for call in (handconv.conv2d, handconv.explain):
            error = raised(call, *on_meta, **keywords)
            assert type(error) is kind, name
            assert words in str(error)


Y = randn(2, 4, 4, 4)  # the output of X and W
SIZE_OPS_REFUSE: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "y too large": ("input_grad", "y of size [2, 4, 4, 4] is larger than", (Y, W, None, (5, 6))),
    "no pixels": ("input_grad", "greater than zero, but got (0 x 6)", (Y, W, None, (0, 6))),
    "three sizes": ("input_grad", "but got size=[6, 6, 6]", (Y, W, None, (6, 6, 6))),
    "x below kernel": ("input_grad", "Kernel size: (3 x 3)", (Y, W, None, (2, 6))),
    "unbatched": ("input_grad", "but got input of size: [4, 4, 4]", (Y[0], W, None, (6, 6))),
    "batch sizes": ("weight_grad", "should have the same batch size", (Y[:1], X, (3, 3))),
    "y too large for w": ("weight_grad", "y of size [2, 4, 4, 4] is larger", (Y, X, (4, 3))),
    "no taps": ("weight_grad", "kernel_height: 3 kernel_width: 0", (Y, X, (3, 0))),
    "taps below zero": ("weight_grad", "kernel_height: -1 kernel_width: 3", (Y, X, (-1, 3))),
    "kernel above x": ("weight_grad", "Kernel size: (7 x 3)", (Y, X, (7, 3))),
    "types": ("weight_grad", "Input type (double) and x type (float)", (Y, X.float(), (3, 3))),
}


@pytest.mark.parametrize("name", SIZE_OPS_REFUSE)
@by_algorithm
def test_refusals_of_the_ops_that_take_a_size(algorithm: str, name: str) -> None:
    """What the Python functions never pass on, but another caller of the ops may."""
    slot, words, arguments = SIZE_OPS_REFUSE[name]
    error = raised(operation(slot, algorithm), *placed(arguments), [1, 1], [0, 0], [1, 1], 1)
    assert type(error) is RuntimeError
    assert words in str(error)


def test_weight_grad_refuses_channels_that_groups_do_not_divide() -> None:
    for y, x in placed([(Y[:, :3], X), (Y, X[:, :3])]):
        error = raised(operation("weight_grad"), y, x, (3, 3), [1, 1], [0, 0], [1, 1], 2)
        assert "Given groups=2, expected the channels of x and of y to be divisible" in str(error)


def test_unsupported_dtypes_name_what_is_supported() -> None:
    with pytest.raises(NotImplementedError) as error:
        handconv.conv2d(*placed((X.long(), W.long())))
    for word in ("handconv::conv2d", "Long", "float32", "float64", "bfloat16", "float16"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"stride": (2,), "padding": [1], "dilation": (2,)},
        {"stride": torch.Size([2, 1]), "padding": torch.Size([1, 2])},
        {"stride": numpy.int64(2), "padding": numpy.int32(1), "groups": numpy.int64(2)},
        {"stride": [numpy.int64(2), 1], "dilation": (1, numpy.int8(2))},
        {"stride": torch.tensor(2)},
    ],
    ids=["one number", "torch.Size", "numpy", "numpy in pairs", "tensor"],
)
@by_function
def test_integers_of_other_types(function: str, changed: dict[str, Any]) -> None:
    ours, theirs = FUNCTIONS[function]
    x, w = placed(X), randn(4, 2 if "groups" in changed else 4, 3, 3)
    torch.testing.assert_close(ours(x, w, **changed), theirs(x, w, **changed))
