"""The simulator that the CUDA kernels are tested on catches faults, and lets pass what is right."""

from __future__ import annotations

import ctypes
import itertools
import math
import random
import struct
import sys
from collections.abc import Callable
from functools import cache

import pytest
import torch
from simulator import build
from torch import Tensor

pytestmark = [
    pytest.mark.skipif(build.compiler() is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator needs mprotect and ucontext"),
]

# tests/simulator/faults.cu, and what the error says of each.
FAULTS = {
    "missing_barrier": "is NaN",
    "missing_wait": "is NaN",
    "wait_for_too_few": "is NaN",
    "copy_left_behind": "copy_async is under way that nothing waits for",
    "copy_too_early": "is NaN",
    "shared_write_behind_end": "behind the end of the shared memory",
    "shared_write_before_begin": "before the begin of the shared memory",
    "shared_read_behind_end": "behind the end of the shared memory|is NaN",
    "shared_not_initialised": "is NaN",
    "global_read_behind_end": "bytes behind the end of in|is (NaN|wrong)",
    "global_read_before_begin": "bytes before the begin of in|is NaN",
    "global_write_behind_end": "behind the end of out",
    "global_write_before_begin": "before the begin of out",
    "write_into_operand": "inside in",
    "not_written": "result 5 is NaN",
    "barrier_in_a_branch": r"32 threads have ended, 32 .* wait in synchronize_block \(faults.cu:",
    "barriers_of_two_branches": "but thread .* of the same block is in synchronize_block",
    "end_before_barrier": r"1 threads have ended, 63 .* wait in synchronize_block \(faults.cu:",
    "missing_warp_barrier": "is NaN",
    "shuffle_without_a_lane": r"2 threads have ended, 62 .* wait in shuffle_xor \(faults.cu:",
    "two_shuffles_at_once": "of the same warp is in shuffle_(xor|down)",
    "misaligned_pack": "misaligned pointer",
    "misaligned_store": "misaligned pointer",
    "misaligned_copy": "not aligned to 16 bytes",
    "copy_to_elsewhere": "0 bytes behind the end of the shared memory",
    "index_outside_registers": "index outside an array",
    "registers_not_initialised": "is wrong",
    "no blocks": "no blocks",
    "too many threads": "more than 1024 threads",
    "too much shared memory": "more than 227 KB",
    "no shared memory": "behind the end of the shared memory",
    "half a warp": "its warp has only 16 lanes",
}
AT_END, AT_BEGIN = 0, 1
SETTINGS = list(itertools.product(range(6), (AT_END, AT_BEGIN)))


@cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(build.build(build.FAULTS)))
    loaded.faults_name.restype = ctypes.c_char_p
    loaded.faults_run.restype = ctypes.c_char_p
    loaded.faults_multiply.restype = ctypes.c_char_p
    loaded.faults_from_float16.restype = ctypes.c_float
    return loaded


def names() -> list[str]:
    found = (library().faults_name(i) for i in itertools.count())
    return [name.decode() for name in itertools.takewhile(bool, found)]


def errors_of(name: str, *, broken: bool) -> list[str | None]:
    """What the simulator says for each order of threads and place in memory."""
    index = names().index(name)
    run = library().faults_run
    found = (run(index, broken, ctypes.c_uint64(seed), place) for seed, place in SETTINGS)
    return [None if error is None else error.decode() for error in found]


def test_every_fault_is_tested() -> None:
    assert names() == list(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
def test_right_kernels_pass(name: str) -> None:
    assert errors_of(name, broken=False) == [None] * len(SETTINGS)


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_caught(name: str) -> None:
    """In every order of threads: a fault does not hide behind a lucky one."""
    for error, setting in zip(errors_of(name, broken=True), SETTINGS, strict=True):
        assert error is not None, setting
        with pytest.raises(RuntimeError, match=FAULTS[name]):
            raise RuntimeError(error)


def test_a_launch_after_an_error_is_not_touched_by_it() -> None:
    for name in FAULTS:
        errors_of(name, broken=True)
        assert errors_of("missing_barrier", broken=False) == [None] * len(SETTINGS)


# Tensor cores.

TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def product(kernel: str, a: Tensor, b: Tensor) -> Tensor:
    d = torch.full((16, 8), math.nan)
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (a, b, d))
    error = library().faults_multiply(kernel.encode(), *pointers)
    assert error is None, error
    return d


@pytest.mark.parametrize("source", ["", " from shared memory"])
@pytest.mark.parametrize("name", TYPES)
def test_products_of_16_bits(name: str, source: str) -> None:
    a, b = torch.randn(16, 16).to(TYPES[name]), torch.randn(16, 8).to(TYPES[name])
    found = product(name + source, a, b)
    torch.testing.assert_close(found, a.float() @ b.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TYPES)
def test_each_element_of_a_fragment_has_its_place(name: str) -> None:
    """A product with one non-zero element of A: a wrong place cannot hide in a sum."""
    b = torch.arange(1, 129).reshape(16, 8).to(TYPES[name])
    for row, k in itertools.product(range(16), range(16)):
        a = torch.zeros(16, 16, dtype=TYPES[name])
        a[row, k] = 1
        expected = torch.zeros(16, 8)
        expected[row] = b[k].float()
        for source in ("", " from shared memory"):
            assert torch.equal(product(name + source, a, b), expected), (row, k)


def to_tf32(tensor: Tensor) -> Tensor:
    """Rounded to 10 bits of mantissa, ties away from zero."""
    return ((tensor.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_products_in_tf32() -> None:
    a, b = torch.randn(16, 8), torch.randn(8, 8)
    found = product("tf32", a, b)
    torch.testing.assert_close(found, to_tf32(a) @ to_tf32(b), rtol=1e-5, atol=1e-5)
    assert (found - a @ b).abs().max() > 1e-5


# Types.

SPECIAL = [0.0, 1.0, 1.5, 2.0**-14, 2.0**-24, 2.0**-25, 65504.0, 65519.0, 65520.0, 1e6, math.inf]


def floats() -> list[float]:
    """All magnitudes, and the values halfway between two neighbours of the 16-bit types."""
    numbers = random.Random(0)
    bits = [numbers.getrandbits(31) for _ in range(3000)]
    bits += [(value & ~0xFFF) | 0x1000 for value in bits] + [(v & ~0xFFFF) | 0x8000 for v in bits]
    found = [struct.unpack("f", struct.pack("I", value))[0] for value in bits]
    found += [numbers.uniform(2.0**-26, 2.0**-13) for _ in range(1000)]
    magnitudes = [value for value in found + SPECIAL if not math.isnan(value)]
    return [sign * value for value in magnitudes for sign in (1, -1)]


@pytest.mark.parametrize("name", TYPES)
def test_conversion_rounds_like_torch(name: str) -> None:
    convert: Callable[[ctypes.c_float], int] = getattr(library(), f"faults_to_{name}")
    values = torch.tensor(floats(), dtype=torch.float32)
    expected = values.to(TYPES[name]).view(torch.int16).int() & 0xFFFF
    found = torch.tensor([convert(ctypes.c_float(value)) for value in values.tolist()])
    assert torch.equal(found.int(), expected)


def test_every_float16_is_read_as_torch_reads_it() -> None:
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    expected = bits.view(torch.float16).float()
    convert = library().faults_from_float16
    found = torch.tensor([convert(ctypes.c_uint16(value & 0xFFFF)) for value in bits.tolist()])
    assert torch.equal(found.nan_to_num(nan=7e7), expected.nan_to_num(nan=7e7))
