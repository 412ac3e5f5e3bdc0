"""Runs every CUDA kernel once over the small cases; made to be run under compute-sanitizer.

    compute-sanitizer --tool memcheck python tests/sanitizer_cases.py
    compute-sanitizer --tool racecheck python tests/sanitizer_cases.py --case '3x3*' --layout nchw

Ends with 1 if a result is wrong, and says which. Patterns are those of the shell.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import os
import sys
from collections.abc import Iterator, Sequence

import torch
from cases import LAYOUTS, SLOTS, SMALL_CASES, Case
from devices import DEVICES, why_no_cuda
from helpers import agrees, each_kernel, exact, operands_of, use_device

DTYPES = ("float32", "bfloat16", "float64", "float16")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sanitizer_cases.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--case", metavar="PATTERN", default="*")
    add("--kernel", metavar="PATTERN", default="*")
    add("--layout", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    # Kernels differ between 32 and 16 bits; float64 is written as float32 is, float16 as bfloat16.
    add("--dtype", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    add("--device", choices=DEVICES, default="cuda", help="cpu: to try this script out")
    return parser.parse_args(arguments)


def problems(options: argparse.Namespace) -> Iterator[tuple[Case, str, str, torch.dtype]]:
    cases = [c for c in SMALL_CASES if fnmatch.fnmatchcase(c.name, options.case) and c.N > 0]
    dtypes = [getattr(torch, name) for name in options.dtype]
    yield from itertools.product(cases, SLOTS, options.layout, dtypes)


def checked_kernels(
    case: Case, slot: str, layout: str, dtype: torch.dtype, pattern: str
) -> Iterator[tuple[str, bool]]:
    """Each kernel that ran, and whether its result was wrong."""
    operands = operands_of(case, slot, dtype, layout)
    expected = exact(case, slot).to(dtype)
    for kernel, result in each_kernel(case, slot, operands, pattern=pattern):
        yield kernel.name, not agrees(kernel, result, expected)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    missing = why_no_cuda()
    if options.device == "cuda" and missing:
        print(missing, file=sys.stderr)
        return 2
    # Each tensor in an allocation of its own: the sanitizer then knows where it ends, and what of
    # it was never written. torch reads this when CUDA starts, which is later.
    if options.device == "cuda":
        os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    runs, failures = 0, 0
    # Kernels in TF32 run too; small integers are exact in it.
    tf32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=True)
    with use_device(options.device), tf32:
        for problem in problems(options):
            for name, wrong in checked_kernels(*problem, options.kernel):
                runs, failures = runs + 1, failures + wrong
                if wrong:
                    print("wrong:", name, *problem)
    print(f"{runs} runs of kernels, {failures} wrong")
    return 1 if failures or not runs else 0


if __name__ == "__main__":
    sys.exit(main())
