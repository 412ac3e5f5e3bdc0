"""HANDCONV_ISA: what the table lists, what runs, and what a wrong value says, each in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from handconv import _C

ISAS = ("baseline", "avx2", "avx512")

SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from helpers import CASES, exact, operands_of, run
from handconv import _C

for name in ("3x3", "1x1", "groups 4 of 4", "depthwise 5x5", "lesson: everything"):
    for slot in ("forward", "input_grad", "weight_grad"):
        for layout in ("nchw", "channels_last"):
            for dtype in (torch.float32, torch.bfloat16):
                operands = operands_of(CASES[name], slot, dtype, layout)
                for algorithm in ("auto", "direct", "im2col"):
                    found = run(CASES[name], slot, operands, algorithm)
                    assert torch.equal(found, exact(CASES[name], slot).to(dtype)), (name, slot)
print(json.dumps({"isa": _C.isa(), "kernels": [row["name"] for row in _C.kernels()]}))
"""


def run_with(isa: str, script: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        # -P: the installed package, not the source folder that the tests may be run from.
        [sys.executable, "-P", "-c", script, Path(__file__).parent],
        env=os.environ | {"HANDCONV_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


def kernels_are_of(isa: str, names: list[str]) -> bool:
    """The kernels of that instruction set and of those below it, and the reference."""
    allowed = ISAS[: ISAS.index(isa) + 1]
    of_cpu = [name for name in names if name.startswith("cpu.")]
    return {name.rsplit(".", 1)[1] for name in of_cpu} == {*allowed, "reference"}


@pytest.mark.parametrize("isa", ISAS)
def test_forced_instruction_set(isa: str) -> None:
    if not _C.cpu_features()[isa]:
        process = run_with(isa, "import handconv")
        assert process.returncode != 0
        assert f"HANDCONV_ISA={isa}, but this processor does not have it" in process.stderr
    elif isa != _C.isa():  # what this process has, all other tests test
        process = run_with(isa)
        assert process.returncode == 0, process.stderr
        found = json.loads(process.stdout)
        assert found["isa"] == isa
        assert kernels_are_of(isa, found["kernels"])


def test_wrong_value_is_refused_at_import() -> None:
    process = run_with("sse9", "import handconv")
    assert process.returncode != 0
    assert "ImportError" in process.stderr
    assert "HANDCONV_ISA=sse9 is none of avx512, avx2 and baseline" in process.stderr


def test_this_process_has_the_best() -> None:
    """Unless the environment says otherwise, which is how the whole suite is run on another."""
    features = _C.cpu_features()
    best = max((isa for isa in ISAS if features[isa]), key=ISAS.index)
    assert _C.isa() == (os.environ.get("HANDCONV_ISA") or best)
    assert kernels_are_of(_C.isa(), [row["name"] for row in _C.kernels()])
