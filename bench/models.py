"""Times whole networks, as they are and on handconv: python bench/models.py --help

The networks are those of the transformers library with random weights, wider than in the tests.
Inference and training step (forward, backward) of the original, of the converted and, where blocks
can be fused, of the fused network are called in turn in this process. Also per-sample convolution,
in the lesson's case.

The originals of narrow networks can crash: in channels_last the backward of F.conv2d, 1x1 with
stride 2 on few channels, writes outside its memory (torch 2.13, CPU; RegNet with --scale 1).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from cases import MEMORY_FORMATS
from machine import describe_machine
from measuring import HANDCONV, RIVAL, Call, Limits, race
from networks import NETWORKS, make_network
from repvgg import RepVGGBlock
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import handconv

FUSED = "handconv, fused"


@dataclass(frozen=True)
class Row:
    """Times in milliseconds, minima and medians, by contender."""

    model: str
    layout: str
    what: str
    minima: dict[str, float]
    medians: dict[str, float]

    def ratio(self, contender: str) -> float:
        """Time of the original / time of the contender."""
        return self.minima[RIVAL] / self.minima[contender]


def repvgg(width: int) -> nn.Module:
    """Blocks of 3x3, 1x1 and identity, each with batch normalisation.

    The stem is no block: in channels_last the backward of F.conv2d, 1x1 with stride 2 on 3
    channels, writes outside its memory (torch 2.13, CPU).
    """
    torch.manual_seed(0)
    blocks: list[nn.Module] = [nn.Conv2d(3, width, 3, stride=2, padding=1)]
    for stage in range(3):
        c = width << stage
        blocks += [RepVGGBlock(c, c), RepVGGBlock(c, 2 * c, stride=2)]
    return nn.Sequential(*blocks).eval()


def inference(net: nn.Module, images: Tensor) -> Call:
    def call() -> Tensor:
        with torch.inference_mode():
            output: Tensor = net(images)
        return output

    return call


def training_step(net: nn.Module, images: Tensor) -> Call:
    def call() -> None:
        net.zero_grad()
        net(images).square().mean().backward()

    return call


MODES: dict[str, tuple[bool, Callable[[nn.Module, Tensor], Call]]] = {
    "inference": (False, inference),
    "training step": (True, training_step),
}


def row_of(model: str, layout: str, what: str, calls: dict[str, Call], limits: Limits) -> Row:
    for call in calls.values():
        call()
    times = race(calls, limits)
    return Row(
        model,
        layout,
        what,
        {name: time.minimum * 1e3 for name, time in times.items()},
        {name: time.median * 1e3 for name, time in times.items()},
    )


def measure_network(name: str, images: Tensor, scale: int, limits: Limits) -> Iterator[Row]:
    original = repvgg(16 * scale) if name == "RepVGG" else make_network(name, scale)
    for layout, memory_format in MEMORY_FORMATS.items():
        placed = images.contiguous(memory_format=memory_format)
        networks = {RIVAL: original, HANDCONV: handconv.convert(copy.deepcopy(original))}
        if name == "RepVGG":
            networks[FUSED] = handconv.fuse(networks[HANDCONV])[0]
        for what, (training, make) in MODES.items():
            calls = {
                contender: make(net.to(memory_format=memory_format).train(training), placed)
                for contender, net in networks.items()
                if not (training and contender == FUSED)
            }
            yield row_of(name, layout, what, calls, limits)


def measure_per_sample(limits: Limits) -> Iterator[Row]:
    """The lesson's case: 100 samples of 1024 x 14 x 14, each with filters of its own."""
    images = torch.randn(100, 1024, 14, 14)
    for kernel in ((14, 1), (1, 14)):
        weight = torch.randn(100, 1, 1024, *kernel)

        def loop(weight: Tensor = weight) -> Tensor:
            samples = zip(images.split(1), weight, strict=True)
            return torch.cat([F.conv2d(image, filters) for image, filters in samples])

        def grouped(weight: Tensor = weight) -> Tensor:
            return F.conv2d(images.reshape(1, -1, 14, 14), weight.flatten(0, 1), groups=100)

        def ours(weight: Tensor = weight) -> Tensor:
            return handconv.conv2d_per_sample(images, weight)

        calls: dict[str, Call] = {RIVAL: loop, "F.conv2d, groups=N": grouped, HANDCONV: ours}
        yield row_of(f"per sample, {kernel[0]}x{kernel[1]}", "nchw", "forward", calls, limits)


def print_rows(console: Console, rows: list[Row]) -> None:
    table = Table(title="milliseconds, minimum (median); ratio of minima: original / contender")
    for column in ("model", "layout", "what", "original", "contender", "time", "ratio"):
        table.add_column(
            column, justify="right" if column in ("original", "time", "ratio") else "left"
        )

    def time(row: Row, contender: str) -> str:
        return f"{row.minima[contender]:.2f} ({row.medians[contender]:.2f})"

    for row in rows:
        for contender in row.minima:
            if contender != RIVAL:
                cells = (time(row, RIVAL), contender, time(row, contender))
                table.add_row(
                    row.model, row.layout, row.what, *cells, f"{row.ratio(contender):.2f}"
                )
    console.print(table)


def draw(rows: list[Row], path: Path) -> None:
    """Bars of the ratios; at 1 both are as fast."""
    labels = [f"{row.model}, {row.layout}, {row.what}" for row in rows]
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(rows) + 1), layout="constrained")
    axes.barh(labels, [row.ratio(HANDCONV) for row in rows], color="tab:blue")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="time of the original / time on handconv")
    axes.invert_yaxis()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Times whole networks with and without handconv.")
    add = parser.add_argument
    names = [*NETWORKS, "RepVGG"]
    add("--model", nargs="+", choices=names, default=names)
    add("--scale", type=int, default=2, help="width of the networks, 1 being the smallest")
    add("--batch", type=int, default=4)
    add("--size", type=int, default=128, help="of the images, in pixels")
    add("--repeats", type=int, default=30, help="calls wanted of each side")
    add("--output", type=Path, default=Path(__file__).parent / "results", help="for JSON and PNG")
    add("--no-per-sample", dest="per_sample", action="store_false")
    options = parser.parse_args()
    limits = Limits(calls=options.repeats, most=20.0)
    images = torch.randn(options.batch, 3, options.size, options.size)
    rows = []
    for name in track(options.model, console=Console(stderr=True), transient=True):
        rows += measure_network(name, images, options.scale, limits)
    if options.per_sample:
        rows += measure_per_sample(limits)
    print_rows(Console(), rows)
    options.output.mkdir(parents=True, exist_ok=True)
    contents = {"machine": describe_machine(), "rows": [asdict(row) for row in rows]}
    (options.output / "models.json").write_text(json.dumps(contents, indent=1, default=str) + "\n")
    draw(rows, options.output / "models.png")
    print(f"wrote {options.output / 'models.json'} and models.png")


if __name__ == "__main__":
    main()
