"""Fixtures and settings of all tests."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
import torch

# The same examples on every run and every machine.
hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("reproducible")


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
