"""A service that keeps artifacts and checkpoints on S3: a job is interrupted, goes on, is published and served."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchyard.client import Checkpointed, Client, Resumed, TrainingJob
from batchyard.cluster.attempts import MARK
from batchyard.cluster.processes import marked
from batchyard.control.process_watch import command_of
from batchyard.control.settings import Settings, SettingsError
from tests import s3
from tests.control.processes import Service, refused, serving, wait_until

STEPS = 2000
SPEC: dict[str, Any] = {
    "name": "remote",
    "model": {"architecture": "mlp", "hidden": [64, 64]},
    "data": {"dataset": "digits", "batch_size": 61},
    "metrics": {"every_steps": 400, "activation_statistics": False},
    "checkpoint": {"every_steps": 200, "keep": 2},
    "steps": STEPS,
}
PUBLISH = {"publish": {"model": "remote", "alias": "production"}}
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3.serving(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


def roots(bucket: str = s3.BUCKET) -> list[str]:
    return ["--artifacts", f"s3://{bucket}/models", "--checkpoints", f"s3://{bucket}/checkpoints/"]


@pytest.fixture(scope="module")
def service(server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("data"), *roots(), environment=server) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    facts = service.facts()
    with Client(facts["grpc"], facts["inference_grpc"]) as client:
        yield client


def lose_the_worker(service: Service, client: Client, job: str) -> None:
    """Kills the worker of the first attempt once that has written a checkpoint."""
    events = client.watch(job, kinds=(Checkpointed,), timeout=60)
    first: Any = next(events).detail
    assert first.uri.startswith(f"s3://{s3.BUCKET}/checkpoints/{job.removeprefix('trainingJobs/')}/")
    (folder,) = service.data.glob("executor/attempts/remote-*")
    for process in marked(MARK, json.loads((folder / "attempt.json").read_text())["mark"]):
        if "batchyard.cluster.worker_main" in command_of(process.pid):
            process.send(signal.SIGKILL)


def told(client: Client, job: str, kind: type[Any]) -> list[Any]:
    """What is stored of this kind."""
    return [event.detail for event in client.watch(job, kinds=(kind,), history_only=True)]


def last_tensors(client: Client, job: str) -> str:
    """The digest of everything in the job's last checkpoint."""
    made = told(client, job, Checkpointed)
    assert made[-1].step == STEPS
    return str(made[-1].tensors_sha256)


def test_a_job_goes_on_from_s3_and_what_it_publishes_is_served_from_there(
    service: Service, client: Client, server: dict[str, str]
) -> None:
    job = client.submit({**SPEC, **PUBLISH}).name
    identity = job.removeprefix("trainingJobs/")
    lose_the_worker(service, client, job)
    s3.bucket(server).put_object(Key=f"models/{identity}-1/model.onnx", Body=b"cut short")
    ended = client.wait(job, timeout=120)
    assert (ended.state, ended.attempt) == (TrainingJob.SUCCEEDED, 2), ended.failure
    (resumed,) = told(client, job, Resumed)
    assert resumed.step >= 200
    alone = client.wait(client.submit(SPEC).name, timeout=120).name
    assert last_tensors(client, job) == last_tensors(client, alone)

    version = client.version(ended.model_version)
    assert version.artifact_uri == f"s3://{s3.BUCKET}/models/{identity}-2"
    wait_until(client.inference.server_ready)
    assert client.predict("remote", PIXELS[:3]).probabilities.shape == (3, 10)

    # Of a job that has succeeded the last checkpoint is kept; what no version came of is removed.
    wait_until(lambda: len(s3.keys(server, f"checkpoints/{identity}/")) == 2)
    wait_until(lambda: s3.keys(server, f"models/{identity}-1/") == [])
    assert f"models/{identity}-2/manifest.json" in s3.keys(server, "models/")
    assert not (service.data / "artifacts").exists()
    assert not (service.data / "checkpoints").exists()


def test_a_service_whose_bucket_does_not_exist_does_not_start(server: dict[str, str], tmp_path: Path) -> None:
    status, said = refused("--data-dir", str(tmp_path), *roots("nobody"), environment=server)
    assert status == 2
    assert "--artifacts s3://nobody/models" in said
    assert "create the bucket 'nobody', or correct the URI" in said


@pytest.mark.parametrize("uri", ["bucket/models", "s3://", "/mnt/models"])
def test_a_place_is_a_uri(tmp_path: Path, uri: str) -> None:
    with pytest.raises(SettingsError, match="expected a URI, for example s3://bucket/batchyard"):
        Settings(data_dir=tmp_path, checkpoints=uri)
