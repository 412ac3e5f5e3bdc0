"""The tables that a person reads, drawn with rich."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from cases import LAYOUTS, SLOTS
from families import FAMILIES
from machine import Ceilings
from measuring import (
    HANDCONV,
    RIVAL,
    TUNED_RIVAL,
    Limits,
    Measurement,
    Summary,
    dtype_name,
    summarize,
)
from overhead import Overhead
from rich.console import Console
from rich.measure import Measurement as Width
from rich.table import Table
from rich.text import Text

SLOT_TITLES = {
    "forward": "forward",
    "input_grad": "input gradient",
    "weight_grad": "weight gradient",
}
LAYOUT_TITLES = {"nchw": "NCHW", "channels_last": "NHWC"}
MEAN_OF = {"minimum": "minima", "median": "medians"}

# Ratios within this of 1 are drawn as equal.
EQUAL = 0.05

# A machine that gives its threads less of the time than this is doing something else too.
IDLE_SHARE = 0.9


class Context(NamedTuple):
    """What a cell needs besides its own measurement."""

    ceilings: Ceilings
    limits: Limits
    machine: str  # in words


class Column(NamedTuple):
    title: str
    cell: Callable[[Measurement, Context], str | Text]
    essential: bool = True  # kept where the terminal is narrow
    justify: Literal["left", "right"] = "right"


def rivals_of(measurements: Iterable[Measurement]) -> list[str]:
    """The contenders besides handconv, each once."""
    return list(dict.fromkeys(name for m in measurements for name in m.results if name != HANDCONV))


def families_of(measurements: Iterable[Measurement]) -> list[str]:
    """The families that occur, in the order of FAMILIES."""
    return sorted({m.family for m in measurements}, key=FAMILIES.index)


def print_measurements(
    console: Console,
    measurements: Sequence[Measurement],
    context: Context,
    *,
    details: bool = True,
) -> None:
    """For each dtype a table with a section for each family, then the geometric means.

    Without details the means alone.
    """
    for dtype in dict.fromkeys(m.dtype for m in measurements):
        chosen = [m for m in measurements if m.dtype == dtype]
        if details:
            columns = columns_of(chosen)
            table = _detail(chosen, context, columns)
            if not _fits(console, table):
                table = _detail(chosen, context, [c for c in columns if c.essential])
            console.print(table)
        for note in _notes(chosen, context):
            console.print(note, style="dim")
        for rival in rivals_of(chosen):
            summary = _summary(chosen, rival, with_range=True)
            if not _fits(console, summary):
                summary = _summary(chosen, rival, with_range=False)
            console.print()
            console.print(summary)
        console.print()


def _fits(console: Console, table: Table) -> bool:
    unlimited = console.options.update(max_width=1000)
    return Width.get(console, unlimited, table).maximum <= console.width


def _detail(
    measurements: Sequence[Measurement], context: Context, columns: Sequence[Column]
) -> Table:
    """What does not change from the row above is left out of the first two columns."""
    dtype, ceilings = measurements[0].dtype, context.ceilings
    table = Table(
        title=f"{dtype_name(dtype)}, {context.machine}; measured ceilings: matmul "
        f"{ceilings.peak(dtype):.0f} GFLOP/s, copy {ceilings.gbytes_per_second:.0f} GB/s",
        title_style="bold",
        title_justify="left",
    )
    for title in ("layer", "", "slot"):
        table.add_column(title, no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify=column.justify, no_wrap=True)
    for family in families_of(measurements):
        table.add_row(Text(family, style="bold cyan"))
        above = None
        for m in (m for m in measurements if m.family == family):
            same_case = above is not None and above.case == m.case
            same_layout = same_case and above is not None and above.layout == m.layout
            table.add_row(
                "" if same_case else f"  {m.case.name}",
                "" if same_layout else LAYOUT_TITLES[m.layout],
                SLOT_TITLES[m.slot] + (" +" if m.page_faults else ""),
                *(column.cell(m, context) for column in columns),
            )
            above = m
        table.add_section()
    return table


def _times(measurement: Measurement, contender: str, which: str) -> Text:
    if contender not in measurement.results:
        return Text("-")
    times = measurement.times(contender)
    if times is None:
        return Text("wrong", style="bold red")
    return Text(significant(getattr(times, which) * 1e3))


def _ratio(ratio: float | None) -> Text:
    if ratio is None:
        return Text("-")
    style = "green" if ratio > 1 + EQUAL else "red" if ratio < 1 - EQUAL else ""
    return Text(f"{ratio:.2f}", style=style)


def _gflops(measurement: Measurement, context: Context) -> str:
    gflops = measurement.gflops()
    return "-" if gflops is None else significant(gflops)


def _share(measurement: Measurement, context: Context) -> str:
    gflops = measurement.gflops()
    return "-" if gflops is None else f"{gflops / context.ceilings.peak(measurement.dtype):.0%}"


def _teraflops(measurement: Measurement, context: Context) -> str:
    gflops = measurement.gflops()
    return "-" if gflops is None else significant(gflops / 1e3)


def _gbytes(measurement: Measurement, context: Context) -> str:
    gbytes = measurement.gbytes_per_second()
    return "-" if gbytes is None else significant(gbytes)


def _share_of_copy(measurement: Measurement, context: Context) -> str:
    gbytes = measurement.gbytes_per_second()
    return "-" if gbytes is None else f"{gbytes / context.ceilings.gbytes_per_second:.0%}"


def _error(measurement: Measurement, contender: str) -> Text:
    result = measurement.results[contender]
    return Text(f"{result.error:.1e}", style="bold red" if result.times is None else "")


def _calls(measurement: Measurement, context: Context) -> str:
    """How often each side was called, with a mark where that is less than was wanted."""
    counts = [t.calls for name in measurement.results if (t := measurement.times(name))]
    if not counts:
        return "-"
    return f"{min(counts)}{'*' if min(counts) < context.limits.calls else ''}"


def _columns_against(rival: str) -> tuple[Column, ...]:
    """Times of a rival, and the ratios."""
    return (
        Column(f"{rival}\nms, min", lambda m, _: _times(m, rival, "minimum")),
        Column("\nmedian", lambda m, _: _times(m, rival, "median"), essential=False),
        Column("ratio of\nminima", lambda m, _: _ratio(m.ratio("minimum", rival))),
        Column("ratio of\nmedians", lambda m, _: _ratio(m.ratio("median", rival)), essential=False),
    )


OURS = (
    Column("kernel", lambda m, _: m.kernel, essential=False, justify="left"),
    Column("handconv\nms, min", lambda m, _: _times(m, HANDCONV, "minimum")),
    Column("\nmedian", lambda m, _: _times(m, HANDCONV, "median"), essential=False),
)
RATES_OF_CPU = (Column("\nGFLOP/s", _gflops), Column("of\npeak", _share))
RATES_OF_CUDA = (
    Column("\nTFLOP/s", _teraflops),
    Column("of\nmatmul", _share),
    Column("\nGB/s", _gbytes),
    Column("of\ncopy", _share_of_copy),
)
CARE = (
    Column("handconv\nerror", lambda m, _: _error(m, HANDCONV)),
    Column(f"{RIVAL}\nerror", lambda m, _: _error(m, RIVAL), essential=False),
    Column("\ncalls", _calls, essential=False),
)


def columns_of(measurements: Sequence[Measurement]) -> list[Column]:
    on_cuda = measurements[0].device == "cuda"
    rivals = itertools.chain.from_iterable(map(_columns_against, rivals_of(measurements)))
    return [*OURS, *rivals, *(RATES_OF_CUDA if on_cuda else RATES_OF_CPU), *CARE]


def _notes(measurements: Sequence[Measurement], context: Context) -> list[str]:
    notes = [
        "ratio: time of F.conv2d / time of handconv in the same layout; above 1 handconv is "
        "faster.",
        "GFLOP/s: handconv's quickest call, taps in the padding counted. error: relative L2 "
        "against F.conv2d in float64. NHWC: channels_last.",
    ]
    if any(TUNED_RIVAL in m.results for m in measurements):
        notes.append(
            f"{RIVAL}: torch.backends.cudnn.benchmark off; {TUNED_RIVAL}: on. GB/s: what must be "
            "moved at least. Inputs come from memory, not from the cache."
        )
    share = context.ceilings.cpu_share
    if share < IDLE_SHARE:
        notes.append(
            f"The machine was busy: the threads got {share:.0%} of their time. Measure again."
        )
    if any(m.page_faults for m in measurements):
        notes.append("+: a result above 32 MiB; each call, of either side, faults its pages in.")
    if any(_calls(m, context).endswith("*") for m in measurements):
        notes.append(f"*: fewer than {context.limits.calls} calls of each, for want of time.")
    if any(m.times(name) is None for m in measurements for name in m.results):
        notes.append("wrong: too far from the float64 result, so not timed.")
    return notes


def statistic_of(measurements: Sequence[Measurement]) -> str:
    """Medians on CUDA, whose clock lacks the tail that other programs give the CPU's."""
    return "median" if measurements[0].device == "cuda" else "minimum"


