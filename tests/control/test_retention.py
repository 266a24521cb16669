"""Which checkpoints stay while a job goes on and when it has ended, and what the next start removes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import torch

from batchyard.cluster.executor import Attempt
from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control.retention import CHECKPOINT, useless
from batchyard.control.store.checkpoints import Held
from batchyard.training.checkpoint import CheckpointFolder, Snapshot
from batchyard.training.events import Checkpointed, Ended, Evaluation, Event
from batchyard.v1 import spec_pb2, training_pb2
from tests.control.harness import PATIENCE, Service, artifact, control_plane, publishing, until

Place = tuple[int, int]
"""A checkpoint's step and attempt."""
KEEP_TWO = {"checkpoint": spec_pb2.CheckpointSpec(every_steps=10, keep=2)}


class Writing(FakeExecutor):
    """Attempts write real checkpoints after steps 10, 20 and 30, and end as told."""

    outcome = "succeeded"
    accuracies: Mapping[int, float] = {}

    def start(self, attempt: Attempt) -> None:
        folder = CheckpointFolder(attempt.checkpoint_uri)
        events: list[Event] = []
        for step in (10, 20, 30):
            accuracy = self.accuracies.get(step)
            if accuracy is not None:
                events.append(Evaluation(step=step, loss=0.1, accuracy=accuracy, samples=10))
            tensors = {"w": torch.full((3,), float(step))}
            state = Snapshot(job=attempt.id.job, step=step, world_size=1, tensors=tensors, accuracy=accuracy)
            done = folder.write(state, attempt.id.number)
            events.append(Checkpointed(step=step, uri=done.uri, sha256=done.sha256, bytes=done.bytes))
        failed = {"failure_class": "user", "cause": "x", "next_step": "y"} if self.outcome == "failed" else {}
        end = () if self.outcome == "cancelled" else (Ended(outcome=self.outcome, **failed),)  # type: ignore[arg-type]
        self.script = lambda attempt: (*events, *end)
        super().start(attempt)


@pytest.fixture
def cluster() -> Writing:
    return Writing(workers=4)


@pytest.fixture
async def service(tmp_path: Path, cluster: Writing) -> AsyncIterator[Service]:
    async with control_plane(tmp_path / "data", cluster) as running:
        yield running


def names(data: Path, job: str) -> set[str]:
    """What lies in a job's folder."""
    return {path.name for path in (data / "checkpoints" / job).iterdir()}


def steps(data: Path, job: str) -> list[int]:
    """The steps of the checkpoints in a job's folder."""
    return sorted(int(name.partition("-")[0]) for name in names(data, job) if CHECKPOINT.fullmatch(name))


async def test_of_a_job_that_has_succeeded_the_last_checkpoint_stays(service: Service, tmp_path: Path) -> None:
    job = await service.submit(**KEEP_TWO)
    await service.until_state(job, "SUCCEEDED")
    await until(lambda: steps(tmp_path / "data", job) == [30])


@pytest.mark.parametrize(("outcome", "kept"), [("succeeded", [10, 30]), ("failed", [10, 20, 30])])
async def test_the_most_accurate_checkpoint_stays_beside_the_latest(
    cluster: Writing, tmp_path: Path, database_url: str | None, outcome: str, kept: list[int]
) -> None:
    cluster.outcome, cluster.accuracies = outcome, {10: 0.9, 20: 0.8, 30: 0.85}
    async with control_plane(tmp_path / "data", cluster, database_url=database_url) as service:
        job = await service.submit(checkpoint=spec_pb2.CheckpointSpec(every_steps=10, keep=2, keep_best=1))
        await service.until_state(job, outcome.upper())
    # Its end waits for what is being removed.
    assert steps(tmp_path / "data", job) == kept


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
async def test_of_a_job_that_has_not_as_many_stay_as_its_spec_keeps(
    service: Service, cluster: Writing, tmp_path: Path, outcome: str
) -> None:
    cluster.outcome = outcome
    job = await service.submit(**KEEP_TWO)
    if outcome == "cancelled":
        await service.until_started(job)
        await service.cancel(job)
    await service.until_state(job, outcome.upper())
    await service.plane.stop()  # waits for what is being removed
    assert steps(tmp_path / "data", job) == [20, 30]


async def test_the_next_start_removes_what_nothing_refers_to_and_nothing_else(tmp_path: Path) -> None:
    data, cluster = tmp_path / "data", Writing(workers=4)
    async with control_plane(data, cluster) as service:
        succeeded = await service.submit(**KEEP_TWO)
        await service.until_state(succeeded, "SUCCEEDED")
        cluster.outcome = "cancelled"
        cancelled, paused = await service.submit(**KEEP_TWO), await service.submit(**KEEP_TWO)
        for job in (cancelled, paused):
            await service.until_started(job)
        await service.cancel(cancelled)
        await service.until_state(cancelled, "CANCELLED")
        await service.pause(paused)
        await service.until_state(paused, "PAUSED")
    for job in (succeeded, cancelled, paused, "nobody-1"):  # what a dead worker had written and not reported
        _write(data, job, step=5)
    _write(data, paused, step=40)  # of this, too: its next attempt will see to it
    (data / "checkpoints" / cancelled / ".partial.0123").mkdir()
    (data / "checkpoints" / cancelled / "notes.txt").write_text("a person's")
    async with control_plane(data, cluster):
        pass  # it is left when everything that is to go is gone
    found = {job: steps(data, job) for job in (succeeded, cancelled, paused, "nobody-1")}
    assert found == {succeeded: [30], cancelled: [20, 30], paused: [20, 30, 40], "nobody-1": []}
    assert {name for name in names(data, cancelled) if not CHECKPOINT.fullmatch(name)} == {"notes.txt"}


