"""A convolution whose filters differ from sample to sample."""

from torch import Tensor
from torch.overrides import has_torch_function_variadic

from handconv.functional import Pair, _check_tensors, _index, _overridden, conv2d


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

    The same, up to rounding, as
    ``torch.stack([conv2d(x, w, b, ...) for x, w, b in zip(input, weight, bias)])``: the samples are
    the groups of one grouped convolution, which is what they are to every derivative too. A
    contiguous input and weight are not copied; a channels_last input is, to contiguous.

    The output of a sample and the gradients of its image and filters are the same bit by bit in
    every batch of two samples or more. A sample alone is a convolution with fewer groups, for which
    another kernel may run, and the gradient of a bias is summed by torch: both may differ from that
    in the last bits.

    Args:
        input: (N, C, H, W).
        weight: (N, OC, C / groups, KH, KW), the filters of each sample.
        bias: (N, OC), one of each sample's own; or (OC,), the same for all; or None.
        stride, padding, dilation, groups, algorithm: as for :func:`handconv.conv2d`.

    Returns:
        (N, OC, OH, OW), contiguous.

    Raises:
        RuntimeError: shapes that do not fit.
        TypeError: arguments that are no tensors or numbers.
        And whatever conv2d refuses.
    """
    if has_torch_function_variadic(input, weight, bias):
        arguments = (input, weight, bias, stride, padding, dilation, groups)
        return _overridden(conv2d_per_sample, arguments, algorithm)
    _check_tensors("conv2d_per_sample", input=input, weight=weight, bias=bias)
    groups = _index("conv2d_per_sample", "groups", groups)
    _check_shapes(input, weight, bias, groups)
    samples, out_channels = weight.shape[:2]
    if samples == 0:  # no group is no convolution: one with zeros for filters has the same output
        one = weight.sum(0, dtype=weight.dtype)
        same = bias.sum(0) if bias is not None and bias.dim() == 2 else bias
        return conv2d(input, one, same, stride, padding, dilation, groups, algorithm=algorithm)
    output = conv2d(
        input.reshape(1, -1, *input.shape[2:]),
        weight.flatten(0, 1),
        None if bias is None else bias.expand(samples, out_channels).reshape(-1),
        stride,
        padding,
        dilation,
        groups * samples,
        algorithm=algorithm,
    )
    return output.reshape(samples, out_channels, *output.shape[2:])


def _check_shapes(input: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    """What a convolution of all samples would not refuse, or would in words about that one."""
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
    if groups > 0 and input.shape[1] != weight.shape[2] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected input"
            f"{list(input.shape)} to have {weight.shape[2] * groups} channels, but got "
            f"{input.shape[1]} channels instead"
        )
    sizes = ((out_channels,), (samples, out_channels))
    if bias is not None and bias.shape not in sizes:
        raise RuntimeError(
            f"expected bias of size [{out_channels}] or [{samples}, {out_channels}], but got bias "
            f"of size {list(bias.shape)}"
        )