def summary_columns(measurements: Sequence[Measurement], rival: str) -> list[tuple[str, str]]:
    """The layouts and slots that the rival took part in, in the order of tables."""
    found = {(m.layout, m.slot) for m in measurements if rival in m.results}
    return [column for column in itertools.product(LAYOUTS, SLOTS) if column in found]


def _summary(measurements: Sequence[Measurement], rival: str, with_range: bool) -> Table:
    """Geometric means by family, one column for each layout and slot."""
    which = statistic_of(measurements)
    columns = summary_columns(measurements, rival)
    range_title = " (lowest to highest layer)" if with_range else ""
    table = Table(
        title=f"{dtype_name(measurements[0].dtype)} against {rival}: ratio of "
        f"{MEAN_OF[which]}, geometric mean{range_title}",
        title_style="bold",
        title_justify="left",
    )
    table.add_column("family", no_wrap=True)
    table.add_column("\nlayers", justify="right")
    for layout, slot in columns:
        title = f"{LAYOUT_TITLES[layout]}\n{SLOT_TITLES[slot]}"
        table.add_column(title, justify="right", no_wrap=with_range)
    groups = {f: [m for m in measurements if m.family == f] for f in families_of(measurements)}
    for name, members in (*groups.items(), ("all", measurements)):
        if name == "all":
            table.add_section()
        cells = [
            _summary_cell(
                summarize((m for m in members if (m.layout, m.slot) == column), which, rival),
                with_range,
            )
            for column in columns
        ]
        table.add_row(name, str(len({m.case for m in members})), *cells)
    return table


def _summary_cell(summary: Summary | None, with_range: bool) -> Text:
    if summary is None:
        return _ratio(None)
    cell = _ratio(summary.mean)
    if with_range and summary.count > 1:
        cell.append(f" ({summary.lowest:.2f} to {summary.highest:.2f})", style="dim")
    return cell


def significant(value: float) -> str:
    """Three significant digits without an exponent: 0.00123, 1.23, 123, 1234."""
    decimals = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{max(decimals, 0)}f}"


def print_overhead(console: Console, found: Iterable[Overhead]) -> None:
    table = Table(
        title="Cost of a call, microseconds (median)", title_style="bold", title_justify="left"
    )
    for column in ("input", "what"):
        table.add_column(column, no_wrap=True)
    for column in (HANDCONV, RIVAL, "difference", "calls of each"):
        table.add_column(column, justify="right")
    for row in found:
        table.add_row(
            row.case,
            row.what,
            f"{row.handconv:.2f}",
            f"{row.rival:.2f}",
            f"{row.difference:+.2f}",
            str(row.calls),
        )
    console.print(table)
