"""What the inference plane asks of an engine, and what every engine must check of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from batchyard.artifact.manifest import ONNX_MODEL, Manifest, Signature

ANY = -1
"""A dimension that a graph leaves open."""


class EngineError(Exception):
    """The engine cannot run this model, or runs it wrongly; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """What an engine is given to run."""

    model: Path
    """The folded ONNX graph, in a verified folder."""
    source: Signature
    result: Signature

    @classmethod
    def of(cls, manifest: Manifest, folder: Path) -> Network:
        """The network of a verified artifact with one input and one output."""
        return cls(model=folder / ONNX_MODEL, source=manifest.inputs[0], result=manifest.outputs[0])

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.source.shape[1:]


@dataclass(frozen=True, kw_only=True)
class GraphTensor:
    """An input or output as an engine found it in the graph."""

    name: str
    is_fp32: bool
    shape: tuple[int, ...]
    """ANY where the graph leaves a dimension open."""


class Engine(Protocol):
    """Runs one loaded network."""

    name: str
    """For metadata and metrics."""

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, *row_shape], contiguous -> [n, outputs], for any n from 1; not called twice at a time.

        The result is memory of its own: the next run does not change it.
        """

    def close(self) -> None:
        """Frees what it holds; run is not called again."""


class OpenEngine(Protocol):
    """An engine's way in: what its module calls `open_engine`."""

    def __call__(self, network: Network, threads: int) -> Engine:
        """Raises EngineError."""


def check_graph(network: Network, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> None:
    """Raises EngineError unless the graph has just the tensors that the manifest promises, with a free batch."""
    _check_tensor(network.model.name, "input", network.source, inputs)
    _check_tensor(network.model.name, "output", network.result, outputs)


def _check_tensor(model: str, kind: str, promised: Signature, found: Sequence[GraphTensor]) -> None:
    graph = {tensor.name: tensor for tensor in found}
    if promised.name not in graph or len(graph) != 1:
        raise EngineError(f"{model} has {kind}s {sorted(graph)}; the manifest promises {promised.name!r} alone")
    tensor = graph[promised.name]
    if promised.datatype != "FP32" or not tensor.is_fp32:
        raise EngineError(f"{model}: {kind} {promised.name!r} is not FP32 in the graph and in the manifest")
    if len(tensor.shape) != len(promised.shape) or tensor.shape[1:] != promised.shape[1:]:
        raise EngineError(f"{model}: {kind} {promised.name!r} is {tensor.shape}, in the manifest {promised.shape}")
    if tensor.shape[0] != ANY:
        raise EngineError(f"{model}: {kind} {promised.name!r} has the fixed batch {tensor.shape[0]}; expected any")
