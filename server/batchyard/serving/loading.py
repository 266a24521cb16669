"""From a version that should be served to an engine that may serve it. Runs on a thread of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchyard.artifact.manifest import ONNX_MODEL, Manifest
from batchyard.artifact.reader import Samples, fetch_and_verify, read_samples
from batchyard.serving.engine import Engine, EngineError, open_onnxruntime, seconds_per_batch, warm_up


class LoadError(Exception):
    """The version must not be served; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A version that should be served, as the control plane names it."""

    model: str
    version: int
    artifact_uri: str
    manifest_sha256: str

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.model!r} version {self.version}"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A verified, certified and warmed-up network."""

    manifest: Manifest
    engine: Engine
    seconds_per_batch: float
    """Of a full batch, measured."""


def folder_of(wanted: Wanted, cache: Path) -> Path:
    """Where a version's artifact is kept: one folder for each manifest, so that no two can be mixed up."""
    return cache / "artifacts" / wanted.model / f"{wanted.version}-{wanted.manifest_sha256[:16]}"


def load(wanted: Wanted, cache: Path, max_batch: int) -> Loaded:
    """Fetches and verifies the artifact, checks the engine against the certificate's samples, and warms it up.

    Raises LoadError, or ArtifactError or EngineError, which name the file or the tensor.
    """
    folder = folder_of(wanted, cache)
    manifest = fetch_and_verify(wanted.artifact_uri, wanted.manifest_sha256, folder)
    if manifest.model != wanted.model:
        raise LoadError(f"{wanted.artifact_uri} is an artifact of model {manifest.model!r}, not of {wanted.model!r}")
    if len(manifest.inputs) != 1 or len(manifest.outputs) != 1:
        raise LoadError(f"{wanted.artifact_uri} has {len(manifest.inputs)} inputs and {len(manifest.outputs)} outputs")
    samples = read_samples(folder)
    engine = open_onnxruntime(folder / ONNX_MODEL, manifest.inputs[0], manifest.outputs[0], max_batch)
    try:
        check_against_certificate(engine, samples, manifest.certificate.bound, max_batch)
        row_shape = manifest.inputs[0].shape[1:]
        warm_up(engine, row_shape, max_batch)
        seconds = seconds_per_batch(engine.run, row_shape, max_batch)
    except BaseException:
        engine.close()
        raise
    return Loaded(manifest=manifest, engine=engine, seconds_per_batch=seconds)


def check_against_certificate(engine: Engine, samples: Samples, bound: float, max_batch: int) -> None:
    """Raises EngineError unless the engine's outputs are within `bound` of the fp64 oracle's, with the same argmax."""
    expected = samples.outputs
    if not len(samples.inputs) or len(samples.inputs) != len(expected):
        raise EngineError(f"the certificate has {len(samples.inputs)} inputs and {len(expected)} outputs")
    outputs = _run_in_batches(engine, samples.inputs, max_batch)
    if outputs.shape != expected.shape:
        raise EngineError(f"{engine.name} answers {outputs.shape}; the certificate's samples have {expected.shape}")
    error = float(np.abs(outputs - expected).max())
    if not error <= bound:  # so that NaN fails too
        raise EngineError(f"{engine.name} is {error:g} off the certificate's samples; its bound is {bound:g}")
    differing = np.flatnonzero(outputs.argmax(axis=1) != expected.argmax(axis=1))
    if differing.size:
        raise EngineError(
            f"{engine.name} gives {differing.size} of the certificate's {len(expected)} samples another class, "
            f"first sample {differing[0]}"
        )


def _run_in_batches(engine: Engine, inputs: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    parts = [engine.run(np.ascontiguousarray(inputs[at : at + size])) for at in range(0, len(inputs), size)]
    return np.concatenate(parts).astype(np.float64)
