"""The queue's order, as a pure function."""

from __future__ import annotations

from batchyard.cluster.executor import Capacity
from batchyard.control.admission import NOTHING, Verdict, admit
from batchyard.control.store.jobs import QueuedJob

FOUR = Capacity(workers=4, gpus=0)


def job(identity: str, workers: int = 1, gpus: int = 0) -> QueuedJob:
    return QueuedJob(id=identity, priority=0, workers=workers, gpus=gpus)


def verdicts(
    *jobs: QueuedJob,
    capacity: Capacity | None = FOUR,
    used: Capacity = NOTHING,
    clearing_up: tuple[str, ...] = (),
    **backing_off: float,
) -> list[Verdict]:
    return [place.verdict for place in admit(jobs, capacity, used, clearing_up, backing_off)]


def test_jobs_start_while_there_is_room_for_all_of_their_workers() -> None:
    found = verdicts(job("a", 2), job("b", 2), job("c"))
    assert found == [Verdict.STARTS, Verdict.STARTS, Verdict.NO_ROOM]


def test_nobody_overtakes_the_job_that_is_next() -> None:
    found = verdicts(job("big", 4), job("small"), used=Capacity(workers=1, gpus=0))
    assert found == [Verdict.NO_ROOM, Verdict.BEHIND]


def test_those_behind_a_job_that_cannot_start_anyway_need_not_wait() -> None:
    jobs = (job("huge", 5), job("failed"), job("ending"), job("ready"))
    found = verdicts(*jobs, clearing_up=("ending",), failed=1.5)
    assert found == [Verdict.TOO_LARGE, Verdict.BACKING_OFF, Verdict.CLEARING_UP, Verdict.STARTS]


def test_gpus_count_like_workers_do() -> None:
    two = Capacity(workers=4, gpus=2)
    assert verdicts(job("a", 2, gpus=2), job("b", 1, gpus=1), capacity=two) == [Verdict.STARTS, Verdict.NO_ROOM]
    assert verdicts(job("a", 2, gpus=4), capacity=two) == [Verdict.TOO_LARGE]


def test_a_cluster_that_cannot_be_asked_starts_nothing() -> None:
    assert verdicts(job("a"), job("b"), capacity=None, b=1.0) == [Verdict.CLUSTER_SILENT, Verdict.BACKING_OFF]


def test_a_job_that_backs_off_is_told_whether_it_will_fit_and_how_long_it_waits() -> None:
    small, large = admit((job("a"), job("b", 5)), FOUR, FOUR, (), {"a": 2.5, "b": 0.5})
    assert (small.fits, small.seconds, large.fits, large.seconds) == (True, 2.5, False, 0.5)
