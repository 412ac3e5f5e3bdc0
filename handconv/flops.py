"""What torch.utils.flop_counter counts for every op: the multiplications and additions of the
definition, padding included.
"""

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

from handconv.operations import SLOT_SUFFIXES, TRIOS

Shape = tuple[int, ...]


def _products(y: Shape, w: Shape) -> int:
    """Each element of y sums the products of one filter."""
    return 2 * prod(y) * prod(w[1:])


def _forward(x: Shape, w: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return _products(out_shape, w)


def _input_grad(y: Shape, w: Shape, *_: Any, **__: Any) -> int:
    return _products(y, w)


def _weight_grad(y: Shape, x: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return _products(y, out_shape)


_FORMULAS: dict[str, Any] = {
    "forward": _forward,
    "input_grad": _input_grad,
    "weight_grad": _weight_grad,
}


def register() -> None:
    """Registers the formulas of all ops; called once, when the package is imported."""
    for trio in TRIOS.values():
        for slot, suffix in SLOT_SUFFIXES.items():
            operation = getattr(torch.ops.handconv, trio + suffix)
            if operation not in flop_registry:  # the package may be reloaded
                register_flop_formula(operation)(_FORMULAS[slot])
