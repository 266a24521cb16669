"""An ONNX file as a network, and the proof that it is the same network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from torch import Tensor

from batchyard.training import onnx_network
from batchyard.training.events import TrainingError
from batchyard.training.imported import Imported
from batchyard.training.network import ONNX, run_in_parts
from batchyard.training.task import violation

ONNX_FILE = "source.onnx"
"""The imported ONNX file, kept in the artifact: the graph that the weights belong to."""
LEAST_BOUND = 1e-4
"""ONNX Runtime's answers for the imported file may differ from the converted network's by this share of the largest."""


def from_onnx(content: bytes, given: Mapping[str, Any]) -> Imported:
    """A network as its file has it; of the description only the classes count. Raises SpecError."""
    found = onnx_network.read(content)
    classes = tuple(given.get("classes", ())) or tuple(str(number) for number in range(found.classes))
    if len(classes) != found.classes or len(set(classes)) < len(classes):
        text = f"{list(classes)} given; expected {found.classes} different names, one for each output of the file"
        raise violation("network.classes", text)
    return Imported(
        network=found.module,
        shape=found.shape,
        classes=classes,
        spec={"model": {"architecture": ONNX, "file": ONNX_FILE}},
        scale=None,
        input=found.input,
        output=found.output,
        files={ONNX_FILE: content},
    )


def compare_with_file(imported: Imported, samples: Tensor) -> None:
    """Raises TrainingError where ONNX Runtime answers for the file itself otherwise than the converted network."""
    converted = run_in_parts(imported.network, samples).numpy()
    original = _run_file(imported.files[ONNX_FILE], samples.numpy())
    error, largest = float(np.abs(converted - original).max()), float(np.abs(original).max())
    if not error <= LEAST_BOUND * max(largest, 1.0):
        cause = f"the converted network differs from what ONNX Runtime computes with the file by {error:.3g}"
        raise TrainingError(cause, "nothing was published; export the network without custom operators")


def _run_file(content: bytes, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    batch = source.shape[0] if isinstance(source.shape[0], int) else len(samples)
    filled = samples[np.arange(-(-len(samples) // batch) * batch) % len(samples)]  # whole batches, begun again
    parts = [session.run(None, {source.name: filled[at : at + batch]})[0] for at in range(0, len(filled), batch)]
    return np.concatenate(parts)[: len(samples)]
