"""The probe graph in ONNX Runtime, and how to have it run for a version: on a thread and a share of one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from batchyard.artifact.manifest import PROBE, Manifest

ERRORS_ONLY = 3
"""ONNX Runtime's name for a log severity."""


class ProbeError(Exception):
    """The probe graph cannot be used; the message says why."""


class Probe:
    """The probe graph of one version: pixels to moments. Raises ProbeError. Opened and run on one thread."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        assert manifest.probe is not None
        self._channels = sum(len(layer.channels) for layer in manifest.probe.layers)
        self._row_shape = manifest.inputs[0].shape[1:]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / PROBE), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise ProbeError(f"ONNX Runtime cannot load {PROBE}: {error}") from error

    def run(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """[n, features] raw pixels -> moments [n, 2, channels]. Raises ProbeError."""
        pixels = rows.reshape(len(rows), *self._row_shape).astype(np.float32, copy=False)
        try:
            (moments,) = self._session.run(None, {self._session.get_inputs()[0].name: pixels})
        except Exception as error:
            raise ProbeError(f"ONNX Runtime cannot run {PROBE}: {error}") from error
        if moments.shape != (len(rows), 2, self._channels):
            expected = [len(rows), 2, self._channels]
            raise ProbeError(f"{PROBE} answers {list(moments.shape)}; the manifest promises {expected}")
        return np.asarray(moments)
