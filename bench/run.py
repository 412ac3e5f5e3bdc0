"""Times handconv against F.conv2d on real layers: python bench/run.py --help

For every layer, layout and slot (forward, input gradient, weight gradient) the two sides are called
in turn in this process; each answer is first checked against F.conv2d in float64, and a wrong one
is not timed. The figures are printed as a table and written as JSON and as a PNG for each dtype.

On the CPU the rival is oneDNN, timed by the clock on the wall. With --device cuda it is cuDNN
twice, with torch.backends.cudnn.benchmark off and on; calls are timed by CUDA events, on inputs
that do not sit in the GPU's cache; TF32 is off, for everybody, unless --tf32 is given.

--suite cpu measures every family in every dtype and prints the families alone; --peer adds another
library; --check-auto compares the rows of the kernel table with each other instead.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import report
import suite
import torch
from cases import LAYOUTS, SLOTS, Case, Tensors, layers
from clocks import Call, clock_of
from contenders import (
    contenders,
    copies_to_exceed,
    copy_of,
    float64_result,
    kernel_name,
    rotated,
)
from devices import DEVICES, why_no_cuda
from families import family_of
from machine import cache_bytes, describe_machine, measure_ceilings
from measuring import HANDCONV, Limits, Measurement, dtype_name, measure
from overhead import measure_overhead
from peers import PEERS, Peer, onnxruntime
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rows import contest, print_contests
from table import Context, print_measurements, print_overhead

import handconv

BENCH = Path(__file__).resolve().parent
DTYPES = ("float32", "float64", "bfloat16", "float16")

# Wide enough for the table when the output goes to a file or another program.
FILE_WIDTH = 200

QUICK_LAYERS_A_FAMILY = 1
OVERHEAD_CALLS = 20_000


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/run.py", description="Times handconv against F.conv2d on real layers."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a layer of each family, in under a minute")
    add("--suite", choices=("cpu",), help="every family, all dtypes; prints the families alone")
    add("--dtype", nargs="+", choices=DTYPES, help="default: float32, in a suite all")
    add("--layout", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    add("--slot", nargs="+", choices=SLOTS, default=list(SLOTS))
    add("--case", metavar="PATTERN", default="*", help="layers with this in their name; * and ?")
    add("--layers", type=Path, help="table of layers (default: that of the device)")
    add("--algorithm", choices=handconv.algorithms(), default="auto")
    add("--threads", type=int, help="threads of both sides (default: torch's)")
    add("--device", choices=DEVICES, default="cpu")
    add("--tf32", action="store_true", help="let both sides use TF32 for float32 on CUDA")
    add("--repeats", type=int, help="calls wanted of each side (default: 30, with --quick 10)")
    add("--peer", choices=PEERS, help="another library, in a process of its own")
    add("--check-auto", action="store_true", help="instead: is there a better row than auto's?")
    add("--overhead", action="store_true", help="instead: the cost of a call, in microseconds")
    add("--output", type=Path, default=BENCH / "results", help="folder for JSON and PNG")
    options = parser.parse_args(arguments)
    if options.dtype is None:
        options.dtype = list(DTYPES) if options.suite else ["float32"]
    if options.layers is None:
        layers_of_device = "gpu_layers.csv" if options.device == "cuda" else "cpu_layers.csv"
        options.layers = BENCH / "layers" / layers_of_device
    return options


def choose_cases(options: argparse.Namespace) -> list[Case]:
    """The layers that match, a whole family together."""
    pattern = f"*{options.case}*"
    cases = [c for c in layers(options.layers) if fnmatch.fnmatchcase(c.name, pattern)]
    return quick_selection(cases) if options.quick else cases


def quick_selection(cases: Sequence[Case]) -> list[Case]:
    """The lightest layers of each family, those of one image before those of a batch."""
    chosen: list[Case] = []
    for family in dict.fromkeys(map(family_of, cases)):
        members = [c for c in cases if family_of(c) == family]
        members.sort(key=lambda c: (c.N, c.flops))
        chosen += members[:QUICK_LAYERS_A_FAMILY]
    return chosen


def choose_limits(options: argparse.Namespace) -> Limits:
    """On CUDA the times are far shorter than what it takes to get them."""
    if options.device == "cuda":
        calls = options.repeats or (10 if options.quick else 30)
        return Limits(calls=calls, enough=0.005, most=1.0, warm_up=3)
    if options.quick:
        return Limits(calls=options.repeats or 10, enough=0.02, most=0.4, fewest=1)
    if options.suite or options.check_auto:
        return Limits(calls=options.repeats or 30, enough=0.1, most=3.0)
    return Limits(calls=options.repeats or 30)


class Job(NamedTuple):
    """One case in one dtype, to be measured in these layouts."""

    case: Case
    dtype: torch.dtype
    layouts: tuple[str, ...]


def jobs_of(cases: Sequence[Case], options: argparse.Namespace) -> list[Job]:
    found = []
    for name, case in itertools.product(options.dtype, cases):
        if options.suite and not suite.includes(case, name):
            continue
        layouts = tuple(x for x in suite.layouts_of(case) if x in options.layout)
        found.append(Job(case, getattr(torch, name), layouts))
    return [job for job in found if job.layouts]


def with_progress(jobs: Sequence[Job]) -> Iterator[Job]:
    """The jobs, under a progress bar that goes to stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(jobs))
        for job in jobs:
            progress.update(task, description=f"{dtype_name(job.dtype)} {job.case.name}")
            yield job
            progress.advance(task)


