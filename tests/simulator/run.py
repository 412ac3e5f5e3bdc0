"""Runs CUDA rows on the simulator over the small cases and prints what they do.

    python tests/simulator/run.py reference        one family, all cases of few FLOPs
    python tests/simulator/run.py gemm --kernel '*simt' --slot forward --case '3x3*' --dtype float32

Cases, kernels, slots, layouts and dtypes are patterns of the shell. Ends with 1 if anything fails,
or if a row takes none of all cases. --jobs 2 uses two processes, a slot each. Seconds are those of
the processor.
"""

from __future__ import annotations

import argparse
import faulthandler
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from cases import DTYPES, LAYOUTS, SLOTS, SMALL_CASES
from simulator import build
from simulator.checks import Setting, checks_of
from simulator.library import Row, Simulator

# The few cases above it, there for how CPU kernels divide work, would take most of the time.
MOST_FLOPS = 2e6


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("family", nargs="?", default=build.ALL, help="all families by default")
    for option in ("kernel", "slot", "case", "layout", "dtype"):
        parser.add_argument(f"--{option}", default="*")
    parser.add_argument("--flops", type=float, default=MOST_FLOPS, help="of a case, at most")
    parser.add_argument("--failures", type=int, default=5, help="printed for each row")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="each problem before it runs")
    return parser.parse_args(arguments)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def settings_of(simulator: Simulator, row: Row, options: argparse.Namespace) -> Iterator[Setting]:
    for case in SMALL_CASES:
        if case.N == 0 or case.flops > options.flops:
            continue
        if not fnmatchcase(case.name, options.case):
            continue
        for layout in LAYOUTS:
            for dtype in DTYPES:
                if fnmatchcase(layout, options.layout) and fnmatchcase(
                    name_of(dtype), options.dtype
                ):
                    yield Setting(simulator, row, case, dtype, layout)


def run_row(simulator: Simulator, row: Row, options: argparse.Namespace) -> bool:
    """Prints what fails and a summary; whether all is well."""
    begin, count = time.process_time(), Counter[str]()
    for setting in settings_of(simulator, row, options):
        if options.verbose:
            print(setting, flush=True)
        if setting.refusal():
            count["refused"] += 1
            continue
        errors = [error for error in checks_of(setting) if error]
        count["failed" if errors else "right"] += 1
        if errors and count["failed"] <= options.failures:
            print(f"FAILED {setting}: {'; '.join(errors)}", flush=True)
    everything = all(getattr(options, name) == "*" for name in ("case", "layout", "dtype"))
    takes_nothing = everything and count["right"] + count["failed"] == 0
    seconds = time.process_time() - begin
    print(
        f"{row.name:36} {row.slot:12} right {count['right']:4}  failed {count['failed']:4}"
        f"  refused {count['refused']:4}  {seconds:6.1f} s"
        + ("  TAKES NO CASE" if takes_nothing else ""),
        flush=True,
    )
    return not count["failed"] and not takes_nothing


def run_slots_beside(options: argparse.Namespace) -> bool:
    """A process for each slot."""
    build.build(options.family)

    def child(slot: str) -> bool:
        # Of an option that comes twice the second counts.
        command = [sys.executable, *sys.argv, "--jobs=1", f"--slot={slot}"]
        return subprocess.run(command, check=False).returncode == 0

    slots = [slot for slot in SLOTS if fnmatchcase(slot, options.slot)]
    with ThreadPoolExecutor(options.jobs) as pool:
        return all(list(pool.map(child, slots)))


def main() -> None:
    options = parsed()
    if options.jobs > 1:
        sys.exit(not run_slots_beside(options))
    faulthandler.enable()
    torch.set_num_threads(1)  # the problems are tiny
    simulator = Simulator(options.family)
    rows = [
        row
        for row in simulator.rows
        if fnmatchcase(row.name, options.kernel) and fnmatchcase(row.slot, options.slot)
    ]
    if not rows:
        sys.exit("no such kernel")
    # A list, so that all rows run.
    sys.exit(not all([run_row(simulator, row, options) for row in rows]))


if __name__ == "__main__":
    main()
