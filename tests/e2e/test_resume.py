"""Real jobs on a real service that lose their workers, are paused, or whose service is stopped: they end with the bits
and the history of one that was left alone.
"""

from __future__ import annotations

import functools
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchyard.client import Checkpointed, Client, Evaluation, StateChange, StepMetrics, TrainingJob
from batchyard.cluster.attempts import MARK
from batchyard.cluster.processes import ProcessId, marked
from batchyard.control.process_watch import command_of
from tests.control.processes import Service, serving, wait_until

EVERY, STEPS = 100, 1500
SPEC: dict[str, Any] = {
    "name": "resume",
    "model": {"architecture": "mlp", "hidden": [64, 64]},
    "data": {"dataset": "digits", "batch_size": 61},
    "optimizer": {"momentum": 0.9},
    "metrics": {"every_steps": 40, "activation_statistics": False},
    "evaluate": {"every_steps": 700},
    "checkpoint": {"every_steps": EVERY, "keep": 1},
    "steps": STEPS,
}
WITHIN_S = 10.0
"""From the loss of a worker to the start of those that replace it, which then take as long as ever to import torch."""
Point = tuple[str, int, float, float]


class House:
    """A service with its client."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data, self.arguments = data, ("--no-inference", *arguments)
        self.service: Service
        self.client: Client

    def connect(self, service: Service) -> None:
        self.service, self.client = service, Client(service.facts()["grpc"])

    def submit(self, workers: int = 2) -> str:
        return self.client.submit({**SPEC, "workers": {"count": workers}}).name

    @functools.cache  # noqa: B019  one house for each executor
    def undisturbed(self, workers: int) -> tuple[str, list[Point]]:
        """The outcome of a job that is left alone."""
        return self.outcome(self.submit(workers))

    def workers(self, job: str) -> list[ProcessId]:
        """The worker processes of the job's present attempt."""
        folders = self.data.glob(f"executor/attempts/{job.removeprefix('trainingJobs/')}-*")
        folder = max(folders, key=lambda path: int(path.name.rpartition("-")[2]))
        processes = marked(MARK, json.loads((folder / "attempt.json").read_text())["mark"])
        return [process for process in processes if "batchyard.cluster.worker_main" in command_of(process.pid)]

    def outcome(self, job: str) -> tuple[str, list[Point]]:
        """The digest of everything in the last checkpoint, and the history, of a job that succeeds."""
        ended = self.client.wait(job, timeout=120)
        assert ended.state == TrainingJob.SUCCEEDED, ended.failure
        folder = self.data / "checkpoints" / job.removeprefix("trainingJobs/")
        wait_until(lambda: len(list(folder.iterdir())) == 1)
        (last,) = folder.iterdir()
        manifest = json.loads((last / "checkpoint.json").read_text())
        assert manifest["step"] == STEPS
        points = [(type(e).__name__, e.step, e.loss, e.accuracy) for e in self.history(job, StepMetrics, Evaluation)]
        return manifest["tensors"]["sha256"], points

    def history(self, job: str, *kinds: type[Any]) -> list[Any]:
        """What is stored of these kinds."""
        return [event.detail for event in self.client.watch(job, kinds=kinds, history_only=True)]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("resume"))
    with serving(house.data, *house.arguments) as service:
        house.connect(service)
        yield house


def lose_a_worker(house: House, job: str, attempt: int) -> float:
    """Kills a worker after a checkpoint of this attempt; returns how long until the next attempt began."""
    after_checkpoint(house, job, attempt)
    began = time.time()
    house.workers(job)[-1].send(signal.SIGKILL)
    events = house.client.watch(job, kinds=(StateChange,), timeout=120)
    started = (e for e in events if e.attempt == attempt + 1 and e.detail == StateChange(state=TrainingJob.STARTING))
    return next(started).time.timestamp() - began


def after_checkpoint(house: House, job: str, attempt: int) -> None:
    """Returns once the attempt has written one."""
    events = house.client.watch(job, kinds=(Checkpointed,), timeout=120)
    next(event for event in events if event.attempt == attempt)


def test_a_job_that_loses_its_worker_goes_on_by_itself_and_ends_with_the_same_bits(house: House) -> None:
    job = house.submit(workers=1)
    assert lose_a_worker(house, job, attempt=1) < WITHIN_S
    assert house.outcome(job) == house.undisturbed(1)
    assert house.client.job(job).attempt == 2


def test_a_job_that_is_shot_paused_and_stopped_with_its_service_ends_with_the_same_bits(house: House) -> None:
    expected = house.undisturbed(2)
    job = house.submit()
    assert lose_a_worker(house, job, attempt=1) < WITHIN_S
    after_checkpoint(house, job, attempt=2)
    house.client.pause(job)
    wait_until(lambda: house.client.job(job).state == TrainingJob.PAUSED)
    wait_until(lambda: not list(house.data.glob("executor/attempts/resume-*")))
    house.client.resume(job)
    after_checkpoint(house, job, attempt=3)
    assert house.service.stop() == 0
    with serving(house.data, *house.arguments) as again:
        house.connect(again)
        assert house.outcome(job) == expected
        assert house.client.job(job).attempt == 4


@pytest.mark.ray
def test_a_worker_that_is_killed_on_ray_is_replaced_too(house: House, tmp_path: Path) -> None:
    expected = house.undisturbed(2)
    on_ray = House(tmp_path, "--executor", "ray")
    with serving(on_ray.data, *on_ray.arguments) as service:
        on_ray.connect(service)
        job = on_ray.submit()
        assert lose_a_worker(on_ray, job, attempt=1) < WITHIN_S
        assert on_ray.outcome(job) == expected
        assert service.stop() == 0
