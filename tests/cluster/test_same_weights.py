"""A real training job gives the same weights wherever its workers run."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from batchyard.cluster.attempts import ENTRY
from batchyard.training.events import Published, StepMetrics
from batchyard.training.spec import PublishSpec
from tests.cluster.harness import Bench, Run, spec


def train(bench: Bench) -> tuple[str, list[StepMetrics]]:
    """Digest of the published weights, and the metrics on the way."""
    executor = bench.build(bench.folder, ENTRY, 5.0)
    job = replace(spec(workers=2, steps=12), publish=PublishSpec(model="digits"))
    attempt = replace(bench.attempt(), spec=job.to_mapping())
    executor.start(attempt)
    bench.runs.append(Run(bench, executor, attempt))
    events = bench.runs[-1].events()
    assert any(isinstance(event, Published) for event in events), events[-1]
    weights = (Path(attempt.artifact_uri) / "model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest(), [event for event in events if isinstance(event, StepMetrics)]


@pytest.mark.ray
def test_a_job_gives_the_same_weights_on_subprocesses_and_on_ray(local: Bench, shared_ray: Bench) -> None:
    weights_here, metrics_here = train(local)
    weights_there, metrics_there = train(shared_ray)
    assert [event.loss for event in metrics_here] == [event.loss for event in metrics_there]
    assert weights_here == weights_there
