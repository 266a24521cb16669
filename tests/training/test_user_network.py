"""A job whose network is a user's own: trained, published with its normalisation folded, and built again from there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchyard.artifact.manifest import MANIFEST, Manifest
from batchyard.artifact.reader import verify
from batchyard.models import ModelError
from batchyard.training import worker
from batchyard.training.context import WorkerContext
from batchyard.training.events import Event, Published, TrainingError
from batchyard.training.network import rebuild
from batchyard.training.spec import python_architecture

Job = Callable[..., dict[str, Any]]
Context = Callable[..., tuple[WorkerContext, list[Event]]]
PACKAGE = "network_of_a_job"
NETWORK = """
from torch import nn
from batchyard.nn import SyncBatchNorm

def make(plan):
    channels, height, width = plan.image_shape
    hidden = nn.Linear(channels * height * width, 16, bias=False)
    return nn.Sequential(nn.Flatten(), hidden, SyncBatchNorm(16), nn.ReLU(), nn.Linear(16, plan.classes))
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a_job: Job) -> dict[str, Any]:
    (tmp_path / f"{PACKAGE}.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    model = {"architecture": f"python:{PACKAGE}:make"}
    return a_job(model=model, publish={"model": "own"}, name="own")


def published(context: WorkerContext, events: list[Event]) -> Manifest:
    (event,) = [event for event in events if isinstance(event, Published)]
    assert (Path(context.artifact_uri) / MANIFEST).exists()
    return verify(Path(context.artifact_uri), event.manifest_sha256)


def test_it_is_trained_folded_certified_and_built_again(
    job: dict[str, Any], a_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(python_architecture.VARIABLE, PACKAGE)
    context, events = a_context(job)
    worker.run(context)
    manifest = published(context, events)
    assert [entry.status for entry in manifest.fold_report] == ["folded"]
    assert manifest.certificate.passed
    assert rebuild(Path(context.artifact_uri), manifest).state_dict()["network.1.weight"].shape == (16, 64)
    monkeypatch.delenv(python_architecture.VARIABLE)
    with pytest.raises(ModelError, match=f"start the service with --allow-python {PACKAGE}"):
        rebuild(Path(context.artifact_uri), manifest)


def test_a_worker_refuses_it_where_its_package_is_not_allowed(job: dict[str, Any], a_context: Context) -> None:
    context, _ = a_context(job)
    with pytest.raises(TrainingError, match=f"start the service with --allow-python {PACKAGE}"):
        worker.run(context)
    assert PACKAGE not in sys.modules
