"""A convolution whose filters differ from sample to sample."""

from torch import Tensor

from handconv.functional import Pair, conv2d


def conv2d_per_sample(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """Every sample convolved with filters of its own, in one call.

    The same as ``torch.stack([conv2d(x, w, b, ...) for x, w, b in zip(input, weight, bias)])``: the
    samples are the groups of one grouped convolution, which is what they are to every derivative
    too. A contiguous input and weight are not copied; a channels_last input is, to contiguous.

    Args:
        input: (N, C, H, W).
        weight: (N, OC, C / groups, KH, KW), the filters of each sample.
        bias: (N, OC), one of each sample's own; or (OC,), the same for all; or None.
        stride, padding, dilation, groups, algorithm: as for :func:`handconv.conv2d`.

    Returns:
        (N, OC, OH, OW), contiguous.

    Raises:
        RuntimeError: shapes that do not fit, and whatever conv2d refuses.
    """
    if input.dim() != 4 or weight.dim() != 5:
        raise RuntimeError(
            "conv2d_per_sample expects a 4-dimensional input and a 5-dimensional weight, but got "
            f"input of size {list(input.shape)} and weight of size {list(weight.shape)}"
        )
    samples, out_channels = weight.shape[:2]
    if input.shape[0] != samples:
        raise RuntimeError(
            f"conv2d_per_sample expects one weight for each of the {input.shape[0]} samples, but "
            f"got weight of size {list(weight.shape)}"
        )
    if input.shape[1] != weight.shape[2] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected input"
            f"{list(input.shape)} to have {weight.shape[2] * groups} channels, but got "
            f"{input.shape[1]} channels instead"
        )
    if bias is not None:
        if bias.shape not in ((out_channels,), (samples, out_channels)):
            raise RuntimeError(
                f"expected bias of size [{out_channels}] or [{samples}, {out_channels}], but got "
                f"bias of size {list(bias.shape)}"
            )
        bias = bias.expand(samples, out_channels).reshape(-1)
    if samples == 0:  # no group is no convolution, and shapes must still be checked
        one = weight.new_empty((out_channels, *weight.shape[2:]))
        return conv2d(input, one, None, stride, padding, dilation, groups, algorithm=algorithm)
    output = conv2d(
        input.reshape(1, -1, *input.shape[2:]),
        weight.flatten(0, 1),
        bias,
        stride,
        padding,
        dilation,
        groups * samples,
        algorithm=algorithm,
    )
    return output.reshape(samples, out_channels, *output.shape[2:])
