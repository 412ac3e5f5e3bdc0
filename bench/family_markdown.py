"""The tables of families as Markdown, for documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from measuring import Measurement, Summary, dtype_name, summarize
from table import (
    EQUAL,
    LAYOUT_TITLES,
    MEAN_OF,
    SLOT_TITLES,
    families_of,
    rivals_of,
    statistic_of,
    summary_columns,
)

# A single ratio below this is a loss, and not what a noisy machine makes of a draw.
LOSS = 1 - EQUAL


def family_tables(measurements: Sequence[Measurement]) -> str:
    """A table of geometric means for each dtype and rival, as in `report.family_summaries`."""
    sections = []
    for dtype in dict.fromkeys(m.dtype for m in measurements):
        for rival in rivals_of(measurements):
            chosen = [m for m in measurements if m.dtype == dtype and rival in m.results]
            if chosen:
                sections.append("\n".join(_family_table(chosen, rival)) + "\n")
    return "\n".join(sections)


def _family_table(measurements: Sequence[Measurement], rival: str) -> Iterator[str]:
    which = statistic_of(measurements)
    dtype = dtype_name(measurements[0].dtype)
    yield f"{dtype}: time of {rival} / time of handconv, {MEAN_OF[which]}"
    yield ""
    columns = summary_columns(measurements, rival)
    titles = [f"{LAYOUT_TITLES[layout]}: {SLOT_TITLES[slot]}" for layout, slot in columns]
    yield _line(["family (layers)", *titles])
    yield _line(["---"] * (1 + len(columns)))
    for name in (*families_of(measurements), "all"):
        members = [m for m in measurements if name in (m.family, "all")]
        layers = len({m.case for m in members})
        cells = [
            summarize((m for m in members if (m.layout, m.slot) == column), which, rival)
            for column in columns
        ]
        yield _line([f"{name} ({layers})", *map(_cell, cells)])
    yield ""
    ratios = [r for m in measurements if (r := m.ratio(which, rival)) is not None]
    yield f"{sum(r < LOSS for r in ratios)} of {len(ratios)} single ratios are below {LOSS}."


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(summary: Summary | None) -> str:
    """The mean, and the lowest of several in parentheses."""
    if summary is None:
        return ""
    mean = f"{summary.mean:.2f}"
    return f"{mean} ({summary.lowest:.2f})" if summary.count > 1 else mean
