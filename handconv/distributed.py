"""Sharding rules: how torch.distributed.tensor splits a convolution over several processes.

    import handconv.distributed

    handconv.distributed.register()

From then on handconv's ops take DTensors. Data parallelism (DistributedDataParallel, FSDP) needs
none of this.

An op is linear in each operand, so along a mesh dimension it may be split by whatever its operands
share: samples; output channels (w and y have them) or input channels (w and x have them), where
there is one group; whole groups, where there are more. A slot that lacks what is split is a partial
sum. Any other placement is first redistributed to one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding
from torch.utils._pytree import tree_unflatten

from handconv.operations import SLOT_SUFFIXES, TRIOS

# Where the operands and the result of F(y, x, w) hold what can be split.
_SPLITS: dict[str, dict[str, Any]] = {
    "samples": {"y": Shard(0), "x": Shard(0), "w": None},
    "out channels": {"y": Shard(1), "x": None, "w": Shard(0)},
    "in channels": {"y": None, "x": Shard(1), "w": Shard(1)},
    "groups": {"y": Shard(1), "x": Shard(1), "w": Shard(0)},
}
# What each op fills, and what it reads.
_OPERANDS = {
    "forward": ("y", "x", "w"),
    "input_grad": ("x", "y", "w"),
    "weight_grad": ("w", "y", "x"),
}

_Rule = tuple[list[Any], list[Any]]


def register() -> None:
    """Registers the rules of all ops with torch.distributed.tensor; once is enough."""
    handlers = DTensor._op_dispatcher._custom_op_handlers
    for trio in TRIOS.values():
        for slot, (filled, *read) in _OPERANDS.items():
            operation = getattr(torch.ops.handconv, trio + SLOT_SUFFIXES[slot]).default
            register_sharding(operation)(_rules_of(filled, read))
            handlers[operation] = _call_locally


def _rules_of(filled: str, read: Sequence[str]) -> Callable[..., list[_Rule]]:
    """The function that torch asks for the placements of a call: of the result, of the operands."""

    def rules(first: Any, second: Any, *rest: Any) -> list[_Rule]:
        groups = rest[-1]
        bias = rest[0] if filled != "w" else None
        others = [None] * (len(rest) - (filled != "w"))
        placements = []
        for split in _splits_of(groups, first.mesh.size()):
            result = _SPLITS[split][filled]
            if result is None and bias is not None:
                continue  # the bias would be added once in every process
            operands: list[Any] = [_SPLITS[split][slot] or Replicate() for slot in read]
            if filled != "w":
                along_channels = isinstance(result, Shard) and result.dim == 1
                operands.append(
                    None if bias is None else Shard(0) if along_channels else Replicate()
                )
            placements.append(([result or Partial()], [*operands, *others]))
        all_replicate: list[Any] = [Replicate(), Replicate()]
        if filled != "w":
            all_replicate.append(None if bias is None else Replicate())
        return [([Replicate()], [*all_replicate, *others]), *placements]

    return rules


def _splits_of(groups: int, processes: int) -> list[str]:
    if groups == 1:
        return ["samples", "out channels", "in channels"]
    return ["samples", "groups"] if groups % processes == 0 else ["samples"]


def _call_locally(op_call: Any, args: tuple[Any, ...], kwargs: dict[str, object]) -> Any:
    """Runs an op on the local shards, with as many groups as these hold.

    It is what DTensor does with every op, but that an argument, groups, is split too.
    """
    dispatcher = DTensor._op_dispatcher
    info = dispatcher.unwrap_to_op_info(op_call, args, kwargs)
    dispatcher.sharding_propagator.propagate(info)
    sharding = info.output_sharding
    assert sharding is not None
    if sharding.needs_redistribute:
        assert sharding.redistribute_schema is not None
        dispatcher.redistribute_local_args(
            info, sharding.redistribute_schema, sharding.use_val_from_redistribute_schema
        )
    local = info.local_args
    if info.args_tree_spec is not None:
        local = tree_unflatten(list(local), info.args_tree_spec)
    others, groups = local[:-1], args[-1]
    local_groups = max(1, groups * _out_channels(op_call, others) // _out_channels(op_call, args))
    return dispatcher.wrap(op_call(*others, local_groups), sharding.output_spec)


def _out_channels(operation: Any, args: Sequence[Any]) -> int:
    """OC of the operands: of w in the forward ops, of y in the gradients."""
    is_gradient = operation._opname.endswith("_grad")
    tensor: Tensor = args[0] if is_gradient else args[1]
    return tensor.shape[1] if is_gradient else tensor.shape[0]
