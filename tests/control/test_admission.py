"""The queue's order, as a pure function."""

from __future__ import annotations

import random

import pytest

from batchyard.cluster.executor import Capacity
from batchyard.control.admission import Holding, Place, Verdict, admit, in_use
from batchyard.control.quotas import NO_QUOTA, Quota, shares
from batchyard.control.store.jobs import QueuedJob

FOUR = Capacity(workers=4, gpus=0)


def job(identity: str, workers: int = 1, gpus: int = 0, priority: int = 0, user: str = "") -> QueuedJob:
    return QueuedJob(id=identity, priority=priority, workers=workers, gpus=gpus, user=user)


def held(identity: str, workers: int = 1, gpus: int = 0, priority: int = 0, user: str = "", **flags: bool) -> Holding:
    return Holding(job=identity, user=user, priority=priority, workers=workers, gpus=gpus, **flags)


def places(
    *jobs: QueuedJob,
    capacity: Capacity | None = FOUR,
    running: tuple[Holding, ...] = (),
    quota: Quota = NO_QUOTA,
    **backing_off: float,
) -> tuple[Place, ...]:
    return admit(jobs, capacity, running, backing_off, quota)


def verdicts(*jobs: QueuedJob, **given: object) -> list[Verdict]:
    return [place.verdict for place in places(*jobs, **given)]  # type: ignore[arg-type]


def test_jobs_start_while_there_is_room_for_all_of_their_workers() -> None:
    found = verdicts(job("a", 2), job("b", 2), job("c"))
    assert found == [Verdict.STARTS, Verdict.STARTS, Verdict.NO_ROOM]


def test_nobody_overtakes_the_job_that_is_next() -> None:
    found = verdicts(job("big", 4), job("small"), running=(held("other"),))
    assert found == [Verdict.NO_ROOM, Verdict.BEHIND]


def test_those_behind_a_job_that_cannot_start_anyway_need_not_wait() -> None:
    jobs = (job("huge", 5), job("failed"), job("ending"), job("ready"))
    found = verdicts(*jobs, running=(held("ending"),), failed=1.5)
    assert found == [Verdict.TOO_LARGE, Verdict.BACKING_OFF, Verdict.CLEARING_UP, Verdict.STARTS]


def test_gpus_count_like_workers_do() -> None:
    two = Capacity(workers=4, gpus=2)
    assert verdicts(job("a", 2, gpus=2), job("b", 1, gpus=1), capacity=two) == [Verdict.STARTS, Verdict.NO_ROOM]
    assert verdicts(job("a", 2, gpus=4), capacity=two) == [Verdict.TOO_LARGE]


def test_a_cluster_that_cannot_be_asked_starts_nothing() -> None:
    assert verdicts(job("a"), job("b"), capacity=None, b=1.0) == [Verdict.CLUSTER_SILENT, Verdict.BACKING_OFF]


def test_a_job_that_backs_off_is_told_whether_it_will_fit_and_how_long_it_waits() -> None:
    small, large = admit((job("a"), job("b", 5)), FOUR, (held("other", 4),), {"a": 2.5, "b": 0.5})
    assert (small.fits, small.seconds, large.fits, large.seconds) == (True, 2.5, False, 0.5)


def test_a_user_with_as_much_running_as_one_may_waits_and_others_do_not() -> None:
    running = (held("first", 1, user="ann"),)
    jobs = (job("second", user="ann"), job("other", user="bob"), job("more", user="bob"))
    found = verdicts(*jobs, running=running, quota=Quota(jobs=1))
    assert found == [Verdict.OVER_QUOTA, Verdict.STARTS, Verdict.OVER_QUOTA]


@pytest.mark.parametrize(
    ("quota", "starts"),
    [(Quota(workers=3), 3), (Quota(jobs=2), 2), (Quota(gpus=1), 1), (Quota(jobs=3, workers=2), 2), (NO_QUOTA, 4)],
    ids=["workers", "jobs", "gpus", "jobs-and-workers", "none"],
)
def test_each_part_of_a_quota_is_counted(quota: Quota, starts: int) -> None:
    jobs = [job(f"job-{number}", gpus=1, user="ann") for number in range(6)]
    found = verdicts(*jobs, capacity=Capacity(workers=4, gpus=4), quota=quota)
    assert found.count(Verdict.STARTS) == starts


def test_a_job_of_higher_priority_has_the_newest_of_the_lowest_priority_give_way() -> None:
    running = (held("old"), held("new"), held("higher", priority=1), held("newest-but-higher", priority=1))
    (place,) = places(job("urgent", priority=5), running=running)
    assert (place.verdict, place.preempts) == (Verdict.NO_ROOM, ("new",))


def test_no_more_jobs_give_way_than_it_takes() -> None:
    running = (held("large", 3), held("small", 1))
    (place,) = places(job("urgent", 3, priority=5), running=running)
    assert place.preempts == ("large",)


