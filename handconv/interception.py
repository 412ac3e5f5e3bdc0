"""F.conv2d and F.conv_transpose2d of any code, sent to handconv while a context lasts."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from handconv import _C
from handconv.functional import conv2d, conv_transpose2d

_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    torch.conv2d: conv2d,
    torch.conv_transpose2d: conv_transpose2d,
}
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_DEVICES = {"cpu", "meta"} | ({"cuda"} if _C.build_info()["cuda"] else set())


class enabled(TorchFunctionMode):
    """Inside `with handconv.enabled():`, every F.conv2d and F.conv_transpose2d runs on handconv.

    That includes the calls that torch.nn's modules make, and those of code that calls the functions
    itself. What handconv has no kernel for (integers, complex numbers, sparse tensors, other
    devices) still runs on torch.

    torch takes every function mode off while it goes through a backward pass, and this is one: what
    a checkpoint computes again there would run on torch, which the checkpoint finds out and refuses
    (with use_reentrant=False). Let it enter this one, or convert the model instead:

        checkpoint(..., use_reentrant=False, context_fn=lambda: (nullcontext(), enabled()))

    Attributes:
        calls: how many calls went to handconv.
        passed: how many went to torch instead, by reason.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.passed: Counter[str] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        replacement = _REPLACEMENTS.get(func)
        if replacement is None:
            return func(*args, **kwargs)
        reason = _reason_against(*args, **kwargs)
        if reason is not None:
            self.passed[reason] += 1
            return func(*args, **kwargs)
        self.calls += 1
        return replacement(*args, **kwargs)


def _reason_against(
    input: Any = None, weight: Any = None, bias: Any = None, *_: Any, **__: Any
) -> str | None:
    """Why handconv cannot take a call; None if it can, or if the call is wrong anyhow."""
    for tensor in (input, weight, bias):
        if not isinstance(tensor, Tensor):
            continue
        if tensor.layout is not torch.strided or tensor.is_quantized:
            return "not a plain dense tensor"
        if tensor.dtype not in _DTYPES:
            return f"dtype {tensor.dtype}"
        if tensor.device.type not in _DEVICES:
            return f"device {tensor.device.type}"
    return None
