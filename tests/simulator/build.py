"""Compiles the kernels of csrc/cuda for the simulator, each family into a library of its own too.

    python tests/simulator/build.py [FAMILY ...]

prints the path of the library, build/simulator/<family>/libsimulated.so; without a family, of that
which has all. A family, as gemm or reference, is a file of csrc/cuda, or several whose names begin
like it. Only what changed is compiled.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
OUTPUT = ROOT / "build" / "simulator"

ALL = "all"
FAULTS = "faults"
LIBRARY = "libsimulated.so"

# The simulator's headers come first, so that its cuda/instructions.h is found and not that of csrc.
# Kernels may look at memory as another type, which nvcc allows. What is not initialised has a value
# that shows. The functions that -fsanitize calls stand in sanitizer.cpp, hence no such flag when
# linking.
FLAGS = [
    "-std=c++20",
    "-O2",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-ftrivial-auto-var-init=pattern",
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-maybe-uninitialized",
    f"-I{HERE}",
    f"-I{CSRC}",
]
# Integer overflow, which the small cases cannot reach, would double the time to compile.
SANITIZERS = ["-fsanitize=alignment,bounds,shift", "-fno-sanitize-recover=all"]

RULES = """\
rule compile
  command = $cxx -MMD -MF $out.d $flags $sanitizers -x c++ -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = simulator: $in
rule link
  command = $cxx -shared -Wl,--no-undefined -o $out $in
"""


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def declared_families() -> list[str]:
    """Those of csrc/cuda/kernels.h, best first."""
    return re.findall(r"KernelList cuda_(\w+)\(\);", (CSRC / "cuda" / "kernels.h").read_text())


def families() -> list[str]:
    """Those that are written."""
    return [family for family in declared_families() if _kernels_of(family)]


def _kernels_of(library: str) -> list[Path]:
    kernels = sorted((CSRC / "cuda").glob("*.cu"))
    if library == ALL:
        return kernels
    return [path for path in kernels if f"{path.stem}_".startswith(f"{library}_")]


def _sources_of(library: str) -> list[Path]:
    simulator = [HERE / f"{name}.cpp" for name in ("simulator", "errors", "sanitizer")]
    if library == FAULTS:
        return [*simulator, HERE / "faults.cu", HERE / "fragments.cu"]
    return [*simulator, HERE / "library.cpp", HERE / "gemm_library.cpp", *_kernels_of(library)]


def _build_file(library: str) -> Iterator[str]:
    yield f"cxx = {compiler()}"
    yield f"flags = {' '.join(FLAGS)}"
    yield RULES
    objects = []
    for source in _sources_of(library):
        objects.append(f"{source.name}.o")
        yield f"build {objects[-1]}: compile {source}"
        yield f"  sanitizers = {' '.join(SANITIZERS) if source.suffix == '.cu' else ''}"
    yield f"build {LIBRARY}: link {' '.join(objects)}"
    yield ""


def build(library: str = ALL) -> Path:
    """The path of the library, which is up to date; raises with what the compiler says."""
    folder = OUTPUT / library
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = "\n".join(_build_file(library))
        file = folder / "build.ninja"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        process = subprocess.run(
            [*_ninja(), "-C", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if process.returncode != 0:
        raise RuntimeError(process.stdout)
    return folder / LIBRARY


def _ninja() -> list[str]:
    """The ninja of this Python, or that of the path."""
    beside = Path(sys.executable).with_name("ninja")
    return [str(beside) if beside.exists() else "ninja"]


def main() -> None:
    for library in sys.argv[1:] or [ALL]:
        print(build(library))


if __name__ == "__main__":
    main()
