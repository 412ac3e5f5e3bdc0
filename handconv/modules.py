"""torch's convolution modules, computed by handconv."""

import torch.nn.functional as F
from torch import Tensor, nn

from handconv.functional import conv2d, conv_transpose2d


class Conv2d(nn.Conv2d):
    """:class:`torch.nn.Conv2d` on :func:`handconv.conv2d`.

    The constructor, parameters, initialisation, state_dict, repr and padding modes are torch's. The
    attribute `algorithm`, "auto" until it is set, is one of :func:`handconv.algorithms`.

    Shapes: (N, C, H, W) to (N, OC, OH, OW), or both without N.
    """

    algorithm: str = "auto"

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: str | int | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return conv2d(
            input,
            weight,
            bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            algorithm=self.algorithm,
        )


class ConvTranspose2d(nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` on :func:`handconv.conv_transpose2d`.

    The constructor, parameters, initialisation, state_dict and repr are torch's; so is
    `output_size`, which chooses among the sizes that a stride leaves open. The attribute
    `algorithm`, "auto" until it is set, is one of :func:`handconv.algorithms`.

    Shapes: (N, C, H, W) to (N, OC, OH, OW), or both without N.
    """

    algorithm: str = "auto"

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Raises ValueError for a padding mode other than "zeros", as torch's module does."""
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose2d")
        assert not isinstance(self.padding, str)
        output_padding = self._output_padding(
            input,
            output_size,
            list(self.stride),
            list(self.padding),
            list(self.kernel_size),
            2,
            list(self.dilation),
        )
        return conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
            algorithm=self.algorithm,
        )


class LazyConv2d(nn.LazyConv2d):
    """A :class:`handconv.Conv2d` that learns its number of input channels from the first input."""

    cls_to_become = Conv2d


class LazyConvTranspose2d(nn.LazyConvTranspose2d):
    """A :class:`handconv.ConvTranspose2d` that learns its number of input channels from the first
    input.
    """

    cls_to_become = ConvTranspose2d