async def test_what_was_left_half_removed_goes_at_the_next_start(tmp_path: Path) -> None:
    data, cluster = tmp_path / "data", Writing()
    async with control_plane(data, cluster) as service:
        job = await service.submit(**KEEP_TWO)
        await service.until_state(job, "SUCCEEDED")
    name = _write(data, job, step=20)
    (data / "checkpoints" / job / name / "checkpoint.json").unlink()
    async with control_plane(data, cluster):
        pass
    assert steps(data, job) == [30]


async def test_an_old_checkpoint_goes_when_it_is_stored_that_there_are_newer_ones(tmp_path: Path) -> None:
    data, cluster = tmp_path / "data", FakeExecutor()
    async with control_plane(data, cluster) as service:
        job = await service.submit(**KEEP_TWO)
        await service.until_started(job)
        written = [_checkpoint(data, job, step) for step in (10, 20, 30, 40)]
        cluster.report(job, written[0])
        await until_listed(service, job, 1)
        assert steps(data, job) == [10, 20, 30, 40]
        cluster.report(job, *written[1:3])
        await until(lambda: steps(data, job) == [20, 30, 40])


async def test_a_job_that_is_cancelled_before_a_report_came_keeps_what_is_listed(tmp_path: Path) -> None:
    data, cluster = tmp_path / "data", FakeExecutor()
    async with control_plane(data, cluster) as service:
        job = await service.submit(**KEEP_TWO)
        await service.until_started(job)
        written = [_checkpoint(data, job, step) for step in (10, 20, 30, 40)]
        cluster.report(job, *written[:2])
        await until_listed(service, job, 2)
        await service.cancel(job)
        await service.until_state(job, "CANCELLED")
    assert steps(data, job) == [10, 20]


@pytest.mark.parametrize(
    ("listed", "others", "gone"),
    [
        pytest.param([(20, 1)], [(10, 1), (30, 1)], [(10, 1)], id="what-is-older"),
        pytest.param([(10, 1), (30, 1)], [(20, 1)], [(20, 1)], id="what-is-older-than-the-newest"),
        pytest.param([(30, 1)], [(10, 1), (20, 2)], [(10, 1)], id="nothing-of-an-attempt-that-fell-back-and-goes-on"),
        pytest.param([], [(10, 1)], [], id="nothing-where-none-is-listed"),
    ],
)
def test_while_a_job_goes_on_this_is_removed(listed: list[Place], others: list[Place], gone: list[Place]) -> None:
    held = Held(ended=False, names=frozenset(map(_name, listed)))
    names = [*map(_name, [*listed, *others]), f".{_name((5, 1))}.{'0' * 32}", "notes.txt"]
    assert useless(names, held) == [_name(place) for place in gone]


async def until_listed(service: Service, job: str, count: int) -> None:
    """Returns once so many checkpoints of the job are reported."""
    async with asyncio.timeout(PATIENCE):
        async for _ in service.watch(job, kinds=[training_pb2.CHECKPOINTED]):
            count -= 1
            if not count:
                return


def _name(place: Place) -> str:
    return f"{place[0]:012d}-{place[1]}-{'0' * 32}"


def _checkpoint(data: Path, job: str, step: int) -> Checkpointed:
    """What a worker reports of one that it has written."""
    state = Snapshot(job=job, step=step, world_size=1, tensors={"w": torch.zeros(1)})
    done = CheckpointFolder(f"file://{data}/checkpoints/{job}").write(state, 1)
    return Checkpointed(step=step, uri=done.uri, sha256=done.sha256, bytes=done.bytes)


def _write(data: Path, job: str, step: int) -> str:
    return _checkpoint(data, job, step).uri.rpartition("/")[2]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "half-written"])
async def test_an_artifact_that_became_no_version_goes_with_its_job(tmp_path: Path, whole: bool) -> None:
    cluster = FakeExecutor()
    async with control_plane(tmp_path / "data", cluster) as service:
        job = await service.submit(retries=1, **publishing())
        lost = await service.until_started(job)
        _leave(lost, whole=whole)  # its worker died before it could say so
        cluster.report(job, Ended(outcome="failed", failure_class="infrastructure", cause="x", next_step="y"))
        published = await service.until_started(job, 2)
        cluster.report(job, artifact(published), Ended(outcome="succeeded"))
        await service.until_state(job, "SUCCEEDED")
    assert [path.name for path in (tmp_path / "data" / "artifacts").iterdir()] == [f"{job}-2"]


async def test_the_next_start_removes_artifacts_that_became_no_version_and_nothing_else(tmp_path: Path) -> None:
    data, cluster = tmp_path / "data", FakeExecutor()
    async with control_plane(data, cluster) as service:
        cancelled, paused = await service.submit(**publishing()), await service.submit(**publishing())
        attempts = [await service.until_started(job) for job in (cancelled, paused)]
        await service.cancel(cancelled)
        await service.until_state(cancelled, "CANCELLED")
        await service.pause(paused)
        await service.until_state(paused, "PAUSED")
    for attempt in attempts:  # what their workers had written and could not report
        _leave(attempt, whole=False)
        _leave(attempt, whole=True)
    (data / "artifacts" / "imported").mkdir()
    async with control_plane(data, cluster):
        pass  # it is left when everything that is to go is gone
    left = {path.name for path in (data / "artifacts").iterdir()}
    assert left == {"imported", f"{paused}-1", f".{paused}-1.{'0' * 32}"}


def _leave(attempt: Attempt, *, whole: bool) -> None:
    """What a worker that was killed leaves of its artifact."""
    target = Path(attempt.artifact_uri.removeprefix("file://"))
    (target if whole else target.with_name(f".{target.name}.{'0' * 32}")).mkdir(parents=True)
