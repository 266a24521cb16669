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
PROBE = "probe.onnx"
"""The folded graph up to its normalisation layers' outputs: what tells whether live data is like training data."""


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
class ProbedLayer:
    """A normalisation layer whose output the probe graph measures."""

    layer: str
    """Its name in the fold report, which holds the beta and gamma that the output must have."""
    channels: tuple[int, ...]
    """The channels that are measured, in the order of the probe's output; those with gamma near 0 are left out."""


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """What the probe graph measures.

    Input: that of the served graph. Output `moments` FP32 [batch, 2, channels of all layers in order]: of each row, the
    mean over space of z and of z^2, with z = (y - beta) / |gamma| of a layer's output y. On the training distribution
    z has mean 0 and variance 1 in every channel.
    """

    layers: tuple[ProbedLayer, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    """Layer -> why it cannot be measured."""


@dataclass(frozen=True, kw_only=True)
class RecalibrationRecord:
    """How a recalibrated version's population statistics came about."""

    prior: float
    """Samples that the source version's statistics counted as."""
    samples: int
    """Unlabelled inputs that the new statistics are of."""
    inputs_sha256: str
    """Of those inputs' bytes, FP32."""


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
    """The id of the job that trained it; empty for a version of another origin."""
    attempt: int
    created: float
    """Seconds since the epoch."""
    spec: dict[str, Any]
    """TrainingJobSpec.to_mapping()."""
    seed: int
    libraries: dict[str, str]
    """Name to version: batchyard, torch, python, onnx. Of batchyard with the commit where it ran from a checkout."""
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
    """`samples` is 0 where nobody measured it."""
    origin: str = "trained"
    """Where the network comes from: trained, imported, recalibrated or ensemble."""
    sources: tuple[str, ...] = ()
    """models/{model}/versions/{n} of every version that it was made from."""
    certificate_samples: str = "dataset"
    """What the certificate's samples are: dataset (held-out data), given (by the user) or generated (random)."""
    probe: ProbeRecord | None = None
    """None: no probe graph; the model has no normalisation, or was published before there were probes."""
    recalibration: RecalibrationRecord | None = None
    """Of a version whose origin is recalibrated."""
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
            values["sources"] = tuple(values.get("sources", ()))
            values["fold_report"] = tuple(_fold_entry(v) for v in values["fold_report"])
            values["certificate"] = CertificateRecord(**values["certificate"])
            values["evaluated"] = Evaluated(**values["evaluated"])
            if (probe := values.get("probe")) is not None:
                values["probe"] = _probe(probe)
            if (recalibration := values.get("recalibration")) is not None:
                values["recalibration"] = RecalibrationRecord(**recalibration)
            return cls(**values)
        except ManifestError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"not a manifest: {type(error).__name__}: {error}") from error


def _signature(values: dict[str, Any]) -> Signature:
    return Signature(**{**values, "shape": tuple(values["shape"])})


def _fold_entry(values: dict[str, Any]) -> FoldEntry:
    return FoldEntry(**{**values, "beta": tuple(values["beta"]), "gamma": tuple(values["gamma"])})


def _probe(values: dict[str, Any]) -> ProbeRecord:
    layers = (ProbedLayer(**{**layer, "channels": tuple(layer["channels"])}) for layer in values["layers"])
    return ProbeRecord(**{**values, "layers": tuple(layers)})
