"""Every CUDA row, forced over the small cases on the simulator (tests/simulator), without a GPU.

What is checked stands in simulator/checks.py: each row in all dtypes and layouts, with memory that
faults around its operands, for several orders of threads. A fault may end the process, so each
family and slot runs in one of its own, and as many of them at once as there are processors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from cases import SLOTS
from simulator import build

pytestmark = [
    pytest.mark.skipif(build.compiler() is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator needs mprotect and ucontext"),
]

RUN = Path(build.__file__).with_name("run.py")
JOBS = [(family, slot) for family in build.families() for slot in SLOTS]

Runs = dict[tuple[str, str], "Future[subprocess.CompletedProcess[str]]"]


def run(family: str, slot: str) -> subprocess.CompletedProcess[str]:
    # -P: the installed package, not the source folder that the tests may be run from.
    return subprocess.run(
        [sys.executable, "-P", RUN, family, "--slot", slot],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """All of them, started together."""
    for family in build.families():
        build.build(family)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield {job: pool.submit(run, *job) for job in JOBS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("family", "slot"), JOBS)
def test_every_row_is_right(family: str, slot: str, runs: Runs) -> None:
    process = runs[family, slot].result()
    assert process.returncode == 0, process.stdout[-4000:]


def test_every_declared_family_is_here() -> None:
    declared = build.declared_families()
    assert build.families() == declared
