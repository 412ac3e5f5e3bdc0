"""What a run leaves in files: every figure as JSON, families in Markdown, pictures by dtype."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from family_markdown import family_tables
from machine import Ceilings
from measuring import Measurement, dtype_name, summarize
from picture import draw
from table import families_of, rivals_of


def as_json(
    measurements: Sequence[Measurement],
    ceilings: Ceilings,
    machine: dict[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    return {
        "options": {key: value for key, value in vars(options).items() if key != "output"},
        "machine": machine,
        "ceilings": {
            "gflops": ceilings.gflops,
            "copy_gbytes_per_second": ceilings.gbytes_per_second,
            "share_of_cpu_time": ceilings.cpu_share,
        },
        "families": list(family_summaries(measurements)),
        "measurements": [
            m.as_dict(ceilings.peak(m.dtype), ceilings.gbytes_per_second) for m in measurements
        ],
    }


def family_summaries(measurements: Sequence[Measurement]) -> Iterator[dict[str, Any]]:
    """Geometric means of the ratios by dtype, layout, slot and family, as in the printed table."""
    keys = dict.fromkeys((m.dtype, m.layout, m.slot) for m in measurements)
    for family in families_of(measurements):
        for key in keys:
            members = [
                m for m in measurements if m.family == family and (m.dtype, m.layout, m.slot) == key
            ]
            for rival in rivals_of(members):
                yield from family_summary(members, rival)


def family_summary(members: Sequence[Measurement], rival: str) -> Iterator[dict[str, Any]]:
    """One entry, or none where nothing was measured right on both sides."""
    minima, medians = (summarize(members, which, rival) for which in ("minimum", "median"))
    if minima is None or medians is None:
        return
    m = members[0]
    yield {
        "family": m.family,
        "dtype": dtype_name(m.dtype),
        "layout": m.layout,
        "slot": m.slot,
        "rival": rival,
        "layers": minima.count,
        "ratio_of_minima": minima.mean,
        "ratio_of_medians": medians.mean,
        "lowest": minima.lowest,
        "highest": minima.highest,
    }


def write(
    measurements: Sequence[Measurement],
    ceilings: Ceilings,
    machine: dict[str, Any],
    options: argparse.Namespace,
) -> list[Path]:
    """<device>[-suite][-tf32][-quick].json, .md and a PNG for each dtype; returns the paths."""
    options.output.mkdir(parents=True, exist_ok=True)
    marks = ["suite"] * bool(options.suite) + ["tf32"] * options.tf32 + ["quick"] * options.quick
    stem = "-".join([options.device, *marks])
    paths = [options.output / f"{stem}.{suffix}" for suffix in ("json", "md")]
    contents = as_json(measurements, ceilings, machine, options)
    paths[0].write_text(json.dumps(contents, indent=1, default=str) + "\n")
    paths[1].write_text(f"{machine['title']}\n\n{family_tables(measurements)}")
    for name in dict.fromkeys(dtype_name(m.dtype) for m in measurements):
        path = options.output / f"{stem}-{name}.png"
        draw([m for m in measurements if dtype_name(m.dtype) == name], ceilings, machine, path)
        paths.append(path)
    return paths
