"""torch.vmap of every op, without a loop over the batch.

A batch of images folds into N. A batch of weights makes each image of the batch meet a weight of
its own, as the groups of a grouped convolution do: so whenever the weight is batched, or is what
the op fills, the batch folds into the groups.
"""

from typing import Any

import torch
from torch import Tensor

from handconv.operations import SLOT_SUFFIXES, TRIOS

_SAMPLES, _CHANNELS = 0, 1


def _fold(tensor: Tensor, batch_dim: int | None, target: int, batch_size: int) -> Tensor:
    """Merges the batch, or `batch_size` repetitions, into dimension `target` as its outer part."""
    if batch_dim is None:
        moved = tensor.unsqueeze(target)
        shape = list(moved.shape)
        shape[target] = batch_size
        moved = moved.expand(shape)
    else:
        moved = tensor.movedim(batch_dim, target)
    return moved.flatten(target, target + 1)


def _summed(argument: Any, batch_dim: int | None) -> Any:
    """What is batched, summed over the batch, which stays as a dimension of one."""
    if not isinstance(argument, Tensor) or batch_dim is None:
        return argument
    return argument.sum(batch_dim, keepdim=True, dtype=argument.dtype)


def _rule(operation: Any, reads_weight: bool, fills_weight: bool) -> Any:
    """The batching rule of one op, as torch.library.register_vmap wants it."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        over_weights = reads_weight and in_dims[1] is not None
        if info.batch_size > 0 or over_weights:  # no weights make no groups, which is refused
            return batched(info.batch_size, in_dims, *args)
        # Folded shapes do not tell the size of what there is none of: that of one does.
        one = map(_summed, args, in_dims)
        result, out_dim = batched(1, in_dims, *one)
        return result.narrow(out_dim, 0, 0), out_dim

    def batched(batch_size: int, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        first, second, *rest = args
        first_dim, second_dim, *_ = in_dims
        bias, bias_dim = (None, None) if fills_weight else (rest[0], in_dims[2])
        weight_dim = second_dim if reads_weight else None
        *middle, groups = rest

        into_groups = fills_weight or weight_dim is not None or bias_dim is not None
        image_target = _CHANNELS if into_groups else _SAMPLES
        weight_target = 0  # output channels, grouped outermost

        def fold_operand(tensor: Tensor, dim: int | None, target: int) -> Tensor:
            if dim is None and not into_groups:
                return tensor
            return _fold(tensor, dim, target, batch_size)

        first = fold_operand(first, first_dim, image_target)
        second = fold_operand(second, second_dim, weight_target if reads_weight else image_target)
        if into_groups:
            groups = groups * batch_size
            if bias is not None:
                middle[0] = _fold(bias, bias_dim, 0, batch_size)
        result = operation(first, second, *middle, groups)
        out_dim = weight_target if fills_weight else image_target
        return result.unflatten(out_dim, (batch_size, -1)), out_dim

    return rule


def register() -> None:
    """Registers the rules of all ops; called once, when the package is imported."""
    for trio in TRIOS.values():
        for slot, suffix in SLOT_SUFFIXES.items():
            fills_weight = slot == "weight_grad"
            operation = getattr(torch.ops.handconv, trio + suffix).default
            torch.library.register_vmap(operation, _rule(operation, not fills_weight, fills_weight))
