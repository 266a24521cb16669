"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from batchyard.serving.engines.interface import ANY, EngineError, GraphTensor, Network, check_graph

ERRORS_ONLY = 3
"""ONNX Runtime's name for a log severity."""


class SessionEngine:
    """One session of ONNX Runtime, wherever it computes."""

    def __init__(
        self,
        network: Network,
        name: str,
        options: onnxruntime.SessionOptions,
        providers: Sequence[Any],
        where: str = "",
    ) -> None:
        """`where`: for messages, as " on CUDA". Raises EngineError."""
        self.name = name
        options.log_severity_level = ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(str(network.model), options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise EngineError(f"ONNX Runtime cannot load {network.model.name}{where}: {error}") from error
        self._source, self._results = network.source.name, [network.result.name]
        check_graph(network, _tensors(self._session.get_inputs()), _tensors(self._session.get_outputs()))

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, *row_shape] -> [n, outputs]."""
        output: NDArray[np.float32] = self._session.run(self._results, {self._source: rows})[0]
        return output

    def close(self) -> None:
        """Frees the session."""
        del self._session


class OnnxRuntimeEngine(SessionEngine):
    """One session on the CPU."""

    def __init__(self, network: Network, threads: int) -> None:
        """Raises EngineError."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning workers would take the cores away from the transport between two batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        super().__init__(network, "onnxruntime", options, ["CPUExecutionProvider"])


def _tensors(found: list[onnxruntime.NodeArg]) -> list[GraphTensor]:
    """A session's inputs or outputs."""
    return [
        GraphTensor(
            name=tensor.name,
            is_fp32=tensor.type == "tensor(float)",
            shape=tuple(size if isinstance(size, int) else ANY for size in tensor.shape),
        )
        for tensor in found
    ]


open_engine = OnnxRuntimeEngine