@pytest.mark.parametrize(
    "running",
    [
        (held("same", 4, priority=5),),
        (held("fixed", 4, preemptible=False),),
        (held("fixed", 2, preemptible=False), held("free", 2)),
        (held("leaving", 4, leaving=True),),
        (held("leaving", 3, leaving=True), held("free", 1)),
    ],
    ids=["same-priority", "not-preemptible", "not-enough", "leaves-anyway", "enough-leaves-anyway"],
)
def test_nobody_gives_way_where_it_would_not_help_or_need_not_be(running: tuple[Holding, ...]) -> None:
    (place,) = places(job("urgent", 3, priority=5), running=running)
    assert (place.verdict, place.preempts) == (Verdict.NO_ROOM, ())


def test_only_the_job_that_is_next_has_others_give_way() -> None:
    first, second = places(job("a", 4, priority=9), job("b", 4, priority=8), running=(held("x", 2), held("y", 2)))
    assert set(first.preempts) == {"x", "y"}
    assert (second.verdict, second.preempts) == (Verdict.BEHIND, ())


def a_cluster(chance: random.Random) -> tuple[Capacity, list[Holding], list[QueuedJob], Quota]:
    """Anything that may stand in a queue, in its order, beside anything that may run within the cluster."""
    capacity = Capacity(workers=chance.randint(1, 8), gpus=chance.randint(0, 4))
    quota = Quota(jobs=chance.choice([None, 1, 2]), workers=chance.choice([None, 2, 4]))
    running: list[Holding] = []
    for number in range(chance.randint(0, 5)):
        each = held(
            f"running-{number}",
            chance.randint(1, 3),
            gpus=chance.randint(0, 1),
            priority=chance.randint(-1, 2),
            user=chance.choice("ab"),
            preemptible=chance.random() < 0.7,
            leaving=chance.random() < 0.2,
        )
        used = in_use([*running, each])
        if used.workers <= capacity.workers and used.gpus <= capacity.gpus:
            running.append(each)
    jobs = [
        job(f"queued-{number}", chance.randint(1, 9), chance.randint(0, 2), chance.randint(-2, 3), chance.choice("ab"))
        for number in range(chance.randint(1, 6))
    ]
    return capacity, running, sorted(jobs, key=lambda each: -each.priority), quota


def as_held(given: QueuedJob) -> Holding:
    return held(given.id, given.workers, given.gpus, given.priority, given.user)


@pytest.mark.parametrize("seed", range(300))
def test_whatever_waits_and_runs_the_promises_hold(seed: int) -> None:
    capacity, running, jobs, quota = a_cluster(random.Random(seed))
    found = admit(jobs, capacity, running, {}, quota)
    after = [*running, *(as_held(place.job) for place in found if place.verdict == Verdict.STARTS)]
    used = in_use(after)
    assert used.workers <= capacity.workers
    assert used.gpus <= capacity.gpus
    for user, share in shares(after).items():
        assert quota.allows(share) or share == shares(running).get(user), "the quota was exceeded by a job that starts"
    verdicts_ = [place.verdict for place in found]
    if Verdict.NO_ROOM in verdicts_:
        behind = verdicts_[verdicts_.index(Verdict.NO_ROOM) + 1 :]
        assert not {Verdict.STARTS, Verdict.NO_ROOM} & set(behind), "somebody overtook the job that is next"
    for place in found:
        check_victims(place, capacity, running, after)


def check_victims(place: Place, capacity: Capacity, running: list[Holding], after: list[Holding]) -> None:
    victims = [each for each in running if each.job in place.preempts]
    if not victims:
        return
    assert place.verdict == Verdict.NO_ROOM
    assert all(each.preemptible and not each.leaving and each.priority < place.job.priority for each in victims)
    staying = [each for each in after if each not in victims and not each.leaving]
    assert room(place.job, staying, capacity), "jobs gave way and it still finds no room"
    for each in victims:
        assert not room(place.job, [*staying, each], capacity), f"{each.job} need not have given way"


def room(given: QueuedJob, staying: list[Holding], capacity: Capacity) -> bool:
    used = in_use([*staying, as_held(given)])
    return used.workers <= capacity.workers and used.gpus <= capacity.gpus


@pytest.mark.parametrize("seed", range(50))
def test_every_job_that_fits_is_run_in_the_end_and_of_one_kind_the_older_first(seed: int) -> None:
    chance = random.Random(seed)
    capacity = Capacity(workers=chance.randint(2, 6), gpus=0)
    quota = Quota(jobs=2, workers=capacity.workers)
    waiting = [
        job(f"{number:03}", chance.randint(1, capacity.workers), user=chance.choice("ab")) for number in range(30)
    ]
    running: list[Holding] = []
    begun: list[Holding] = []
    for _ in range(100):
        started = [p.job for p in admit(waiting, capacity, running, {}, quota) if p.verdict == Verdict.STARTS]
        waiting = [each for each in waiting if each not in started]
        running += map(as_held, started)
        begun += map(as_held, started)
        if running:
            running.pop(chance.randrange(len(running)))
    assert not waiting, "somebody starves"
    for user in "ab":
        mine = [each.job for each in begun if each.user == user]
        assert mine == sorted(mine), "a newer job overtook an older one of the same user"
