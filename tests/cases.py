"""The named convolutions that tests force every kernel over and that the bench times.

A `Case` is one convolution problem: sizes without values. `SMALL_CASES` is the list for tests, tiny
and nasty; `layers(path)` reads real layers of real networks from a table. This needs only torch.

    from cases import SMALL_CASES

    case = SMALL_CASES[0]
    x, w, bias, y = case.tensors(torch.bfloat16, "channels_last", integers=True)
    F.conv2d(x, w, bias, *case.arguments)
"""

from __future__ import annotations

import csv
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

Pair = tuple[int, int]

SLOTS = ("forward", "input_grad", "weight_grad")
LAYOUTS = ("nchw", "channels_last")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

MEMORY_FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


class Tensors(NamedTuple):
    """The operands of one case: y is the gradient that arrives at the output."""

    x: Tensor
    w: Tensor
    bias: Tensor | None
    y: Tensor


@dataclass(frozen=True)
class Case:
    """One convolution of x (N, C, H, W) with w (OC, C/groups, KH, KW)."""

    name: str
    N: int
    C: int
    H: int
    W: int
    OC: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    has_bias: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def arguments(self) -> tuple[Pair, Pair, Pair, int]:
        """What follows (input, weight, bias) in F.conv2d: stride, padding, dilation, groups."""
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def output_size(self) -> Pair:
        """(OH, OW) = floor((H + 2p - d(k - 1) - 1) / s + 1) per axis."""
        height, width = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                (self.H, self.W), self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return height, width

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.H, self.W

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.OC, self.C // self.groups, *self.kernel

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.OC, *self.output_size

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.C > 1

    @property
    def flops(self) -> int:
        """Floating point operations of any one slot: two for each pair of an output and a tap.

        Taps that fall into the padding count too, as in torch.utils.flop_counter.
        """
        return 2 * math.prod(self.output_shape) * math.prod(self.weight_shape[1:])

    def bytes(self, slot: str, dtype: torch.dtype) -> int:
        """Bytes that a slot must move at least: two operands read once, one result written."""
        shapes = [self.input_shape, self.weight_shape, self.output_shape]
        elements = sum(math.prod(shape) for shape in shapes)
        if slot == "forward" and self.has_bias:
            elements += self.OC
        return elements * dtype.itemsize

    def longest_sum(self) -> int:
        """Terms in the longest sum among the elements of the three slots' results."""
        taps = math.prod(self.kernel)
        forward = self.C // self.groups * taps
        input_grad = self.OC // self.groups * taps
        weight_grad = self.N * math.prod(self.output_size)
        return max(forward, input_grad, weight_grad)

    def tensors(
        self,
        dtype: torch.dtype,
        layout: str = "nchw",
        *,
        integers: bool = False,
        generator: torch.Generator | None = None,
        device: str = "cpu",
    ) -> Tensors:
        """Operands of this case; the values depend on neither dtype, layout nor device.

        layout is "nchw" or "channels_last", of x, w and y alike. With `integers` every value is -1,
        0 or 1, so sparse that no sum of any slot reaches 256: each result is then exact in float32,
        float16 and bfloat16 in whatever order it is summed. Without a generator the values are
        those of a generator seeded by the name.
        """
        if generator is None:
            generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        shapes = [self.input_shape, self.weight_shape, (self.OC,), self.output_shape]
        if integers:
            values = [_small_integers(s, self.longest_sum(), generator) for s in shapes]
        else:
            values = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
            fan_in = math.prod(self.weight_shape[1:])
            values[1] /= math.sqrt(fan_in)  # the output is then of the size of the input
        x, w, bias, y = (_placed(value, dtype, layout, device) for value in values)
        return Tensors(x, w, bias if self.has_bias else None, y)


def _small_integers(shape: tuple[int, ...], terms: int, generator: torch.Generator) -> Tensor:
    """Values from {-1, 0, 1}; a sum of `terms` products of two has a deviation of at most 30.

    256 is more than eight of these deviations; tests/test_bench.py looks that no case reaches it.
    """
    density = min(2 / 3, math.sqrt(900 / max(terms, 1)))
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (uniform < density / 2).double() - (uniform > 1 - density / 2).double()


