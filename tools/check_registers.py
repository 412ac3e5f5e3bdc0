"""Compiles every CUDA kernel and looks at what ptxas says of it: registers, spills, stack.

    python tools/check_registers.py [--only PATTERN] [--verbose]

Fails where a kernel spills registers or takes more of them than is stated below. Needs nvcc, but no
GPU and no torch; without nvcc it says so and succeeds.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "csrc"
ARCHITECTURES = ("80", "90a")
FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xptxas=-v", "-cubin"]

# Registers of a thread. 128 leave room for two blocks of 256 threads on a multiprocessor.
BUDGET = 128
# Files with kernels of 128 threads, which hold more sums in registers: three blocks of 168 fit, or
# two of 255. Most of them are those of float64.
BUDGETS = {
    "depthwise_channels.cu": 255,
    "depthwise_channels_weight.cu": 200,
    "depthwise_planes.cu": 168,
    "depthwise_planes_weight.cu": 168,
    "grouped.cu": 168,
}

ENTRY = re.compile(r"Compiling entry function '(?P<name>\w+)' for '(?P<architecture>\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel; `stack` and `spills` in bytes of a thread."""

    file: str
    architecture: str
    name: str
    registers: int
    stack: int
    spills: int

    @property
    def faults(self) -> list[str]:
        budget = BUDGETS.get(self.file, BUDGET)
        found = []
        if self.spills:
            found.append(f"spills {self.spills} bytes")
        if self.registers > budget:
            found.append(f"takes {self.registers} registers, the budget is {budget}")
        return found


def compile_file(nvcc: str, file: Path, architecture: str) -> list[Kernel]:
    """The kernels of one file for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        target = [f"-arch=sm_{architecture}", "-o", str(Path(folder, "out.cubin"))]
        completed = subprocess.run(
            [nvcc, *FLAGS, *target, f"-I{SOURCES}", str(file)], capture_output=True, text=True
        )
    output = completed.stdout + completed.stderr
    if completed.returncode:
        raise SystemExit(f"{file} does not compile for sm_{architecture}:\n{output}")
    return list(parse(file.name, output))


def parse(file: str, output: str) -> Iterator[Kernel]:
    """The kernels that ptxas names in what it prints with -v."""
    parts = ENTRY.split(output)
    for name, architecture, report in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        spills, registers = SPILLS.search(report), REGISTERS.search(report)
        if spills is None or registers is None:
            raise SystemExit(f"ptxas says nothing of {name}:\n{report}")
        stack, stores, loads = map(int, spills.groups())
        yield Kernel(file, architecture, name, int(registers[1]), stack, stores + loads)


def demangle(names: list[str]) -> list[str]:
    """Readable names, where c++filt is there."""
    if not shutil.which("c++filt"):
        return names
    filtered = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True)
    return filtered.stdout.splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", default="*", help="files with names like this")
    parser.add_argument("--verbose", action="store_true", help="a line for every kernel")
    options = parser.parse_args()
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        print("no nvcc found: the CUDA kernels were not compiled")
        return 0
    files = [f for f in sorted(SOURCES.glob("cuda/*.cu")) if fnmatch.fnmatch(f.name, options.only)]
    jobs = [(nvcc, file, architecture) for file in files for architecture in ARCHITECTURES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kernels = [
            kernel for found in pool.map(lambda job: compile_file(*job), jobs) for kernel in found
        ]
    names = demangle([kernel.name for kernel in kernels])
    faulty = 0
    for kernel, name in zip(kernels, names, strict=True):
        faulty += bool(kernel.faults)
        if kernel.faults or options.verbose:
            resources = f"{kernel.registers:3} registers, {kernel.stack} bytes of stack"
            print(
                f"sm_{kernel.architecture.removeprefix('sm_')} {kernel.file}: {resources}: {name}"
            )
            for fault in kernel.faults:
                print(f"    {fault}")
    for file in files:
        registers = [kernel.registers for kernel in kernels if kernel.file == file.name]
        print(
            f"{file.name}: {len(registers)} kernels, at most {max(registers, default=0)} registers"
        )
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
