"""Torch on the CPU, running the published ONNX graph operator by operator.

A torch.export archive would hold the same network a second time, and its example inputs as a pickle; the graph that is
certified is the graph that runs. This module and its sister for CUDA are the only ones of the inference plane that
import torch, and they are loaded only when the measurements call for them.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from batchyard.serving.engines.interface import ANY, EngineError, GraphTensor, Network, check_graph
from batchyard.serving.engines.torch_graph import TorchGraph


class TorchEngine:
    """One graph."""

    name = "torch"

    def __init__(self, network: Network, threads: int) -> None:
        """Raises EngineError."""
        self._graph = read_graph(network)
        self._threads = threads

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, *row_shape] -> [n, outputs]."""
        # The number belongs to the calling thread, and batches come on whichever is free.
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            output: NDArray[np.float32] = self._graph(torch.from_numpy(rows)).numpy()
        return output

    def close(self) -> None:
        """Frees the weights."""
        del self._graph


def read_graph(network: Network) -> TorchGraph:
    """The published graph, on the CPU. Raises EngineError."""
    try:
        model = onnx.load(network.model)
    except Exception as error:  # protobuf's, onnx's and the file system's
        raise EngineError(f"torch cannot load {network.model.name}: {error}") from error
    constants = {constant.name for constant in model.graph.initializer}
    inputs = [_tensor(value) for value in model.graph.input if value.name not in constants]
    check_graph(network, inputs, [_tensor(value) for value in model.graph.output])
    return TorchGraph(model.graph, network.source.name, network.result.name)


def _tensor(value: onnx.ValueInfoProto) -> GraphTensor:
    kind = value.type.tensor_type
    return GraphTensor(
        name=value.name,
        is_fp32=kind.elem_type == onnx.TensorProto.FLOAT,
        shape=tuple(size.dim_value if size.HasField("dim_value") else ANY for size in kind.shape.dim),
    )


open_engine = TorchEngine