def _placed(value: Tensor, dtype: torch.dtype, layout: str, device: str) -> Tensor:
    """A copy with the strides of the layout, where a size of 1 leaves more than one choice too."""
    memory_format = MEMORY_FORMATS[layout] if value.dim() == 4 else torch.contiguous_format
    placed = torch.empty(value.shape, dtype=dtype, device=device, memory_format=memory_format)
    return placed.copy_(value)


def layers(csv_path: str | Path) -> tuple[Case, ...]:
    """Real layers from a table with the columns name,N,C,H,W,OC,k,stride,pad,dilation,groups.

    k, stride, pad and dilation are one number, or two for height and width as in 1x7. The layers
    have no bias: batch normalisation follows most of them.
    """
    with open(csv_path, newline="") as file:
        return tuple(_layer(row) for row in csv.DictReader(file))


def _layer(row: dict[str, str]) -> Case:
    return Case(
        row["name"],
        N=int(row["N"]),
        C=int(row["C"]),
        H=int(row["H"]),
        W=int(row["W"]),
        OC=int(row["OC"]),
        kernel=_pair(row["k"]),
        stride=_pair(row["stride"]),
        padding=_pair(row["pad"]),
        dilation=_pair(row["dilation"]),
        groups=int(row["groups"]),
    )


def _pair(value: int | Pair | str) -> Pair:
    """3 or "3" -> (3, 3); (1, 7) or "1x7" -> (1, 7)."""
    if isinstance(value, str):
        height, _, width = value.partition("x")
        return int(height), int(width or height)
    return (value, value) if isinstance(value, int) else value


def _small(
    name: str,
    x: tuple[int, int, int, int],
    oc: int,
    kernel: int | Pair,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    bias: bool = True,
) -> Case:
    return Case(
        name,
        *x,
        oc,
        kernel=_pair(kernel),
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        groups=groups,
        has_bias=bias,
    )


