"""Whether what an attempt published is what its job asked for, before it becomes a version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchyard.artifact.errors import ArtifactError
from batchyard.artifact.manifest import Manifest
from batchyard.control.attempts import Publication, Try
from batchyard.training.events import Ended, Published
from batchyard.training.spec import SpecError, TrainingJobSpec

ReadManifest = Callable[[str, str], Manifest]
"""From an artifact's URI and its manifest's sha256 to the verified manifest; may block. Raises ArtifactError."""

NEXT_STEP = "submit the job again: batchyard submit JOB.yaml; if it fails like this again, look at the service's log"


def inspect(given: Try, published: Published | None, read: ReadManifest) -> Publication | Ended | None:
    """What to register for a job whose workers succeeded: nothing if it asked for nothing; or how it failed. Blocks."""
    wanted = given.job.spec.get("publish")
    if wanted is None:
        return None
    if published is None:
        return _failed("the workers ended without publishing, though the spec has publish")
    try:
        manifest = read(published.artifact_uri, published.manifest_sha256)
    except ArtifactError as error:
        return _failed(f"the published model cannot be registered: {error}")
    if (manifest.model, manifest.job) != (wanted["model"], given.id.job):
        found = f"model {manifest.model!r} of job {manifest.job!r}"
        return _failed(f"the published model is {found}; expected {wanted['model']!r} of {given.id.job!r}")
    if manifest.spec not in (given.job.spec, _filled_in(given.job.spec)):
        return _failed("the published model's manifest holds another spec than the job has")
    return Publication(
        artifact_uri=published.artifact_uri, manifest_sha256=published.manifest_sha256, manifest=manifest
    )


def _filled_in(spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """The spec as workers read it: with defaults for keys newer than the job. None: it is legal no more."""
    try:
        return TrainingJobSpec.from_mapping(spec).to_mapping()
    except SpecError:
        return None


def _failed(cause: str) -> Ended:
    return Ended(outcome="failed", failure_class="infrastructure", cause=cause, next_step=NEXT_STEP)
