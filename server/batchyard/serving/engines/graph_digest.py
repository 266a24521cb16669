"""What two versions have in common whose engines take the same time: the graph, whatever its weights are.

Training the same network again gives new weights in the same graph, and the table of times of the version before holds
for it, too.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from batchyard.artifact.manifest import ONNX_MODEL, Manifest


def graph_digest(manifest: Manifest, folder: Path) -> str:
    """Of the graph in a verified folder: a sha256 without the floating-point weights where `onnx` is installed.

    Else, or where it cannot be read, that of the whole file: a version then shares its table with nobody.
    """
    if importlib.util.find_spec("onnx") is None:
        return manifest.files[ONNX_MODEL]
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(folder / ONNX_MODEL, load_external_data=False)
    except (OSError, DecodeError):
        return manifest.files[ONNX_MODEL]
    for constant in model.graph.initializer:
        _forget_weights(constant, (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE))
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def _forget_weights(constant: Any, kinds: tuple[int, ...]) -> None:
    """Name, type and shape stay; what integers say (shapes, axes) stays, too."""
    if constant.data_type in kinds:
        for field in ("raw_data", "float_data", "double_data"):
            constant.ClearField(field)