SMALL_CASES: tuple[Case, ...] = (
    # Kernel sizes. Channel counts and widths fill no vector; 33, 56 and 65 fill some and a part.
    _small("1x1", (2, 17, 9, 11), 33, 1),
    _small("1x1 on one pixel", (3, 65, 1, 1), 70, 1),
    _small("1x1 stride 2", (1, 33, 7, 8), 17, 1, stride=2, bias=False),
    _small("1x1 padded", (1, 5, 4, 3), 3, 1, padding=(1, 2)),
    _small("1x1 of whole vectors", (3, 96, 6, 9), 64, 1, stride=2, padding=(1, 0), groups=2),
    _small("2x2", (1, 3, 8, 7), 5, 2),
    _small("2x2 padding 1", (2, 4, 5, 6), 6, 2, padding=1),
    _small("3x3", (1, 16, 10, 14), 32, 3, padding=1, bias=False),
    _small("3x3 valid", (2, 17, 6, 17), 5, 3),
    _small("3x3 many channels", (1, 70, 6, 5), 65, 3, padding=1),
    _small("3x3 two blocks of channels", (1, 33, 4, 6), 100, 3, padding=1, bias=False),
    _small("3x3 width 56", (1, 3, 5, 56), 3, 3, padding=1),
    _small("5x5", (1, 5, 9, 33), 7, 5, padding=2),
    _small("7x7", (1, 4, 11, 17), 3, 7, padding=3),
    _small("7x7 stem", (1, 3, 20, 23), 16, 7, stride=2, padding=3, bias=False),
    _small("1x7", (2, 6, 5, 14), 5, (1, 7), padding=(0, 3)),
    _small("7x1", (2, 6, 13, 5), 5, (7, 1), padding=(3, 0)),
    # Winograd: several chunks of channels, tiles that fit badly, both axes padded.
    _small("3x3, a strip alone and several together", (9, 20, 9, 8), 32, 3, padding=1, bias=False),
    _small("5x5 dilated by axis", (2, 35, 11, 13), 19, 5, padding=(4, 1), dilation=(2, 1)),
    _small("1x3 of 70 channels, dilated", (2, 70, 3, 21), 66, (1, 3), padding=(1, 1), dilation=2),
    _small("3x1 in groups", (1, 36, 14, 5), 34, (3, 1), groups=2, bias=False),
    _small("1x5 of 17 channels", (1, 17, 3, 22), 20, (1, 5), padding=(0, 1)),
    _small("5x1 of 34 channels", (2, 34, 9, 3), 18, (5, 1), padding=(2, 1), bias=False),
    _small("1x7 of 34 channels, dilated", (1, 34, 2, 27), 33, (1, 7), padding=(0, 6), dilation=2),
    _small("7x1 of 70 channels", (2, 70, 12, 3), 20, (7, 1), padding=(6, 0)),
    _small("one channel in and out", (1, 1, 6, 7), 1, 3, padding=1),
    _small("one output channel", (3, 20, 5, 5), 1, 3, padding=1),
    # Signals of one channel, whose stretches share windows.
    _small("signal 1x10 stride 5", (2, 1, 1, 2777), 37, (1, 10), stride=(1, 5), padding=(0, 4)),
    _small("signal 50x1", (1, 1, 1109, 1), 70, (50, 1), stride=(3, 2), padding=(30, 0)),
    # Blocks of sums and of channels, strips of pixels, tiles of one row: direct.gemm.
    _small("1x1 many terms", (2, 530, 5, 3), 37, 1),
    _small("1x1 of a large weight", (1, 530, 9, 10), 500, 1),
    _small("1x1 of many channels and pixels", (1, 270, 17, 16), 20, 1),
    _small("1x1 in chunks of pixels", (2, 19, 23, 25), 75, 1),
    _small("1x1 stride 2 in chunks of pixels", (2, 50, 45, 47), 35, 1, stride=2, bias=False),
    _small("3x3 strips", (2, 33, 13, 12), 45, 3, stride=(1, 2), padding=1),
    _small("stem strips", (2, 3, 29, 38), 35, 5, stride=2, padding=2),
    _small("patches", (1, 3, 25, 48), 34, 4, stride=4, bias=False),
    _small("patches 4x3 that cover the image", (2, 5, 12, 21), 270, (4, 3), stride=(4, 3)),
    _small("patches 2x2 of 32 channels", (1, 32, 8, 60), 9, 2, stride=2),
    # Sums over pixels in more than one chunk of rows, and in more than one strip of columns.
    _small("3x3 on 41 rows", (2, 30, 41, 40), 20, 3, padding=1, bias=False),
    _small("stem on 61 rows", (2, 3, 61, 59), 17, 5, stride=(1, 2), padding=2, bias=False),
    _small(
        "1x4 with gaps on long lines", (1, 17, 3, 1401), 18, (2, 4), stride=(1, 2), dilation=(1, 3)
    ),
    _small("1x3 on a long line", (1, 7, 2, 1100), 5, (1, 3), stride=(2, 1), padding=(0, 1)),
    _small(
        "parts of a line, the rest shorter than the stride",
        (1, 5, 4, 600),
        3,
        (3, 260),
        stride=(2, 256),
        padding=(1, 0),
    ),
    # Stride.
    _small("3x3 stride 2", (2, 17, 9, 14), 18, 3, stride=2, padding=1),
    _small("stride 2 with a rest", (1, 5, 8, 10), 4, 3, stride=2),
    _small("2x2 stride 3 skips pixels", (1, 4, 11, 10), 5, 2, stride=3, bias=False),
    _small("1x1 stride above kernel", (1, 7, 9, 13), 6, 1, stride=(4, 5)),
    _small("stride by axis", (1, 5, 9, 12), 8, 3, stride=(1, 3), padding=1),
    # Few input channels.
    _small("stem 7x7 stride 2", (2, 3, 21, 37), 70, 7, stride=2, padding=3),
    _small("stem 3x3 stride 4", (1, 2, 18, 75), 33, 3, stride=4, padding=(2, 1), bias=False),
    _small(
        "stem 5x4 stride 3", (2, 4, 16, 31), 17, (5, 4), stride=(2, 3), padding=2, dilation=(1, 2)
    ),
    _small("stem of 363 terms", (1, 3, 25, 23), 18, 11, stride=(2, 1), padding=4),
    _small("squares of taps", (2, 3, 10, 75), 17, (3, 8), stride=(3, 5), padding=(1, 2)),
    _small("stem in two parts of a row", (1, 1, 3, 130), 16, 3, padding=(0, 1)),
    # Dilation.
    _small("dilation 2", (1, 6, 9, 10), 7, 3, padding=2, dilation=2),
    _small("dilation 3", (1, 5, 12, 17), 4, 3, padding=3, dilation=3, bias=False),
    _small(
        "dilation 3x2, images of unequal size", (2, 33, 13, 15), 20, 3, padding=2, dilation=(3, 2)
    ),
    _small("dilation 6, images of 5x5 and 6x6", (1, 34, 33, 32), 33, 3, padding=6, dilation=6),
    _small(
        "dilation 8 reaches past the image", (2, 19, 16, 12), 35, (4, 5), padding=16, dilation=8
    ),
    _small("deep 3x3 stride 2", (2, 130, 5, 8), 134, 3, stride=2, padding=1),
    _small(
        "deep 3x5, taps in the padding", (2, 97, 6, 9), 98, (3, 5), padding=(9, 2), dilation=(9, 3)
    ),
    _small("dilation 2 stride 2", (1, 5, 12, 13), 6, 3, stride=2, padding=2, dilation=2),
    _small("dilation 4 stride 6", (1, 3, 21, 22), 4, 3, stride=6, padding=4, dilation=4),
    _small("dilation 3 stride 2", (2, 3, 11, 14), 4, (2, 3), stride=2, padding=3, dilation=3),
    _small(
        "every pair by axis",
        (2, 6, 13, 16),
        9,
        (3, 5),
        stride=(2, 1),
        padding=(1, 4),
        dilation=(1, 2),
        groups=3,
    ),
    # Edges.
    _small("padding above kernel", (1, 4, 5, 6), 3, 3, padding=(5, 4), bias=False),
    _small("padding above image", (1, 3, 2, 3), 4, 2, stride=2, padding=4),
    _small("no window sees a pixel", (1, 65, 8, 1), 66, 3, stride=2, padding=3, dilation=2),
    _small("output 1x1", (2, 9, 5, 7), 10, (5, 7)),
    _small("output 1x1 of 1292 terms, many samples", (19, 68, 1, 19), 5, (1, 19)),
    _small("output 1x1 of 2275 terms", (1, 65, 5, 7), 9, (5, 7), bias=False),
    _small("output 1x1 of 300 filters", (3, 5, 4, 3), 300, (4, 3)),
    _small("output 1x1 of 1 filter", (6, 12, 4, 4), 1, 4),
    _small("output 1x1 in groups", (2, 15, 3, 2), 6, (3, 2), stride=2, groups=3),
    _small("1x1 on one pixel in groups", (3, 24, 1, 1), 36, 1, groups=4),
    _small("kernel of the padded image", (1, 6, 4, 5), 5, (6, 9), padding=(1, 2)),
    _small("width 1", (1, 5, 9, 1), 6, 3, padding=1),
    _small("height 1", (2, 5, 1, 19), 6, 3, padding=1),
    _small("empty batch", (0, 4, 5, 6), 6, 3, padding=1),
    _small("empty batch depthwise", (0, 4, 5, 6), 8, 3, padding=1, groups=4, bias=False),
    # Groups.
    _small("groups 2", (1, 10, 7, 9), 14, 3, padding=1, groups=2),
    _small("groups 4 of 4", (2, 16, 6, 14), 16, 3, padding=1, groups=4, bias=False),
    _small("groups 3 of 8, stride 2", (1, 24, 7, 8), 24, 3, stride=2, padding=1, groups=3),
    _small("groups 2 of 16, dilated", (1, 32, 8, 9), 32, 3, padding=2, dilation=2, groups=2),
    _small("groups 6 of 4, stride 2", (2, 24, 9, 19), 24, 3, stride=2, padding=1, groups=6),
    _small("groups 9 of 8, long row", (1, 72, 1, 1030), 72, (1, 5), padding=(0, 2), groups=9),
    _small("groups 5 of 8, wide, stride 2", (1, 40, 5, 61), 40, 3, stride=2, padding=1, groups=5),
    _small("groups 2 of 8, far padding", (1, 16, 3, 4), 16, 3, padding=9, dilation=9, groups=2),
    _small("groups 5 of 8, 5x5", (1, 40, 5, 15), 40, 5, padding=2, groups=5),
    _small("groups 9 of 2, stride 3", (1, 18, 8, 10), 18, 4, stride=3, padding=2, groups=9),
    _small("groups 4, 1x1", (2, 12, 5, 5), 20, 1, groups=4),
    _small(
        "groups 3 of 20 and 37, stride 2", (2, 60, 9, 17), 111, 3, stride=2, padding=1, groups=3
    ),
    _small("groups 2 of 12, width 23", (2, 24, 21, 23), 26, 3, padding=1, groups=2),
    # Depthwise.
    _small("depthwise 3x3", (1, 20, 9, 14), 20, 3, padding=1, groups=20),
    _small("depthwise 3x3 valid", (2, 3, 6, 17), 3, 3, groups=3, bias=False),
    _small("depthwise 3x3 width 56", (1, 2, 4, 56), 2, 3, padding=1, groups=2),
    _small("depthwise 3x3 stride 2", (2, 33, 9, 17), 33, 3, stride=2, padding=1, groups=33),
    _small("depthwise 3x3 dilation 2", (1, 33, 7, 33), 33, 3, padding=2, dilation=2, groups=33),
    _small("depthwise 3x3 to one column", (1, 70, 6, 3), 70, 3, groups=70),
    _small("depthwise 5x5", (1, 17, 14, 14), 17, 5, padding=2, groups=17),
    _small("depthwise 7x7", (1, 20, 7, 33), 20, 7, padding=3, groups=20, bias=False),
    _small("depthwise 2x4 stride 2x3", (1, 5, 8, 11), 5, (2, 4), stride=(2, 3), groups=5),
    _small("depthwise 13x13", (1, 18, 12, 15), 18, 13, padding=6, groups=18),
    _small("depthwise 5x5 stride 2, width 75", (1, 3, 21, 75), 3, 5, stride=2, padding=2, groups=3),
    _small("depthwise 9x9 dilation 2", (1, 2, 20, 37), 2, 9, padding=8, dilation=2, groups=2),
    _small("depthwise 17x17", (1, 2, 11, 18), 2, 17, padding=8, groups=2, bias=False),
    _small(
        "depthwise 7x27 over all columns", (2, 17, 9, 14), 17, (7, 27), padding=(3, 13), groups=17
    ),
    _small("depthwise 1x11, width 130", (1, 3, 5, 130), 3, (1, 11), padding=(2, 7), groups=3),
    _small(
        "depthwise 5x3 stride 2, dilation 3x2",
        (2, 40, 15, 16),
        40,
        (5, 3),
        stride=2,
        padding=(5, 1),
        dilation=(3, 2),
        groups=40,
    ),
    _small("depthwise 4x6 stride 3x1", (1, 24, 10, 9), 24, (4, 6), stride=(3, 1), groups=24),
    _small("depthwise multiplier 2 of 20", (1, 20, 7, 9), 40, 5, stride=2, padding=2, groups=20),
    _small("depthwise multiplier 2", (2, 9, 6, 14), 18, 3, padding=1, groups=9),
    _small("depthwise multiplier 3, stride 2", (1, 5, 9, 9), 15, 3, stride=2, padding=1, groups=5),
    # The lessons of the README: one image, the kernel matrix, receptive field, batch with groups.
    _small("lesson: one image", (1, 1, 5, 5), 1, 3, stride=2, padding=1),
    _small("lesson: 3x3 on 4x4", (1, 1, 4, 4), 1, 3, bias=False),
    _small("lesson: dilation 3 sees 7x7", (1, 1, 7, 7), 1, 3, dilation=3),
    _small("lesson: everything", (2, 2, 5, 5), 4, 3, stride=2, padding=1, dilation=2, groups=2),
    _small("lesson: 45", (1, 10, 7, 7), 2, 3, groups=2, bias=False),
    _small("lesson: 6x3 in groups", (2, 64, 18, 19), 4, (6, 3), padding=(1, 0), groups=4),
    _small("lesson: 14x1 of each sample", (1, 6, 14, 3), 12, (14, 1), groups=3, bias=False),
    _small("lesson: 1x14 of each sample", (1, 6, 3, 14), 12, (1, 14), groups=3, bias=False),
    # Where F.conv2d itself crashes or is wrong in some dtype and layout (torch 2.13).
    _small("crash: forward", (2, 8, 11, 2), 4, 1, stride=(3, 4), padding=(6, 2), dilation=(1, 4)),
    _small("crash: backward", (2, 17, 13, 26), 3, (64, 4), padding=(32, 2)),
    _small("wrong: 6x1 in groups", (2, 10, 9, 5), 4, (6, 1), groups=2),
    _small(
        "wrong: dilated depthwise in bfloat16",
        (2, 16, 10, 10),
        16,
        3,
        padding=3,
        dilation=3,
        groups=16,
    ),
)
