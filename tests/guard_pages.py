"""Runs every kernel with operands that touch a page which may not be read.

    python guard_pages.py

Prints each case before, and each kernel after it ran, so that the end names what crashed.
Even a load whose surplus lanes are thrown away is caught, where NaN around the operands is not.
"""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import mmap
from collections.abc import Iterator

import torch
from cases import LAYOUTS, SLOTS, SMALL_CASES, Case
from helpers import Operands, each_fast_kernel, operands_of
from torch import Tensor

PROT_NONE = 0
libc = ctypes.CDLL(None, use_errno=True)


def fenced(tensor: Tensor, at_end: bool) -> Tensor:
    """A copy with the same strides that ends, or begins, at a page that may not be read."""
    size = tensor.numel() * tensor.element_size()
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    region = mmap.mmap(-1, pages + 2 * mmap.PAGESIZE)
    begin = mmap.PAGESIZE + (pages - size if at_end else 0)
    flat = torch.frombuffer(region, dtype=tensor.dtype, count=tensor.numel(), offset=begin)
    base = flat.data_ptr() - begin
    for fence in (base, base + mmap.PAGESIZE + pages):
        if libc.mprotect(ctypes.c_void_p(fence), mmap.PAGESIZE, PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    return flat.as_strided(tensor.shape, tensor.stride()).copy_(tensor)


# A type and the side of its fence. Loads run over the end far sooner than over the beginning.
FENCES = [(torch.float32, True), (torch.float32, False), (torch.bfloat16, True)]


def problems() -> Iterator[tuple[Case, str, Operands]]:
    for case, slot, layout in itertools.product(SMALL_CASES, SLOTS, LAYOUTS):
        for dtype, at_end in FENCES:
            if case.N > 0:
                plain = operands_of(case, slot, dtype, layout)
                yield case, slot, Operands(*(t if t is None else fenced(t, at_end) for t in plain))


def main() -> None:
    faulthandler.enable()
    for case, slot, operands in problems():
        print(f"{slot} of {case!r}, {operands.first.dtype}", flush=True)
        # The reference is slow, and made of checked indices alone.
        for kernel, _ in each_fast_kernel(case, slot, operands):
            print("past", kernel.name, flush=True)
    print("all done")


if __name__ == "__main__":
    main()
