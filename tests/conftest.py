"""Fixtures and settings of all tests, and the devices that they run on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from devices import DEVICES, why_no_cuda
from helpers import device_of, use_device

import handconv

# cuBLAS is reproducible, and torch's deterministic mode accepts it, only with a workspace of its
# own; it reads this once, when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# The same examples on every run and every machine. The device is the same for all examples.
hypothesis.settings.register_profile(
    "reproducible",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("reproducible")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", action="append", choices=DEVICES, help="run on this device alone (repeatable)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only_on(device): about something that this device has")
    if config.getoption("numprocesses", None):
        # Workers share the cores: threads that spin while they wait keep those of others waiting.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    missing = why_no_cuda()
    if missing and "cuda" in (config.getoption("--device") or ()):
        raise pytest.UsageError(f"--device cuda: {missing}")


def chosen_devices(config: pytest.Config) -> list[str]:
    """Those asked for, or all that there are."""
    asked: list[str] | None = config.getoption("--device")
    return asked or [name for name in DEVICES if name == "cpu" or not why_no_cuda()]


def pytest_report_header(config: pytest.Config) -> str:
    missing = why_no_cuda()
    note = f" (tests on CUDA are skipped: {missing})" if missing else ""
    return f"devices: {', '.join(chosen_devices(config))}{note}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a row of the table run on its device, others that take a device on each."""
    devices = chosen_devices(metafunc.config)
    if only_on := metafunc.definition.get_closest_marker("only_on"):
        devices = [name for name in devices if name in only_on.args]
    if "row" in metafunc.fixturenames:
        rows = [row for row in handconv.kernels() if device_of(row) in devices]
        metafunc.parametrize(
            ("device", "row"),
            [(device_of(row), row) for row in rows],
            indirect=["device"],
            ids=[f"{row.name}-{row.slot}" for row in rows],
        )
    elif "device" in metafunc.fixturenames:
        metafunc.parametrize("device", devices, indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device of this test, which `helpers` then puts tensors on."""
    with use_device(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def strict_float32() -> Iterator[None]:
    """No TF32, which torch allows convolutions by default."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture
def tf32_allowed(strict_float32: None) -> Iterator[None]:
    """So that kernels in TF32 run too; small integers are exact in it."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """torch.empty is full of NaN: results that are not written and scratch that is read show up."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Puts the number of threads back that the test changes."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
