"""Trains a small network with grouped and dilated convolutions on scikit-learn's digits.

    python examples/train_digits.py                       # about half a minute on two cores
    python examples/train_digits.py --epochs 5 --folder /tmp/digits
    torchrun --nproc-per-node 2 examples/train_digits.py  # each process takes half of every batch

Writes checkpoint.pt after every epoch, and learning_curve.png at the end. Killed and started again,
it goes on after the last whole epoch; --restart begins anew. The images (1797 of 8 x 8 pixels) come
with scikit-learn, nothing is downloaded.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws into files: no window, no display

import matplotlib.pyplot as plt
import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.progress import Progress
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import handconv

TEST_SHARE = 5  # every fifth image
BATCH = 64


@dataclass
class History:
    """One entry for each epoch."""

    loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)


@dataclass
class Split:
    images: Tensor  # (N, 1, 8, 8), in 0..1
    labels: Tensor  # (N,)


def make_network() -> nn.Module:
    """Dense, grouped, dilated and depthwise convolutions: 8 x 8 pixels to 10 logits."""
    return nn.Sequential(
        handconv.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        handconv.Conv2d(32, 64, 3, padding=1, groups=8),
        nn.ReLU(),
        handconv.Conv2d(64, 64, 3, padding=2, dilation=2, groups=4),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        handconv.Conv2d(64, 64, 3, stride=2, padding=1, groups=64),
        handconv.Conv2d(64, 96, 1),
        nn.BatchNorm2d(96),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


def load_split() -> tuple[Split, Split]:
    """Images to train with, and images to test with."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    is_test = torch.arange(len(labels)) % TEST_SHARE == 0
    return Split(images[~is_test], labels[~is_test]), Split(images[is_test], labels[is_test])


def shifted(images: Tensor) -> Tensor:
    """Each image moved by up to a pixel either way, as hands write."""
    padded = F.pad(images, (1, 1, 1, 1))
    row, column = torch.randint(3, (2,)).tolist()
    return padded[:, :, row : row + 8, column : column + 8]


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """The number of this process and how many there are: what torchrun says, or 0 and 1."""
    if "RANK" not in os.environ:
        yield 0, 1
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    split: Split,
    rank: int,
    processes: int,
) -> float:
    """The mean loss of this process's part of each batch."""
    network.train()
    losses = []
    for whole_batch in torch.randperm(len(split.labels)).split(BATCH):
        batch = whole_batch[rank::processes]  # every process draws the same permutation
        optimizer.zero_grad()
        loss = F.cross_entropy(network(shifted(split.images[batch])), split.labels[batch])
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


@torch.no_grad()
def accuracy(network: nn.Module, split: Split) -> float:
    network.eval()
    right = network(split.images).argmax(1) == split.labels
    return float(right.float().mean())


def draw(history: History, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    epochs = range(1, len(history.loss) + 1)
    left.plot(epochs, history.loss)
    left.set(xlabel="epoch", ylabel="loss", yscale="log")
    right.plot(epochs, history.train_accuracy, label="train")
    right.plot(epochs, history.test_accuracy, label="test")
    right.set(xlabel="epoch", ylabel="accuracy", ylim=(0.8, 1.0))
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def train(epochs: int, folder: Path, restart: bool, rank: int, processes: int) -> History:
    torch.manual_seed(0)
    train_split, test_split = load_split()
    network = make_network()
    steps = epochs * -(-len(train_split.labels) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    history = History()
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists() and not restart:
        state = torch.load(checkpoint)
        if state["epochs"] == epochs:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            torch.set_rng_state(state["random"])
            history = History(**state["history"])
            print(f"goes on after epoch {len(history.loss)}")
    trained = DistributedDataParallel(network) if processes > 1 else network
    with Progress(disable=rank > 0) as progress:
        task = progress.add_task("training", total=epochs, completed=len(history.loss))
        while len(history.loss) < epochs:
            loss = train_epoch(trained, optimizer, schedule, train_split, rank, processes)
            history.loss.append(loss)
            history.train_accuracy.append(accuracy(network, train_split))
            history.test_accuracy.append(accuracy(network, test_split))
            if rank > 0:
                continue
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"random": torch.get_rng_state(), "history": vars(history), "epochs": epochs}
            unfinished = checkpoint.with_suffix(".part")  # a kill while writing leaves the old one
            torch.save(state, unfinished)
            unfinished.replace(checkpoint)
            description = f"test accuracy {history.test_accuracy[-1]:.1%}"
            progress.update(task, advance=1, description=description)
    return history


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains on scikit-learn's digits.")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument(
        "--folder", type=Path, default=Path("digits"), help="what is written goes here"
    )
    parser.add_argument("--restart", action="store_true", help="ignore the checkpoint")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with process_group() as (rank, processes):
        history = train(options.epochs, options.folder, options.restart, rank, processes)
    if rank > 0:
        return
    draw(history, options.folder / "learning_curve.png")
    print(f"test accuracy {history.test_accuracy[-1]:.2%} after {options.epochs} epochs")
    print(f"wrote {options.folder / 'learning_curve.png'}")


if __name__ == "__main__":
    main()
