"""The scripts of examples/ run and write what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

plt = pytest.importorskip("matplotlib.pyplot")

PHOTOGRAPH = Path(__file__).parent.parent / "examples" / "photograph.py"


def test_photograph(tmp_path):
    output = tmp_path / "lessons.png"
    run = subprocess.run(
        [sys.executable, PHOTOGRAPH, "--output", output],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"wrote {output}\n"
    picture = plt.imread(output)
    height, width, _ = picture.shape
    assert height > 500 and width > 500
    assert picture[..., :3].std() > 0.1, "the picture is blank"
    assert list(tmp_path.iterdir()) == [output], "nothing else is written"
