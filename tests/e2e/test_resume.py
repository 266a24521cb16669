"""Real jobs on a real service that lose their workers, are paused, or whose service is stopped: they end with the bits
and the history of one that was left alone.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
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

EVERY, STEPS = 100, 2000
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
"""From the loss of a worker to the next step of training."""
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

    def until(self, job: str, kind: type[Any], count: int = 1) -> Any:
        """The `count`-th event of this kind."""
        events = (event.detail for event in self.client.watch(job, kinds=(kind,), timeout=120))
        return [next(events) for _ in range(count)][-1]

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


def lose_a_worker(house: House, job: str, attempt: int, checkpoints: int) -> float:
    """Kills a worker after so many checkpoints of this attempt; returns how long until the next one trained."""
    written = (e for e in house.client.watch(job, kinds=(Checkpointed,), timeout=120) if e.attempt == attempt)
    next(itertools.islice(written, checkpoints - 1, None))
    began = time.monotonic()
    house.workers(job)[-1].send(signal.SIGKILL)
    next(e for e in house.client.watch(job, kinds=(StepMetrics,), timeout=120) if e.attempt > attempt)
    return time.monotonic() - began


def in_time(house: House, job: str, seconds: float) -> bool:
    """Within ten seconds, or, on a machine that is busy with other things, twice what the job's first start took."""
    found = house.client.job(job)
    first_start = found.first_step_time.ToDatetime() - found.create_time.ToDatetime()
    return seconds < max(WITHIN_S, 2 * first_start.total_seconds())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_killed_at_random_is_replaced_within_ten_seconds_and_the_job_ends_with_the_same_bits(
    house: House, workers: int
) -> None:
    chance = random.Random(workers)
    job = house.submit(workers)
    for attempt in (1, 2):
        seconds = lose_a_worker(house, job, attempt, chance.randint(1, 4))
        assert in_time(house, job, seconds)
    assert house.outcome(job) == house.undisturbed(workers)
    assert house.client.job(job).attempt == 3


def test_a_paused_job_frees_its_workers_and_goes_on_with_the_same_bits(house: House) -> None:
    job = house.submit()
    house.until(job, Checkpointed)
    house.client.pause(job)
    wait_until(lambda: house.client.job(job).state == TrainingJob.PAUSED)
    wait_until(lambda: not list(house.data.glob(f"executor/attempts/{job.removeprefix('trainingJobs/')}-*")))
    assert house.client.job(job).progress.checkpoint_step >= EVERY
    house.client.resume(job)
    assert house.outcome(job) == house.undisturbed(2)


def test_a_job_goes_on_with_the_same_bits_when_its_service_was_stopped_meanwhile(house: House) -> None:
    expected = house.undisturbed(2)
    job = house.submit()
    house.until(job, Checkpointed)
    assert house.service.stop() == 0
    with serving(house.data, *house.arguments) as again:
        house.connect(again)
        assert TrainingJob.FAILED not in [change.state for change in house.history(job, StateChange)]
        assert house.outcome(job) == expected


@pytest.mark.ray
def test_a_worker_that_is_killed_on_ray_is_replaced_too(tmp_path: Path) -> None:
    house = House(tmp_path, "--executor", "ray")
    with serving(house.data, *house.arguments) as service:
        house.connect(service)
        job = house.submit()
        seconds = lose_a_worker(house, job, 1, 2)
        assert house.outcome(job) == house.undisturbed(2)
        assert in_time(house, job, seconds)
        assert service.stop() == 0