def measure_job(
    job: Job, options: argparse.Namespace, limits: Limits, peer: Peer | None = None
) -> Iterator[Measurement]:
    """Every layout and slot of one case; the values are the same in all, so is what is right."""
    case, dtype, layouts = job
    device = options.device
    plain = case.tensors(dtype, device=device)
    expected = {slot: float64_result(case, plain, slot) for slot in options.slot}
    for layout, slot in itertools.product(layouts, options.slot):
        tensors = case.tensors(dtype, layout, device=device)
        kernel = kernel_name(case, tensors, slot, options.algorithm)
        calls = calls_out_of_cache(case, tensors, slot, options.algorithm)
        results = measure(calls, expected[slot], dtype, limits, clock_of(device), tf32=options.tf32)
        if peer and peer.takes(slot, dtype, layout):
            results[options.peer] = peer.measure(case, tensors, expected[slot], limits)
        yield Measurement(case, slot, dtype, layout, kernel, results)


def calls_out_of_cache(case: Case, tensors: Tensors, slot: str, algorithm: str) -> dict[str, Call]:
    """The contenders, on as many copies of the operands as the cache of the device asks for."""
    device, dtype = tensors.x.device.type, tensors.x.dtype
    more = copies_to_exceed(cache_bytes(device), case, dtype) - 1
    copies = itertools.chain([tensors], (copy_of(tensors) for _ in range(more)))
    return rotated([contenders(case, copy, slot, algorithm) for copy in copies])


def measure_all(
    jobs: Sequence[Job], options: argparse.Namespace, limits: Limits
) -> list[Measurement]:
    with onnxruntime(torch.get_num_threads()) if options.peer else nullcontext() as peer:
        return [
            measurement
            for job in with_progress(jobs)
            for measurement in measure_job(job, options, limits, peer)
        ]


def check_auto(
    console: Console, jobs: Sequence[Job], options: argparse.Namespace, limits: Limits
) -> None:
    contests = [
        contest(job.case, job.case.tensors(job.dtype, layout), slot, layout, limits)
        for job in with_progress(jobs)
        for layout, slot in itertools.product(job.layouts, options.slot)
    ]
    print_contests(console, contests)


def prepare_torch(options: argparse.Namespace) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device == "cuda":
        torch.backends.cudnn.allow_tf32 = options.tf32
        torch.backends.cuda.matmul.allow_tf32 = options.tf32


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if an answer of handconv was wrong, 2 if there is nothing to measure, else 0."""
    options = parse(arguments)
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    if options.device == "cuda" and (missing := why_no_cuda()):
        console.print(missing)
        return 2
    prepare_torch(options)
    if options.overhead:
        calls = options.repeats or OVERHEAD_CALLS
        print_overhead(console, measure_overhead(calls, options.device))
        return 0
    cases = choose_cases(options)
    if not cases:
        console.print(f"no layer of {options.layers} has {options.case!r} in its name")
        return 2
    jobs, limits = jobs_of(cases, options), choose_limits(options)
    if options.check_auto:
        check_auto(console, jobs, options, limits)
        return 0
    machine = describe_machine(options.device)
    dtypes = [getattr(torch, name) for name in options.dtype]
    ceilings = measure_ceilings(dtypes, 0.3 if options.quick else 1.5, options.device)
    measurements = measure_all(jobs, options, limits)
    context = Context(ceilings, limits, machine["title"])
    print_measurements(console, measurements, context, details=not options.suite)
    for path in report.write(measurements, ceilings, machine, options):
        console.print(f"wrote {path}")
    wrong = [m for m in measurements if m.times(HANDCONV) is None]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
