"""Other libraries to compare with, each in a process of its own: their threads spin while they
wait for work, which would slow down whoever is timed beside them.

ONNX Runtime runs the forward slot in float32 on contiguous images, with weights packed before the
first call, and allocates its result in an arena of its own.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch
from cases import Case, Tensors
from measuring import Limits, Result, Times, race, relative_error, tolerance
from torch import Tensor

ONNXRUNTIME = "onnxruntime"
PEERS = (ONNXRUNTIME,)

Answer = tuple[Any, Times]  # the result as a NumPy array


class Peer(Protocol):
    def takes(self, slot: str, dtype: torch.dtype, layout: str) -> bool: ...
    def measure(self, case: Case, tensors: Tensors, expected: Tensor, limits: Limits) -> Result: ...


class OnnxRuntime:
    def __init__(self, requests: Connection) -> None:
        self._requests = requests

    def takes(self, slot: str, dtype: torch.dtype, layout: str) -> bool:
        return (slot, dtype, layout) == ("forward", torch.float32, "nchw")

    def measure(self, case: Case, tensors: Tensors, expected: Tensor, limits: Limits) -> Result:
        x, w, bias, _ = tensors
        arrays = [None if t is None else t.numpy() for t in (x, w, bias)]
        self._requests.send((case, arrays, limits))
        answer: Answer = self._requests.recv()
        error = relative_error(torch.from_numpy(answer[0]), expected)
        return Result(error, answer[1] if error <= tolerance(x.dtype, tf32=False) else None)


@contextmanager
def onnxruntime(threads: int) -> Iterator[Peer]:
    """A process that answers one request at a time; it ends when the block does."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve_onnxruntime, args=(theirs, threads), daemon=True)
    process.start()
    theirs.close()
    try:
        yield OnnxRuntime(ours)
    finally:
        ours.close()
        process.join()


def _serve_onnxruntime(requests: Connection, threads: int) -> None:
    while True:
        try:
            case, arrays, limits = requests.recv()
        except EOFError:
            return
        session, feed = _session_of(case, *arrays, threads)
        (result,) = session.run(None, feed)
        times = race({ONNXRUNTIME: lambda: session.run(None, feed)}, limits)  # noqa: B023
        requests.send((result, times[ONNXRUNTIME]))


def _session_of(case: Case, x: Any, w: Any, bias: Any, threads: int) -> tuple[Any, dict[str, Any]]:
    """A model of one Conv node, whose weights are constants."""
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime import InferenceSession, SessionOptions

    constants = {"w": w} if bias is None else {"w": w, "bias": bias}
    height, width = case.padding
    node = helper.make_node(
        "Conv",
        ["x", *constants],
        ["y"],
        strides=case.stride,
        pads=[height, width, height, width],
        dilations=case.dilation,
        group=case.groups,
    )
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, case.input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, case.output_shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = SessionOptions()
    options.intra_op_num_threads = threads
    session = InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session, {"x": x}
