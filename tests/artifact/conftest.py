from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from batchyard.artifact.manifest import (
    ONNX_MODEL,
    SAMPLES,
    WEIGHTS,
    CertificateRecord,
    Evaluated,
    FoldEntry,
    Manifest,
    Signature,
)
from batchyard.artifact.writer import write


def a_manifest(*, certified: bool = True) -> Manifest:
    return Manifest(
        model="mnist",
        job="mnist-mlp-1",
        attempt=1,
        created=1.5,
        spec={"name": "mnist-mlp"},
        seed=3,
        libraries={"torch": "2.13.0"},
        dataset="mnist",
        dataset_sha256="0" * 64,
        classes=("0", "1"),
        parameter_count=10,
        inputs=(Signature(name="pixels", datatype="FP32", shape=(-1, 1, 2, 2)),),
        outputs=(Signature(name="logits", datatype="FP32", shape=(-1, 2)),),
        population_statistics="alg2",
        fold_report=(FoldEntry(layer="norm1", status="folded", into="linear1", beta=(0.5,), gamma=(-1.0,)),),
        certificate=CertificateRecord(passed=certified, max_error=1e-6, bound=1e-5, samples=2, digest="1" * 64),
        evaluated=Evaluated(accuracy=0.98, loss=0.1, samples=100),
    )


@pytest.fixture
def files() -> dict[str, bytes]:
    inputs = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    outputs = np.array([[0.25, 1.0], [2.0, -1.0]])
    return {ONNX_MODEL: b"graph", WEIGHTS: b"weights", SAMPLES: save({"inputs": inputs, "outputs": outputs})}


@pytest.fixture
def publish(tmp_path: Path, files: dict[str, bytes]) -> Callable[..., tuple[Path, str]]:
    def publish(*, certified: bool = True) -> tuple[Path, str]:
        folder = tmp_path / "artifact"
        return folder, write(str(folder), a_manifest(certified=certified), files)

    return publish
