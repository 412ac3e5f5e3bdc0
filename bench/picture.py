"""The picture of a run: speed-up by family about the parity line, and the roofline."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import LAYOUTS, SLOTS
from machine import Ceilings
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from measuring import HANDCONV, RIVAL, Measurement, dtype_name, summarize
from table import SLOT_TITLES, families_of

LAYOUT_TITLES = {"nchw": "NCHW", "channels_last": "channels_last (NHWC)"}
# Okabe and Ito's colours, which colour-blind readers tell apart.
SLOT_COLOURS = {"forward": "#0072B2", "input_grad": "#E69F00", "weight_grad": "#009E73"}
SLOT_MARKERS = {"forward": "o", "input_grad": "s", "weight_grad": "^"}
FAINT = "#8a8a8a"
GRID: dict[str, Any] = {"color": "#e4e4e4", "linewidth": 0.6}
HALO = [withStroke(linewidth=2.5, foreground="white")]


def draw(
    measurements: Sequence[Measurement], ceilings: Ceilings, machine: dict[str, Any], path: Path
) -> None:
    """Draws the measurements of one dtype: a row for each layout, bars left, roofline right."""
    layouts = [layout for layout in LAYOUTS if any(m.layout == layout for m in measurements)]
    slots = [slot for slot in SLOTS if any(m.slot == slot for m in measurements)]
    dtype = measurements[0].dtype
    figure = Figure(figsize=(22, 5 * len(layouts) + 1.2), layout="constrained")
    axes = figure.subplots(
        len(layouts), 2, width_ratios=(2, 1), squeeze=False, sharey="col", sharex="col"
    )
    figure.suptitle(
        f"handconv against F.conv2d, {dtype_name(dtype)}\n"
        f"{machine['title']}, torch {machine['torch']}, "
        f"{machine['date'][:10]}",
        fontsize=13,
    )
    for (bars, roofline), layout in zip(axes, layouts, strict=True):
        chosen = [m for m in measurements if m.layout == layout]
        bars.set_title(f"{LAYOUT_TITLES[layout]}: speed-up by family")
        _draw_bars(bars, chosen, slots)
        roofline.set_title(f"{LAYOUT_TITLES[layout]}: roofline")
        _draw_roofline(roofline, chosen, ceilings, dtype)
    _leave_room(axes[0, 0])
    figure.legend(handles=_legend(slots), loc="outside lower center", ncols=len(slots) + 2)
    figure.savefig(path, dpi=120)


def _legend(slots: Sequence[str]) -> list[Line2D]:
    """One legend for both halves."""
    ours = [
        Line2D([], [], marker=SLOT_MARKERS[slot], linestyle="", color=SLOT_COLOURS[slot],
               markersize=8, label=f"handconv, {SLOT_TITLES[slot]}")
        for slot in slots
    ]  # fmt: skip
    theirs = Line2D(
        [], [], marker="o", linestyle="", color=FAINT, mfc="white", label=f"{RIVAL} (roofline)"
    )
    layer = Line2D([], [], marker=".", linestyle="", color="black", label="one layer (speed-up)")
    return [*ours, theirs, layer]


def _draw_bars(axes: Axes, measurements: Sequence[Measurement], slots: Sequence[str]) -> None:
    """Bars from parity to the geometric mean of each family and slot."""
    families = families_of(measurements)
    width = 0.84 / len(slots)
    for place, slot in enumerate(slots):
        offset = (place - (len(slots) - 1) / 2) * width
        for position, family in enumerate(families):
            members = [m for m in measurements if m.slot == slot and m.family == family]
            _draw_bar(axes, members, position + offset, width, SLOT_COLOURS[slot])
    axes.set_yscale("log")
    axes.axhline(1, color="black", linewidth=1.2, zorder=3)
    labels = [_tick_label(family, measurements) for family in families]
    axes.set_xticks(range(len(families)), labels, fontsize=8)
    axes.set_xlim(-0.6, len(families) - 0.4)
    axes.set_ylabel("time of F.conv2d / time of handconv\n(above 1 handconv is faster)")
    axes.grid(axis="y", **GRID)
    _finish(axes, axes.yaxis)


def _tick_label(family: str, measurements: Sequence[Measurement]) -> str:
    layers = len({m.case for m in measurements if m.family == family})
    return "\n".join([*textwrap.wrap(family, width=11), f"({layers})"])


def _draw_bar(
    axes: Axes, members: Sequence[Measurement], position: float, width: float, colour: str
) -> None:
    """One bar with its figure at its end, and a point for each layer."""
    summary = summarize(members)
    if summary is None:
        return
    mean, upwards = summary.mean, summary.mean >= 1
    axes.bar(position, mean - 1, 0.94 * width, bottom=1, color=colour, alpha=0.8, zorder=2)
    if summary.count > 1:
        ratios = [ratio for m in members if (ratio := m.ratio()) is not None]
        axes.scatter(
            [position] * len(ratios), ratios, s=10, color="black", alpha=0.6, linewidths=0, zorder=4
        )
    axes.annotate(
        f"{mean:.2f}" if mean < 10 else f"{mean:.0f}",
        (position, mean),
        xytext=(0, 3 if upwards else -3),
        textcoords="offset points",
        ha="center",
        va="bottom" if upwards else "top",
        fontsize=8,
        path_effects=HALO,
        zorder=5,
    )


def _leave_room(axes: Axes) -> None:
    """Room for the figures at the ends of the bars, and parity never at the rim."""
    lowest, highest = axes.get_ylim()
    axes.set_ylim(min(lowest / 1.15, 0.7), max(highest * 1.15, 1.5))


def _draw_roofline(
    axes: Axes, measurements: Sequence[Measurement], ceilings: Ceilings, dtype: torch.dtype
) -> None:
    """Both sides of each measurement, joined by a line, below what the ceilings allow."""
    shown = [m for m in measurements if m.gflops() is not None and m.family != "tiny"]
    axes.set_xscale("log")
    axes.set_yscale("log")
    _draw_roof(axes, [m.intensity for m in shown], ceilings, dtype)
    for m in shown:
        _draw_point(axes, m)
    axes.set_xlabel("FLOP / byte that must be moved")
    axes.set_ylabel("GFLOP/s")
    axes.grid(**GRID)
    _finish(axes, axes.xaxis, axes.yaxis)


def _draw_point(axes: Axes, measurement: Measurement) -> None:
    ours, theirs = measurement.gflops(HANDCONV), measurement.gflops(RIVAL)
    colour, marker = SLOT_COLOURS[measurement.slot], SLOT_MARKERS[measurement.slot]
    x = measurement.intensity
    if ours is None:
        return
    if theirs is not None:
        axes.plot([x, x], [theirs, ours], color=colour, linewidth=0.9, alpha=0.5)
        axes.plot(x, theirs, marker, color=FAINT, mfc="white", ms=4.5)
    axes.plot(x, ours, marker, color=colour, ms=6, mec="white", mew=0.6)


def _draw_roof(
    axes: Axes, intensities: Sequence[float], ceilings: Ceilings, dtype: torch.dtype
) -> None:
    peak, bandwidth = ceilings.peak(dtype), ceilings.gbytes_per_second
    ridge = peak / bandwidth
    x = np.geomspace(min([*intensities, ridge]) / 2, max([*intensities, ridge]) * 2, 200)
    axes.plot(x, [ceilings.roof(dtype, value) for value in x], color="black", linewidth=1.4)
    axes.text(x[-1], peak * 1.06, f"matmul {peak:.0f} GFLOP/s", ha="right", va="bottom", fontsize=9)
    middle = math.sqrt(x[0] * ridge)
    axes.text(
        middle,
        middle * bandwidth * 1.12,
        f"copy {bandwidth:.0f} GB/s",
        rotation=math.degrees(math.atan(bandwidth)),
        rotation_mode="anchor",
        transform_rotates_text=True,
        ha="center",
        va="bottom",
        fontsize=9,
    )
    axes.margins(y=0.1)


def _finish(axes: Axes, *logarithmic: Axis) -> None:
    """1, 2, 5, 10, ... in plain figures on the logarithmic axes; figures on every panel."""
    for axis in logarithmic:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.tick_params(labelbottom=True, labelleft=True)
    axes.set_axisbelow(True)
