"""Torch on an NVIDIA GPU: the published ONNX graph as CUDA graphs, one for each power of two of rows.

A small network's kernels take less time than their launches, so a whole batch is one launch: the graph is captured
once for a batch size, and rows are copied into its input and out of its output. A batch of another size takes the next
larger graph; the rows of a folded network do not depend on each other, so what stands in its other rows means nothing.

All graphs of an engine take their memory from one pool. They are replayed one at a time on one stream, and an answer
has left the pool before the next replay. Source: torch's notes "CUDA semantics", section CUDA Graphs.

Not yet run on a GPU: this is written by torch's documentation, and its tests (marked `cuda`) are skipped without one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchyard.serving.engines.interface import EngineError, Network
from batchyard.serving.engines.precision import BF16_ERROR
from batchyard.serving.engines.torch_engine import read_graph

WARM_UP_RUNS = 3
"""Before a capture: libraries choose their algorithms and allocate their workspaces in them."""


@dataclass(frozen=True)
class Captured:
    """One batch size, ready to be replayed."""

    graph: torch.cuda.CUDAGraph
    source: Tensor
    """On the GPU, [size, *row_shape]; what the graph reads."""
    result: Tensor
    """On the GPU, [size, outputs], FP32; what it writes."""
    rows: Tensor
    """In pinned memory, as `source`: only from there is a copy one that the CPU need not wait for."""
    answers: Tensor
    """In pinned memory, as `result`."""


class TorchCudaEngine:
    """One network on the first GPU."""

    def __init__(self, network: Network, name: str, dtype: torch.dtype) -> None:
        """Raises EngineError."""
        if not torch.cuda.is_available():
            raise EngineError("torch sees no CUDA device: it was built without CUDA, or the driver does not fit")
        if dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported():
            raise EngineError(f"{torch.cuda.get_device_name()} has no bf16")
        self.name = name
        self.error_share = BF16_ERROR if dtype is torch.bfloat16 else 0.0
        """See engines/certificate.py."""
        self._row_shape = network.row_shape
        self._dtype = dtype
        self._device = torch.device("cuda")
        self._graph = read_graph(network).to(self._device, dtype)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._captured: dict[int, Captured] = {}

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, *row_shape] -> [n, outputs]."""
        count = len(rows)
        size = 1 << (count - 1).bit_length()
        captured = self._captured.get(size) or self._capture(size)
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            captured.rows[:count].copy_(torch.from_numpy(rows))
            captured.source[:count].copy_(captured.rows[:count], non_blocking=True)
            captured.graph.replay()
            captured.answers[:count].copy_(captured.result[:count], non_blocking=True)
        self._stream.synchronize()
        return captured.answers[:count].numpy().copy()

    def close(self) -> None:
        """Frees the weights, the graphs and their memory."""
        self._stream.synchronize()
        self._captured.clear()
        del self._graph

    def _capture(self, size: int) -> Captured:
        source = torch.zeros(size, *self._row_shape, device=self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # the zeros are written there
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_RUNS):
                self._compute(source)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # thread_local: another engine may allocate on a thread of its own meanwhile.
        with (
            torch.inference_mode(),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            result = self._compute(source)
        captured = self._captured[size] = Captured(
            graph=graph,
            source=source,
            result=result,
            rows=torch.empty(source.shape, pin_memory=True),
            answers=torch.empty(result.shape, pin_memory=True),
        )
        return captured

    def _compute(self, source: Tensor) -> Tensor:
        """TF32 would round the inputs of convolutions to 11 bits, unasked: the certificate's bound is fp32's."""
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            return self._graph(source.to(self._dtype)).float()


def open_engine(network: Network, threads: int) -> TorchCudaEngine:
    """In fp32. Raises EngineError."""
    return TorchCudaEngine(network, "torch-cuda", torch.float32)


def open_bf16(network: Network, threads: int) -> TorchCudaEngine:
    """Weights and activations in bf16; outputs in fp32. Raises EngineError."""
    return TorchCudaEngine(network, "torch-cuda-bf16", torch.bfloat16)
