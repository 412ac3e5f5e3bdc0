"""The devices that tests and bench can use here. This needs torch and handconv alone."""

from __future__ import annotations

import torch

from handconv import _C

DEVICES = ("cpu", "cuda")


def why_no_cuda() -> str | None:
    """What is missing for anything on CUDA, or None."""
    if not _C.build_info()["cuda"]:
        return "handconv was built without CUDA"
    return None if torch.cuda.is_available() else "torch finds no GPU"
