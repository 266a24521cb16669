"""Jobs that cannot work, on a real service with Ray: each says what is wrong, and the service goes on as before."""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchyard.cli import local, processes
from batchyard.client import Client, InvalidRequestError, StepMetrics, TrainingJob

SPEC: dict[str, Any] = {
    "name": "fault",
    "model": {"architecture": "mlp", "hidden": [8]},
    "data": {"dataset": "mnist", "batch_size": 20},
    "steps": 40,
    "workers": {"count": 2},
}
DIGITS = {**SPEC, "data": {"dataset": "digits", "batch_size": 20}}


def idx(values: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_mnist(folder: Path, labels: list[int]) -> None:
    folder.mkdir()
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[::2] = 200
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.array(labels, np.uint8)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets") / "mnist"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("service")
    free = [f"--{plane}=127.0.0.1:0" for plane in ("grpc", "http", "inference-grpc", "inference-http")]
    running, child = local.start([*free, "--workers", "2", "--datasets", str(data.parent)], folder)
    try:
        with Client(running.facts["grpc"], running.facts["inference_grpc"]) as client:
            yield client
            family = processes.family({running.process})
    finally:
        local.stop(running, folder, force=True)
        child.wait(30)
    assert not [process for process in family if process.alive]


def failure(client: Client, spec: dict[str, Any]) -> tuple[str, str]:
    """Cause and next step of a job that fails by its user's fault."""
    job = client.wait(client.submit(spec).name, timeout=120)
    assert job.state == TrainingJob.FAILED
    assert job.failure.failure_class == job.failure.USER, job.failure
    return job.failure.cause, job.failure.next_step


@pytest.mark.ray
def test_a_truncated_data_file_is_named(client: Client, data: Path) -> None:
    write_mnist(data, [0, 1] * 30)
    labels = data / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-5])
    cause, _ = failure(client, SPEC)
    assert "train-labels-idx1-ubyte" in cause
    assert "60" in cause


@pytest.mark.ray
def test_a_label_out_of_range_is_named(client: Client, data: Path) -> None:
    for file in data.iterdir():
        file.unlink()
    data.rmdir()
    write_mnist(data, [0] * 59 + [77])
    cause, _ = failure(client, SPEC)
    assert "label 77 of sample 59" in cause


@pytest.mark.ray
def test_a_loss_that_is_not_a_number_says_at_which_step_and_what_to_do(client: Client) -> None:
    wild = {**DIGITS, "model": {"architecture": "mlp", "norm": "none", "activation": "relu"}}
    cause, next_step = failure(client, {**wild, "optimizer": {"learning_rate": 1e30}})
    assert "step" in cause
    assert "learning rate 1e+30" in cause
    assert "lower optimizer.learning_rate" in next_step


@pytest.mark.ray
def test_more_workers_than_the_cluster_has_are_refused_at_once(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        client.submit({**DIGITS, "workers": {"count": 3}})
    (violation,) = refused.value.violations
    assert violation.field == "workers.count"
    assert "2" in violation.description


@pytest.mark.ray
def test_a_cancelled_job_leaves_no_worker_behind_and_the_next_one_runs(client: Client) -> None:
    endless = client.submit({**DIGITS, "steps": 10_000_000})
    next(client.watch(endless.name, kinds=(StepMetrics,), timeout=120))
    client.cancel(endless.name)
    assert client.wait(endless.name, timeout=60).state == TrainingJob.CANCELLED
    identity = endless.name.removeprefix("trainingJobs/")
    assert not [line for line in command_lines() if identity in line]
    job = client.wait(client.submit(DIGITS).name, timeout=120)
    assert job.state == TrainingJob.SUCCEEDED


def command_lines() -> Iterator[str]:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
