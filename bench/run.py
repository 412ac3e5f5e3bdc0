"""Times handconv against F.conv2d on real layers: python bench/run.py --help

For every layer, layout and slot (forward, input gradient, weight gradient) the two sides are called
in turn in this process; each answer is first checked against F.conv2d in float64, and a wrong one
is not timed. The figures are printed as a table and written as JSON and as a PNG for each dtype.

On the CPU the rival is oneDNN, timed by the clock on the wall. With --device cuda it is cuDNN
twice, with torch.backends.cudnn.benchmark off and on; calls are timed by CUDA events, on inputs
that do not sit in the GPU's cache; TF32 is off, for everybody, unless --tf32 is given.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

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
from machine import Ceilings, cache_bytes, describe_machine, measure_ceilings
from measuring import HANDCONV, TINY_FLOPS, Limits, Measurement, dtype_name, measure, summarize
from overhead import measure_overhead
from picture import draw
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from table import Context, families_of, print_measurements, print_overhead, rivals_of

import handconv

BENCH = Path(__file__).resolve().parent
DTYPES = ("float32", "float64", "bfloat16", "float16")

# Wide enough for the table when the output goes to a file or another program.
FILE_WIDTH = 200

QUICK_LAYERS_A_FAMILY = 2
OVERHEAD_CALLS = 20_000


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/run.py", description="Times handconv against F.conv2d on real layers."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="some layers of each family, in under a minute")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32"])
    add("--layout", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    add("--slot", nargs="+", choices=SLOTS, default=list(SLOTS))
    add("--case", metavar="PATTERN", default="*", help="layers with this in their name; * and ?")
    add("--layers", type=Path, help="table of layers (default: that of the device)")
    add("--algorithm", choices=handconv.algorithms(), default="auto")
    add("--threads", type=int, help="threads of both sides (default: torch's)")
    add("--device", choices=DEVICES, default="cpu")
    add("--tf32", action="store_true", help="let both sides use TF32 for float32 on CUDA")
    add("--repeats", type=int, help="calls wanted of each side (default: 30, with --quick 10)")
    add("--overhead", action="store_true", help="instead: the cost of a call, in microseconds")
    add("--output", type=Path, default=BENCH / "results", help="folder for JSON and PNG")
    options = parser.parse_args(arguments)
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
    for family in dict.fromkeys(c.family for c in cases):
        members = [c for c in cases if c.family == family and c.flops >= TINY_FLOPS]
        members.sort(key=lambda c: (c.N, c.flops))
        chosen += members[:QUICK_LAYERS_A_FAMILY]
    tiny = [c for c in cases if c.flops < TINY_FLOPS]
    return chosen + tiny[:1]


def choose_limits(options: argparse.Namespace) -> Limits:
    """On CUDA the times are far shorter than what it takes to get them."""
    if options.device == "cuda":
        calls = options.repeats or (10 if options.quick else 30)
        return Limits(calls=calls, enough=0.005, most=1.0, warm_up=3)
    if options.quick:
        return Limits(calls=options.repeats or 10, enough=0.02, most=0.4, fewest=1)
    return Limits(calls=options.repeats or 30)


def measure_case(
    case: Case, dtype: torch.dtype, options: argparse.Namespace, limits: Limits
) -> Iterator[Measurement]:
    """Every layout and slot of one case; the values are the same in all, so is what is right."""
    device = options.device
    plain = case.tensors(dtype, device=device)
    expected = {slot: float64_result(case, plain, slot) for slot in options.slot}
    for layout in options.layout:
        tensors = case.tensors(dtype, layout, device=device)
        for slot in options.slot:
            kernel = kernel_name(case, tensors, slot, options.algorithm)
            calls = calls_out_of_cache(case, tensors, slot, options.algorithm)
            results = measure(
                calls, expected[slot], dtype, limits, clock_of(device), tf32=options.tf32
            )
            yield Measurement(case, slot, dtype, layout, kernel, results)


def calls_out_of_cache(case: Case, tensors: Tensors, slot: str, algorithm: str) -> dict[str, Call]:
    """The contenders, on as many copies of the operands as the cache of the device asks for."""
    device, dtype = tensors.x.device.type, tensors.x.dtype
    more = copies_to_exceed(cache_bytes(device), case, dtype) - 1
    copies = itertools.chain([tensors], (copy_of(tensors) for _ in range(more)))
    return rotated([contenders(case, copy, slot, algorithm) for copy in copies])


def measure_all(
    cases: Sequence[Case], options: argparse.Namespace, limits: Limits
) -> list[Measurement]:
    """All cases under a progress bar, which goes to stderr."""
    found: list[Measurement] = []
    total = len(cases) * len(options.dtype) * len(options.layout) * len(options.slot)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        for name in options.dtype:
            for case in cases:
                progress.update(task, description=f"{name} {case.name}")
                for measurement in measure_case(case, getattr(torch, name), options, limits):
                    found.append(measurement)
                    progress.advance(task)
    return found


def as_json(
    measurements: Sequence[Measurement],
    ceilings: Ceilings,
    machine: dict[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    return {
        "options": {key: value for key, value in vars(options).items() if key != "output"},
        "machine": machine,
        "ceilings": {
            "gflops": ceilings.gflops,
            "copy_gbytes_per_second": ceilings.gbytes_per_second,
            "share_of_cpu_time": ceilings.cpu_share,
        },
        "families": list(family_summaries(measurements)),
        "measurements": [
            m.as_dict(ceilings.peak(m.dtype), ceilings.gbytes_per_second) for m in measurements
        ],
    }


def family_summaries(measurements: Sequence[Measurement]) -> Iterator[dict[str, Any]]:
    """Geometric means of the ratios by dtype, layout, slot and family, as in the printed table."""
    keys = dict.fromkeys((m.dtype, m.layout, m.slot) for m in measurements)
    for family in families_of(measurements):
        for key in keys:
            members = [
                m for m in measurements if m.family == family and (m.dtype, m.layout, m.slot) == key
            ]
            for rival in rivals_of(members):
                yield from family_summary(members, rival)


def family_summary(members: Sequence[Measurement], rival: str) -> Iterator[dict[str, Any]]:
    """One entry, or none where nothing was measured right on both sides."""
    minima, medians = (summarize(members, which, rival) for which in ("minimum", "median"))
    if minima is None or medians is None:
        return
    m = members[0]
    yield {
        "family": m.family,
        "dtype": dtype_name(m.dtype),
        "layout": m.layout,
        "slot": m.slot,
        "rival": rival,
        "layers": minima.count,
        "ratio_of_minima": minima.mean,
        "ratio_of_medians": medians.mean,
        "lowest": minima.lowest,
        "highest": minima.highest,
    }


def write(
    measurements: Sequence[Measurement],
    ceilings: Ceilings,
    machine: dict[str, Any],
    options: argparse.Namespace,
) -> list[Path]:
    """<device>[-tf32][-quick].json and a PNG for each dtype; returns the paths."""
    options.output.mkdir(parents=True, exist_ok=True)
    stem = options.device + "-tf32" * options.tf32 + "-quick" * options.quick
    paths = [options.output / f"{stem}.json"]
    contents = as_json(measurements, ceilings, machine, options)
    paths[0].write_text(json.dumps(contents, indent=1, default=str) + "\n")
    for name in options.dtype:
        path = options.output / f"{stem}-{name}.png"
        draw([m for m in measurements if dtype_name(m.dtype) == name], ceilings, machine, path)
        paths.append(path)
    return paths


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
    machine = describe_machine(options.device)
    dtypes = [getattr(torch, name) for name in options.dtype]
    ceilings = measure_ceilings(dtypes, 0.3 if options.quick else 1.5, options.device)
    limits = choose_limits(options)
    measurements = measure_all(cases, options, limits)
    print_measurements(console, measurements, Context(ceilings, limits, machine["title"]))
    for path in write(measurements, ceilings, machine, options):
        console.print(f"wrote {path}")
    wrong = [m for m in measurements if m.times(HANDCONV) is None]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
