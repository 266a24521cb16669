"""What runs a network, behind one small interface, and ONNX Runtime as the first of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from batchyard.artifact.manifest import Signature

ONE_THREAD_IS_ENOUGH_SECONDS = 0.002
"""A batch faster than this gains nothing from more threads: handing out the work costs as much as the work."""

ERRORS_ONLY = 3
"""ONNX Runtime's name for a log severity."""


class EngineError(Exception):
    """The engine cannot run this model; the message says why."""


class Engine(Protocol):
    """Runs one loaded network."""

    name: str
    """For metadata and metrics."""

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, *row_shape] -> [n, outputs], for any n from 1; not called twice at a time."""

    def close(self) -> None:
        """Frees what it holds; run is not called again."""


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU. Raises EngineError."""

    name = "onnxruntime"

    def __init__(self, model: Path, source: Signature, result: Signature, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        # Spinning workers would take the cores away from the transport between two batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise EngineError(f"ONNX Runtime cannot load {model.name}: {error}") from error
        self.threads = threads
        self._source, self._results = source.name, [result.name]
        _check_tensor(model, "input", source, self._session.get_inputs())
        _check_tensor(model, "output", result, self._session.get_outputs())

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, *row_shape] -> [n, outputs]."""
        output: NDArray[np.float32] = self._session.run(self._results, {self._source: rows})[0]
        return output

    def close(self) -> None:
        """Frees the session."""
        del self._session


def open_onnxruntime(model: Path, source: Signature, result: Signature, max_batch: int) -> OnnxRuntimeEngine:
    """The model with as many threads as pay: one, or all cores if a full batch measurably gains. Raises EngineError."""
    single = OnnxRuntimeEngine(model, source, result, threads=1)
    seconds = seconds_per_batch(single.run, source.shape[1:], max_batch)
    cores = len(os.sched_getaffinity(0))
    if cores == 1 or seconds < ONE_THREAD_IS_ENOUGH_SECONDS:
        return single
    several = OnnxRuntimeEngine(model, source, result, threads=cores)
    slower, faster = several, single
    if seconds_per_batch(several.run, source.shape[1:], max_batch) < seconds:
        slower, faster = single, several
    slower.close()
    return faster


def seconds_per_batch(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], row_shape: tuple[int, ...], rows: int, repeats: int = 3
) -> float:
    """The fastest of a few runs after a first one."""
    batch = np.zeros((rows, *row_shape), np.float32)
    run(batch)
    return min(_seconds(run, batch) for _ in range(repeats))


def warm_up(engine: Engine, row_shape: tuple[int, ...], max_batch: int) -> None:
    """Runs every power of two up to max_batch once: memory plans and caches are made now, not by the first callers."""
    rows = 1
    while rows < max_batch:
        engine.run(np.zeros((rows, *row_shape), np.float32))
        rows *= 2
    engine.run(np.zeros((max_batch, *row_shape), np.float32))


def _seconds(run: Callable[[NDArray[np.float32]], NDArray[np.float32]], batch: NDArray[np.float32]) -> float:
    began = time.perf_counter()
    run(batch)
    return time.perf_counter() - began


def _check_tensor(model: Path, kind: str, promised: Signature, found: list[onnxruntime.NodeArg]) -> None:
    """Raises EngineError if the graph's tensor is not what the manifest promises."""
    graph = {tensor.name: tensor for tensor in found}
    if promised.name not in graph or len(graph) != 1:
        raise EngineError(f"{model.name} has {kind}s {sorted(graph)}; the manifest promises {promised.name!r} alone")
    tensor = graph[promised.name]
    if promised.datatype != "FP32" or tensor.type != "tensor(float)":
        raise EngineError(f"{model.name}: {kind} {promised.name!r} is {tensor.type}; expected FP32, tensor(float)")
    if len(tensor.shape) != len(promised.shape) or tuple(tensor.shape[1:]) != promised.shape[1:]:
        raise EngineError(f"{model.name}: {kind} {promised.name!r} is {tensor.shape}, manifest {promised.shape}")
    if isinstance(tensor.shape[0], int):
        raise EngineError(f"{model.name}: {kind} {promised.name!r} has the fixed batch {tensor.shape[0]}; expected any")
