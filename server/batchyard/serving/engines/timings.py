"""The table of times of one version: which engines were tried, what they took, and which of them serve."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchyard.serving.engines.catalogue import gpus, library_versions, why_not_here
from batchyard.serving.engines.precision import Precision

SCHEMA_VERSION = 2
FILES: dict[Precision, str] = {"fp32": "engines.json", "bf16": "engines.bf16.json"}
"""In the version's folder in the cache, beside the artifact's own files, by the model's precision."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One engine with one number of threads."""

    engine: str
    threads: int
    """0: it came to no number, because the engine is missing or failed as such."""
    precision: Precision = "fp32"
    """What it computes in."""
    passed: bool
    """Whether it computes what the certificate says."""
    reason: str = ""
    """Why not."""
    error: float | None = None
    """Largest absolute error against the certificate's fp64 outputs."""
    seconds: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """Rows of a batch -> the fastest of several runs; where batches take long the larger sizes are left out."""

    def seconds_for(self, rows: int) -> float:
        """Measured, or in proportion to the nearest smaller batch that was."""
        if rows in self.seconds:
            return self.seconds[rows]
        nearest = max((timed for timed in self.seconds if timed < rows), default=min(self.seconds))
        return self.seconds[nearest] * rows / nearest


@dataclass(frozen=True, kw_only=True)
class Share:
    """Who serves batches of up to `up_to` rows, and of more than the share before."""

    up_to: int
    engine: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Timings:
    """What is known of a version's engines on this machine."""

    conditions: Mapping[str, Any]
    """Machine, libraries and settings: under others the times mean nothing."""
    trials: tuple[Trial, ...]
    chosen: tuple[Share, ...]
    """Rising; the last one goes up to the largest batch."""
    measuring: bool = False
    """The engines are still being tried; the first one that holds the certificate serves meanwhile."""
    measured_on: str = ""
    """The version whose trials these are, another one of the same graph perhaps; empty while measuring."""

    @property
    def holds_for_other_weights(self) -> bool:
        """Not where an engine that is installed was refused: with other weights it may pass."""
        return all(trial.passed or why_not_here(trial.engine) for trial in self.trials)

    def to_json(self) -> str:
        """What the file and ModelConfig hold."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Timings:
        """Raises ValueError, KeyError or TypeError for anything else than to_json() writes."""
        values = json.loads(text)
        if values["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {values['schema_version']}; this version reads {SCHEMA_VERSION}")
        return cls(
            conditions=values["conditions"],
            trials=tuple(trial_from_json(trial) for trial in values["trials"]),
            chosen=tuple(Share(**share) for share in values["chosen"]),
            measuring=values["measuring"],
            measured_on=values["measured_on"],
        )


def trial_from_json(values: dict[str, Any]) -> Trial:
    """JSON has no integer keys. Raises TypeError or ValueError."""
    return Trial(**{**values, "seconds": {int(rows): float(s) for rows, s in values["seconds"].items()}})


def conditions_here(engines: tuple[str, ...], max_batch: int) -> dict[str, Any]:
    """What a table made now, on this machine, would depend on."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": cores(),
        "gpus": gpus(),
        "libraries": library_versions(engines),
        "engines": list(engines),
        "max_batch": max_batch,
    }


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def read(file: Path, conditions: Mapping[str, Any]) -> Timings | None:
    """The table in `file`, if it was made under these conditions."""
    try:
        timings = Timings.from_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be used, the engines are timed again: %r", file, error)
        return None
    return timings if timings.conditions == conditions else None


def write(file: Path, timings: Timings) -> None:
    """Replaces the table in one step; a disk that is full costs only the next start's time."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(timings.to_json())
        partial.replace(file)
    except OSError as error:
        log.warning("%s cannot be written, the next load times the engines again: %s", file, error)


def _processor() -> str:
    """The model's name as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
