"""ONNX Runtime on an NVIDIA GPU: by its CUDA kernels, or by TensorRT, where the installed build has them.

Not yet run on a GPU: this is written by ONNX Runtime's documentation of its execution providers, and its tests (marked
`cuda`) are skipped without one.
"""

from __future__ import annotations

from typing import Any

import onnxruntime

from batchyard.serving.engines.interface import EngineError, Network
from batchyard.serving.engines.onnxruntime_engine import SessionEngine

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
CUDA_OPTIONS: dict[str, Any] = {
    "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE, the default, tries them all again for every batch size
    "use_tf32": "0",  # the certificate's bound is fp32's
}
TYPICAL_ROWS, MOST_ROWS = 32, 1024
"""What TensorRT builds for; beyond that it builds once more, in seconds or minutes."""
BUILT = "tensorrt"
"""Folder beside the graph, in this process's own cache: what TensorRT has built, so that a restart does not wait."""


class OnnxRuntimeCudaEngine(SessionEngine):
    """One session on the first GPU."""

    def __init__(self, network: Network, name: str, provider: str, options: dict[str, Any]) -> None:
        """Raises EngineError, rather than let ONNX Runtime fall back to the CPU in silence."""
        if provider not in onnxruntime.get_available_providers():
            text = f"the installed onnxruntime has no {provider}: install onnxruntime-gpu in its place"
            raise EngineError(text + (" and TensorRT's libraries" if provider == TENSORRT else ""))
        onnxruntime.preload_dlls()  # NVIDIA's libraries as pip installs them
        providers = [(provider, options), *([(CUDA, CUDA_OPTIONS)] if provider != CUDA else [])]
        super().__init__(network, name, onnxruntime.SessionOptions(), providers, " on CUDA")
        if self._session.get_providers()[0] != provider:
            raise EngineError(f"ONNX Runtime could not start its {provider}; the server's stderr says why")
        self._session.disable_fallback()


def open_cuda(network: Network, threads: int) -> OnnxRuntimeCudaEngine:
    """By ONNX Runtime's own kernels. Raises EngineError."""
    return OnnxRuntimeCudaEngine(network, "onnxruntime-cuda", CUDA, CUDA_OPTIONS)


def open_tensorrt(network: Network, threads: int) -> OnnxRuntimeCudaEngine:
    """By TensorRT, and by ONNX Runtime's kernels what TensorRT does not know. Raises EngineError."""
    return OnnxRuntimeCudaEngine(network, "tensorrt", TENSORRT, tensorrt_options(network))


def tensorrt_options(network: Network) -> dict[str, Any]:
    """One engine for every batch up to MOST_ROWS, kept beside the graph."""

    def profile(rows: int) -> str:
        return f"{network.source.name}:{'x'.join(map(str, (rows, *network.row_shape)))}"

    return {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(network.model.parent / BUILT),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(network.model.parent / BUILT),
        "trt_profile_min_shapes": profile(1),
        "trt_profile_opt_shapes": profile(TYPICAL_ROWS),
        "trt_profile_max_shapes": profile(MOST_ROWS),
    }
