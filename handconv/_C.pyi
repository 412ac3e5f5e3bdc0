from collections.abc import Sequence
from typing import Any

from torch import Tensor

def conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    /,
) -> Tensor: ...
def conv2d_input_grad(
    y: Tensor,
    w: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    /,
) -> Tensor: ...

conv2d_direct = conv2d
conv2d_im2col = conv2d
conv2d_direct_input_grad = conv2d_input_grad
conv2d_im2col_input_grad = conv2d_input_grad

def build_info() -> dict[str, Any]: ...
def cpu_features() -> dict[str, bool]: ...
def isa() -> str: ...
def threads_at_work() -> int: ...
def kernels() -> list[dict[str, str]]: ...
def force_kernel(name: str) -> None: ...
def forced_kernel() -> str: ...
def allow_winograd(allowed: bool) -> None: ...
def winograd_is_allowed() -> bool: ...
def explain(
    device: str,
    slot: str,
    algorithm: str,
    x: Tensor,
    w: Tensor,
    y: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> list[tuple[dict[str, str], str | None, int]]: ...
