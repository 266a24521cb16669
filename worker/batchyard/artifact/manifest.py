"""manifest.json of a published model, as frozen dataclasses. Standard library only."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ONNX_MODEL = "model.onnx"
"""The folded graph that is served."""
WEIGHTS = "model.safetensors"
"""The unfolded network's state, for re-folding."""
SAMPLES = "samples.safetensors"
"""The certificate's samples: tensor `inputs` and the fp64 oracle's tensor `outputs`."""


class ManifestError(ValueError):
    """The manifest is not one of ours, is damaged, or is of a schema this version does not know."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One input or output of the served graph."""

    name: str
    datatype: str
    """Open Inference Protocol name, for example FP32."""
    shape: tuple[int, ...]
    """-1: the batch, always first."""


@dataclass(frozen=True, kw_only=True)
class FoldEntry:
    """What became of one normalisation layer."""

    layer: str
    status: str
    """folded, affine or refused."""
    into: str = ""
    reason: str = ""
    beta: tuple[float, ...] = ()
    """The mean each channel of the folded output must still have on training-like data."""
    gamma: tuple[float, ...] = ()
    """Its absolute value is the standard deviation that output must still have."""


@dataclass(frozen=True, kw_only=True)
class CertificateRecord:
    """The proof that the folded network equals the unfolded one."""

    passed: bool
    max_error: float
    """Largest absolute error of an output of the folded network against the fp64 oracle."""
    bound: float
    """Largest error allowed."""
    samples: int
    digest: str
    """sha256 over weights, fold report and samples."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Accuracy on held-out data before folding, with the population statistics that were folded."""

    accuracy: float
    loss: float
    samples: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that is known of a published model."""

    model: str
    job: str
    """The job's id."""
    attempt: int
    created: float
    """Seconds since the epoch."""
    spec: dict[str, Any]
    """TrainingJobSpec.to_mapping()."""
    seed: int
    libraries: dict[str, str]
    """Name to version: batchyard, torch, python, onnx."""
    dataset: str
    dataset_sha256: str
    classes: tuple[str, ...]
    parameter_count: int
    inputs: tuple[Signature, ...]
    """The graph takes raw pixels (0 to 255): input normalisation is part of it. A client may send FP32 or UINT8."""
    outputs: tuple[Signature, ...]
    population_statistics: str
    fold_report: tuple[FoldEntry, ...]
    certificate: CertificateRecord
    evaluated: Evaluated
    files: dict[str, str] = field(default_factory=dict)
    """File name to sha256, of every file in the folder but the manifest."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Indented JSON with sorted keys: the bytes of manifest.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Reads manifest.json. Raises ManifestError."""
        try:
            values = json.loads(text)
            if (version := values["schema_version"]) != SCHEMA_VERSION:
                raise ManifestError(f"schema_version is {version}; this version reads {SCHEMA_VERSION}")
            values["inputs"] = tuple(_signature(v) for v in values["inputs"])
            values["outputs"] = tuple(_signature(v) for v in values["outputs"])
            values["classes"] = tuple(values["classes"])
            values["fold_report"] = tuple(_fold_entry(v) for v in values["fold_report"])
            values["certificate"] = CertificateRecord(**values["certificate"])
            values["evaluated"] = Evaluated(**values["evaluated"])
            return cls(**values)
        except ManifestError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"not a manifest: {type(error).__name__}: {error}") from error


def _signature(values: dict[str, Any]) -> Signature:
    return Signature(**{**values, "shape": tuple(values["shape"])})


def _fold_entry(values: dict[str, Any]) -> FoldEntry:
    return FoldEntry(**{**values, "beta": tuple(values["beta"]), "gamma": tuple(values["gamma"])})
