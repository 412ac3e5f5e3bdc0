"""The scripts of examples/ run and write what they promise."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

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


DIGITS = PHOTOGRAPH.with_name("train_digits.py")


@pytest.mark.slow
def test_digits_are_learnt_under_torchrun(tmp_path):
    pytest.importorskip("sklearn")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    run = subprocess.run(
        [*launcher, "--standalone", DIGITS, "--epochs", "5", "--folder", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("test accuracy ") >= 1
    assert torch.load(tmp_path / "checkpoint.pt")["history"]["test_accuracy"][-1] > 0.9


@pytest.mark.slow
def test_digits_are_learnt_across_a_kill(tmp_path):
    pytest.importorskip("sklearn")
    command = [sys.executable, DIGITS, "--epochs", "8", "--folder", tmp_path]
    checkpoint = tmp_path / "checkpoint.pt"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as killed:
        while not checkpoint.exists() and killed.poll() is None:
            time.sleep(0.05)
        killed.kill()
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "goes on after epoch " in run.stdout
    history = torch.load(checkpoint)["history"]
    assert len(history["test_accuracy"]) == 8
    assert history["test_accuracy"][-1] > 0.97
    assert plt.imread(tmp_path / "learning_curve.png").std() > 0.05, "the picture is blank"
