"""The bench runs and writes what it promises; the named cases are what they say they are."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, LAYOUTS, MEMORY_FORMATS, SLOTS, SMALL_CASES, Case, layers
from devices import why_no_cuda
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

import handconv

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

import peers
import report
import rows
import run
from clocks import clock_of, wall_clock
from contenders import copies_to_exceed, copy_of, float64_result, kernel_name, rotated
from families import FAMILIES, family_of
from family_markdown import family_tables
from machine import Ceilings, describe_machine
from measuring import (
    HANDCONV,
    RIVAL,
    TOLERANCES,
    TUNED_RIVAL,
    Limits,
    Measurement,
    Result,
    Times,
    measure,
    race,
    relative_error,
    summarize,
    tolerance,
)
from table import Context, print_measurements, significant

BENCH = Path(run.__file__).parent
LAYER_TABLES = sorted((BENCH / "layers").glob("*.csv"))

by_name = pytest.mark.parametrize("case", SMALL_CASES, ids=str)


# The named cases.


def test_names_are_unique() -> None:
    names = [case.name for case in SMALL_CASES]
    assert len(set(names)) == len(names)


@by_name
def test_sizes_agree_with_torch(case: Case) -> None:
    x, w, bias, y = case.tensors(torch.float64)
    with FlopCounterMode(display=False) as counter:
        output = F.conv2d(x, w, bias, *case.arguments)
    assert case.output_shape == output.shape == y.shape
    assert case.flops == counter.get_total_flops()
    elements = x.numel() + w.numel() + output.numel()
    assert case.bytes("weight_grad", torch.float16) == 2 * elements
    assert case.bytes("forward", torch.float32) == 4 * (elements + case.OC * case.has_bias)


@by_name
def test_integer_results_are_exact_in_every_dtype(case: Case) -> None:
    tensors = case.tensors(torch.float64, integers=True)
    for slot in SLOTS:
        result = float64_result(case, tensors, slot)
        assert result.numel() == 0 or result.abs().max() < 256
        assert torch.equal(result, result.bfloat16().double())


@by_name
def test_values_depend_on_the_name_alone(case: Case) -> None:
    expected = case.tensors(torch.float64)
    for dtype in DTYPES:
        for layout in LAYOUTS:
            tensors = case.tensors(dtype, layout)
            for tensor, value in zip(tensors, expected, strict=True):
                assert (tensor is None) == (value is None)
                if tensor is not None and value is not None:
                    assert torch.equal(tensor, value.to(dtype))
            assert tensors.x.is_contiguous(memory_format=MEMORY_FORMATS[layout])


@pytest.mark.parametrize("path", LAYER_TABLES, ids=lambda path: path.stem)
def test_layer_tables(path: Path) -> None:
    cases = layers(path)
    assert len(cases) > 20
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert family_of(case) in FAMILIES
        assert min(case.output_size) > 0
        assert case.C % case.groups == case.OC % case.groups == 0


def test_two_numbers_in_a_layer_table(tmp_path: Path) -> None:
    path = tmp_path / "layers.csv"
    path.write_text("name,N,C,H,W,OC,k,stride,pad,dilation,groups\na,1,2,9,8,4,1x7,2,0x3,1,2\n")
    (case,) = layers(path)
    expected = Case("a", 1, 2, 9, 8, 4, (1, 7), (2, 2), (0, 3), (1, 1), groups=2)
    assert case == expected


# Statistics.

CASE = next(case for case in SMALL_CASES if case.name == "lesson: everything")


def measured(ours: float | None, theirs: float | None) -> Measurement:
    """A measurement with these minima in seconds, the medians twice as long."""
    results = {
        name: Result(0.0, None if seconds is None else Times(seconds, 2 * seconds, 30))
        for name, seconds in ((HANDCONV, ours), (RIVAL, theirs))
    }
    return Measurement(CASE, "forward", torch.float32, "nchw", "cpu.reference", results)


def test_ratio_is_above_one_where_handconv_is_faster() -> None:
    measurement = measured(ours=0.5, theirs=1.0)
    assert measurement.ratio("minimum") == measurement.ratio("median") == 2.0
    assert measurement.gflops() == CASE.flops / 0.5 / 1e9
    assert measurement.gflops(RIVAL) == CASE.flops / 1e9


def test_summary_is_a_geometric_mean() -> None:
    summary = summarize([measured(1.0, 4.0), measured(2.0, 1.0), measured(None, 1.0)])
    assert summary is not None
    assert summary.mean == pytest.approx(math.sqrt(4.0 * 0.5))
    assert (summary.lowest, summary.highest, summary.count) == (0.5, 4.0, 2)
    assert summarize([measured(1.0, None)]) is None


def test_page_faults_are_marked_from_32_mib() -> None:
    large = Case("large", 8, 96, 112, 112, 96, (3, 3), padding=(1, 1), groups=96)
    marks = {
        slot: Measurement(large, slot, torch.float32, "nchw", "", {}).page_faults for slot in SLOTS
    }
    assert marks == {"forward": True, "input_grad": True, "weight_grad": False}


def test_families_in_markdown() -> None:
    slow = replace(measured(ours=2.0, theirs=1.0), slot="weight_grad")
    lines = family_tables([measured(1.0, 4.0), measured(1.0, 1.0), slow]).splitlines()
    family = family_of(CASE)
    assert lines == [
        "float32: time of F.conv2d / time of handconv, minima",
        "",
        "| family (layers) | NCHW: forward | NCHW: weight gradient |",
        "| --- | --- | --- |",
        f"| {family} (1) | 2.00 (1.00) | 0.50 |",
        "| all (1) | 2.00 (1.00) | 0.50 |",
        "",
        "1 of 3 single ratios are below 0.95.",
    ]


@pytest.mark.parametrize(
    ("limits", "seconds_a_call", "rounds"),
    [
        (Limits(calls=30, enough=0.0), 0.001, 30),
        (Limits(calls=30, enough=0.99, most=9.0), 0.01, 50),
        (Limits(calls=30, most=4.0, fewest=3), 0.5, 5),
        (Limits(calls=30, most=4.0, fewest=3), 10.0, 3),
    ],
    ids=["as many as wanted", "more if quick", "fewer if slow", "never fewer than a few"],
)
def test_race_takes_turns_within_limits(limits: Limits, seconds_a_call: float, rounds: int) -> None:
    turns: list[str] = []

    def clock(call: object) -> float:
        call()  # type: ignore[operator]
        return seconds_a_call

    times = race({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, limits, clock)
    assert turns == ["a", "b"] * rounds
    assert times["a"] == times["b"] == Times(seconds_a_call, seconds_a_call, rounds)


@pytest.mark.parametrize("wrong", [2.0, math.nan, math.inf], ids=str)
def test_a_wrong_answer_is_not_timed(wrong: float) -> None:
    expected = torch.ones(3, dtype=torch.float64)
    calls = {HANDCONV: lambda: torch.full((3,), wrong), RIVAL: lambda: torch.ones(3)}
    results = measure(calls, expected, torch.float32, Limits(calls=3, enough=0.0))
    measurement = Measurement(CASE, "forward", torch.float32, "nchw", "", results)
    assert measurement.times(HANDCONV) is None
    assert measurement.ratio() is measurement.gflops() is None
    assert measurement.times(RIVAL) is not None
    figures = measurement.as_dict(peak=1.0)["contenders"]
    assert figures[HANDCONV]["wrong"] and "gflops" not in figures[HANDCONV]
    assert figures[RIVAL]["share_of_peak"] == figures[RIVAL]["gflops"]
    json.dumps(figures, allow_nan=False)


def test_relative_error() -> None:
    expected = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(torch.tensor([3.0, 4.5]), expected) == pytest.approx(0.1)
    assert relative_error(torch.ones(4), torch.zeros(4, dtype=torch.float64)) == 2.0


def test_three_significant_digits() -> None:
    texts = [significant(value) for value in (0.0, 0.00123456, 0.52, 1.0, 27.04, 123.4, 1234.5)]
    assert texts == ["0", "0.00123", "0.520", "1.00", "27.0", "123", "1234"]


# The command.


def test_run_writes_table_json_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dtypes = ["float32", "bfloat16"]
    options = ["--quick", "--case", "mission_example", "--output", str(tmp_path), "--dtype"]
    assert run.main([*options, *dtypes]) == 0

    printed = capsys.readouterr().out
    for text in ("mission_example", "ratio of", "geometric mean", "weight gradient", "NHWC"):
        assert text in printed

    found = json.loads((tmp_path / "cpu-quick.json").read_text())
    machine = found["machine"]
    assert machine["torch"] == torch.__version__
    assert machine["threads"] == torch.get_num_threads()
    assert machine["date"] and machine["processor"] and machine["handconv_build"]
    assert set(found["ceilings"]["gflops"]) == set(dtypes)
    assert len(found["families"]) == len(found["measurements"]) == 12
    kernels = {row.name for row in handconv.kernels()}
    for row in found["measurements"]:
        assert row["ratio_of_minima"] > 0 and row["ratio_of_medians"] > 0
        assert row["kernel"] in kernels
        ours = row["contenders"][HANDCONV]
        assert ours["error"] < TOLERANCES[getattr(torch, row["dtype"])]
        assert 0 < ours["minimum_seconds"] <= ours["median_seconds"]
        assert ours["calls"] == row["contenders"][RIVAL]["calls"] > 0

    for dtype in dtypes:
        picture = (tmp_path / f"cpu-quick-{dtype}.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


def test_run_measures_what_was_asked_for(tmp_path: Path) -> None:
    options = [
        *("--case", "mission", "--slot", "input_grad", "--layout", "channels_last"),
        *("--algorithm", "im2col", "--repeats", "3", "--quick", "--output", str(tmp_path)),
    ]
    assert run.main(options) == 0
    (row,) = json.loads((tmp_path / "cpu-quick.json").read_text())["measurements"]
    assert (row["slot"], row["layout"]) == ("input_grad", "channels_last")
    assert "im2col" in row["kernel"]


def test_run_without_a_matching_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--case", "no such layer"]) == 2
    assert "no such layer" in capsys.readouterr().out


def test_run_tells_the_cost_of_a_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--overhead", "--repeats", "5"]) == 0
    assert "forward + backward" in capsys.readouterr().out


def test_check_auto_times_every_row_that_takes_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--check-auto", "--case", "mission_example", "--quick"]) == 0
    assert "of 6 cases" in capsys.readouterr().out

    tensors = CASE.tensors(torch.float32)
    found = rows.contest(CASE, tensors, "forward", "nchw", Limits(calls=1, enough=0))
    assert found.chosen == kernel_name(CASE, tensors, "forward", "auto")
    isa = handconv._C.isa()
    assert {f"cpu.direct.channels.{isa}", f"cpu.im2col.{isa}", found.chosen} <= set(found.times)


def test_check_auto_tells_where_another_row_was_faster() -> None:
    times = {"chosen": Times(2.0, 2.0, 1), "better": Times(1.0, 1.0, 1)}
    lost = rows.Contest(CASE, "forward", torch.float32, "nchw", "chosen", times)
    won = lost._replace(chosen="better")
    assert (lost.best, lost.loss, won.loss) == ("better", 2.0, 1.0)
    console = Console(width=200, record=True, file=io.StringIO())
    rows.print_contests(console, [lost, won])
    printed = console.export_text()
    assert "1 of 2 cases" in printed and "2.00" in printed


def test_the_suite_measures_every_family_and_dtype(tmp_path: Path) -> None:
    cases = layers(BENCH / "layers" / "cpu_layers.csv")
    options = run.parse(["--suite", "cpu"])
    jobs = run.jobs_of(cases, options)
    assert {family_of(job.case) for job in jobs} == set(FAMILIES)
    assert {job.dtype for job in jobs} == set(DTYPES)
    per_sample = [job for job in jobs if family_of(job.case) == "per sample"]
    assert {job.layouts for job in per_sample} == {("nchw",)}


def test_the_suite_prints_families_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--suite", "cpu", "--case", "mission_example", "--quick", "--output", str(tmp_path)]
    assert run.main(options) == 0
    printed = capsys.readouterr().out
    assert "tiny" in printed and "mission_example" not in printed
    assert (tmp_path / "cpu-suite-quick.json").exists()


def test_onnxruntime_is_timed_in_its_own_process() -> None:
    tensors = CASE.tensors(torch.float32)
    expected = float64_result(CASE, tensors, "forward")
    with peers.onnxruntime(1) as peer:
        assert peer.takes("forward", torch.float32, "nchw")
        assert not peer.takes("forward", torch.float64, "nchw")
        result = peer.measure(CASE, tensors, expected, Limits(calls=2, enough=0))
        wrong = peer.measure(CASE, tensors, expected + 1, Limits(calls=2, enough=0))
    assert result.error < 1e-5 and result.times is not None and result.times.calls == 2
    assert wrong.times is None


def test_quick_takes_some_layers_of_every_family() -> None:
    cases = layers(BENCH / "layers" / "cpu_layers.csv")
    chosen = run.quick_selection(cases)
    assert set(map(family_of, chosen)) == set(map(family_of, cases))
    assert len(chosen) < len(cases)


def test_kernel_name_is_a_row_of_the_table() -> None:
    tensors = CASE.tensors(torch.float32)
    for slot in SLOTS:
        name = kernel_name(CASE, tensors, slot, "direct")
        row = next(row for row in handconv.kernels() if row.name == name and row.slot == slot)
        assert row.algorithm == "direct"


# On CUDA, as far as that goes without a GPU.


def measured_on_cuda(case: Case, slot: str) -> Measurement:
    seconds = {HANDCONV: 1e-4, RIVAL: 3e-4, TUNED_RIVAL: 2e-4}
    results = {name: Result(1e-7, Times(s, 1.1 * s, 30)) for name, s in seconds.items()}
    return Measurement(case, slot, torch.float32, "nchw", "cuda.direct.depthwise", results)


def test_table_json_and_picture_of_cuda(tmp_path: Path) -> None:
    cases = layers(BENCH / "layers" / "gpu_layers.csv")
    measurements = [measured_on_cuda(case, slot) for case in cases for slot in SLOTS]
    ceilings = Ceilings({"float32": 50_000.0}, 3000.0, cpu_share=1.0)
    console = Console(width=250, record=True, file=io.StringIO())
    print_measurements(console, measurements, Context(ceilings, Limits(), "a GPU"))
    printed = console.export_text()
    for text in ("a GPU", "TFLOP/s", "GB/s", "copy", f"against {TUNED_RIVAL}", "2.00", "3.00"):
        assert text in printed
    assert "faults its pages" not in printed

    options = run.parse(["--device", "cuda", "--tf32", "--output", str(tmp_path)])
    assert options.layers.name == "gpu_layers.csv"
    machine = describe_machine() | {"title": "a GPU"}
    paths = report.write(measurements, ceilings, machine, options)
    assert [path.suffix for path in paths] == [".json", ".md", ".png"]
    assert [path.stem for path in paths] == ["cuda-tf32", "cuda-tf32", "cuda-tf32-float32"]
    assert f"float32: time of {TUNED_RIVAL} / time of handconv, medians" in paths[1].read_text()
    found = json.loads(paths[0].read_text())
    ratios = {entry["rival"]: entry["ratio_of_medians"] for entry in found["families"]}
    assert ratios == {RIVAL: pytest.approx(3), TUNED_RIVAL: pytest.approx(2)}
    ours = found["measurements"][0]["contenders"][HANDCONV]
    assert ours["share_of_copy"] == pytest.approx(ours["gbytes_per_second"] / 3000)


@pytest.mark.skipif(why_no_cuda() is None, reason="this machine has a GPU")
def test_run_on_cuda_without_a_gpu_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--device", "cuda"]) == 2
    assert str(why_no_cuda()) in capsys.readouterr().out


def test_contenders_share_the_turns_of_the_copies() -> None:
    calls = [{name: partial(str, f"{name}{i}") for name in "abc"} for i in range(4)]
    rotating = rotated(calls)
    turns = [rotating[name]() for name in "abcabcabcabc"]
    assert turns == ["a0", "b1", "c2", "a3", "b0", "c1", "a2", "b3", "c0", "a1", "b2", "c3"]
    assert rotated(calls[:1]) is calls[0]


def test_copies_exceed_the_cache() -> None:
    bytes_of_case = CASE.bytes("weight_grad", torch.float32)
    assert copies_to_exceed(0, CASE, torch.float32) == 1
    assert copies_to_exceed(10 * bytes_of_case, CASE, torch.float32) == 20
    assert copies_to_exceed(10**12, CASE, torch.float32) < 1000
    tensors = CASE.tensors(torch.float32)
    copy = copy_of(tensors)
    assert torch.equal(copy.x, tensors.x) and copy.x.data_ptr() != tensors.x.data_ptr()


def test_event_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order: sleep, event, call, event, wait; milliseconds become seconds."""
    steps: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            steps.append("record")

        def synchronize(self) -> None:
            steps.append("synchronize")

        def elapsed_time(self, end: Event) -> float:
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: steps.append("sleep"))
    assert clock_of("cuda")(lambda: steps.append("call")) == 0.25
    assert steps == ["sleep", "record", "call", "record", "synchronize"]
    assert clock_of("cpu") is wall_clock


def test_tf32_is_allowed_its_own_error() -> None:
    expected = torch.ones(3, dtype=torch.float64)
    calls = {HANDCONV: lambda: torch.full((3,), 1.0005)}
    limits = Limits(calls=2, enough=0.0, warm_up=1)
    for tf32, right in ((True, True), (False, False)):
        (result,) = measure(calls, expected, torch.float32, limits, tf32=tf32).values()
        assert (result.times is not None) == right
    assert tolerance(torch.float64, True) == tolerance(torch.float64, False)
