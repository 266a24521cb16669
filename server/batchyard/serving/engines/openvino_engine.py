"""OpenVINO on the CPU."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchyard.serving.engines.interface import ANY, EngineError, GraphTensor, Network, check_graph
from batchyard.serving.engines.precision import ERROR_SHARES, Precision


def _import_runtime() -> Any:
    """The runtime without the model converter: that one reports its import to a web analytics service, and is slow."""
    converter = "openvino.tools.ovc"
    before = sys.modules.get(converter)
    sys.modules[converter] = None  # type: ignore[assignment]  # makes its import fail, which openvino provides for
    try:
        import openvino
    finally:
        del sys.modules[converter]
        if before is not None:
            sys.modules[converter] = before
    return openvino


openvino = _import_runtime()

HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's names. Left alone, a CPU that can would compute in bf16 unasked."""


class OpenVinoEngine:
    """One compiled model and one request."""

    def __init__(self, network: Network, threads: int, name: str = "openvino", precision: Precision = "fp32") -> None:
        """Raises EngineError."""
        self.name = name
        self.error_share = ERROR_SHARES[precision]
        """See engines/certificate.py."""
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the transport needs the same cores
            "INFERENCE_PRECISION_HINT": HINTS[precision],
        }
        try:
            core = openvino.Core()
            if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                raise EngineError("this CPU has no instructions for bf16 (AVX-512 BF16 or AMX)")
            model = core.read_model(network.model)
            check_graph(network, _tensors(model.inputs), _tensors(model.outputs))
            self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load {network.model.name}: {_message(error)}") from error

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, *row_shape] -> [n, outputs]."""
        results = self._request.infer([rows], share_inputs=True)  # the outputs are copied
        output: NDArray[np.float32] = results[0]
        return output

    def close(self) -> None:
        """Frees the request and with it the compiled model."""
        del self._request


def _message(error: RuntimeError) -> str:
    """What went wrong, without the lines that say where in OpenVINO's sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("Exception from"))


def _tensors(ports: list[Any]) -> list[GraphTensor]:
    return [
        GraphTensor(
            name=port.any_name,
            is_fp32=port.element_type == openvino.Type.f32,
            shape=tuple(ANY if size.is_dynamic else size.get_length() for size in port.partial_shape),
        )
        for port in ports
    ]


open_engine = OpenVinoEngine


def open_bf16(network: Network, threads: int) -> OpenVinoEngine:
    """Weights and activations in bf16 where OpenVINO has a kernel for it; outputs in fp32. Raises EngineError."""
    return OpenVinoEngine(network, threads, "openvino-bf16", "bf16")
