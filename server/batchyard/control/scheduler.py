"""Admits queued jobs, in order, when the cluster has room; has a follower for every attempt that runs.

It is woken by what is stored (a new job, an ended one, a cancel) and asks nothing while nothing happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from batchyard.cluster.executor import AttemptId, Capacity, Executor
from batchyard.control.admission import NOTHING, Holding, Place, Queue, Verdict, admit, in_use
from batchyard.control.attempts import Attempts, Try
from batchyard.control.backoff import Backoff
from batchyard.control.follower import Follower
from batchyard.control.ledger import JobChange, Ledger
from batchyard.control.publishing import ReadManifest
from batchyard.control.quotas import NO_QUOTA, Quota, shares
from batchyard.control.states import ACTIVE, State
from batchyard.control.store.jobs import QueuedJob, StaleWriteError
from batchyard.failpoints import failpoint
from batchyard.training.events import Ended

log = logging.getLogger(__name__)

CAPACITY_SECONDS = 5.0
"""How often a cluster that is too small, or does not answer, is asked again while a job waits for it."""
PAUSE_SECONDS = 20.0
"""What runs when the service stops has so long to write a checkpoint."""
STOP_SECONDS = 15.0
"""And then so long to end without one."""
THREADS = 32
"""Calls into the executor at one time."""


class Scheduler:
    """Between `start` and `stop`, jobs run."""

    def __init__(
        self,
        ledger: Ledger,
        attempts: Attempts,
        executor: Executor,
        read_manifest: ReadManifest,
        quota: Quota = NO_QUOTA,
    ) -> None:
        """`quota` is what each user may have running at once."""
        self._quota = quota
        self._attempts = attempts
        self._executor = executor
        self._read_manifest = read_manifest
        self._threads = ThreadPoolExecutor(THREADS, "executor")
        self._following: dict[str, tuple[Follower, asyncio.Task[None]]] = {}
        self._asked: dict[str, State] = {}
        """Jobs that are CANCELLING or PAUSING: their followers may be about to begin."""
        self._backoff = Backoff(time.monotonic)
        self._warned: set[str] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._unsure = False
        """Whether admission broke off, perhaps after an attempt was stored and before it was followed."""
        self._admitting: asyncio.Task[None] | None = None
        ledger.listen(self._take)

    async def start(self) -> None:
        """Re-attaches to what ran when an earlier control plane ended, then begins to admit."""
        unfinished = await self._attempts.unfinished()
        await self._clear_but({found.id for found in unfinished})
        for found in unfinished:
            failpoint("reattach.before_follow")
            self._follow(found)
        self._admitting = asyncio.create_task(self._admit_until_stopped())

    async def _clear_but(self, attempts: Collection[AttemptId]) -> None:
        """Has the executor forget what an earlier control plane could not release any more."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._executor.keep_only, attempts)
        except Exception:
            log.exception("attempts that are over could not be cleared away; the next start tries again")

    async def stop(self) -> None:
        """Stops every attempt, with a checkpoint where there is time for one. A job that ran is QUEUED again, unless
        its user had cancelled or paused it or it had just ended by itself: it goes on when the service is back.
        """
        self._stopping = True
        self._wake.set()
        if self._admitting is not None:
            await self._finish({self._admitting}, CAPACITY_SECONDS)
        for follower, _ in self._following.values():
            follower.pause()
        left = list(self._following.values())
        if left:
            await asyncio.wait({task for _, task in left}, timeout=PAUSE_SECONDS)
        for follower, _ in self._following.values():
            follower.cancel()
        await self._finish({task for _, task in left}, STOP_SECONDS)
        for follower, _ in left:
            await self._close(follower.given)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def let_go(self) -> None:
        """Follows nothing any more, and leaves what runs as it is: another control plane has it."""
        self._stopping = True
        tasks = {task for _, task in self._following.values()} | ({self._admitting} if self._admitting else set())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _finish(self, tasks: set[asyncio.Task[None]], seconds: float) -> None:
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self, given: Try) -> None:
        if given.over:
            return
        with contextlib.suppress(StaleWriteError):  # its follower had already written its end
            await self._attempts.interrupt(given)

    def _take(self, change: JobChange) -> None:
        job, old = change.job, change.old_state
        if job.state in (State.CANCELLING, State.PAUSING):
            self._asked[job.id] = job.state
            if job.id in self._following:
                self._tell(self._following[job.id][0], job.state)
        else:
            self._asked.pop(job.id, None)
        if job.state == State.QUEUED and old != State.QUEUED:
            if old in ACTIVE and _failed(change):
                self._backoff.failed(job.id, job.progress.checkpoint_step if job.progress else None)
            self._wake.set()
        elif job.state == State.PAUSED or job.ended:
            self._backoff.forget(job.id)
            if old == State.QUEUED:  # those that were behind it may be next
                self._wake.set()

    def _tell(self, follower: Follower, asked: State | None) -> None:
        if asked == State.CANCELLING:
            follower.cancel()
        elif asked == State.PAUSING:
            follower.pause()

    async def _admit_until_stopped(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                if self._unsure:
                    await self._follow_strays()
                seconds = await self._admit()
            except Exception:
                log.exception("admission failed; trying again in %g s", CAPACITY_SECONDS)
                self._unsure = True
                seconds = CAPACITY_SECONDS
            await self._sleep(seconds)

    async def _follow_strays(self) -> None:
        """Follows attempts that are stored and that nobody follows. Only admission begins any; it waits for this."""
        followed = set(self._following)
        for found in await self._attempts.unfinished():
            if found.id.job not in followed:
                log.warning("%s was begun and not followed: following it now", found.id)
                self._follow(found)
        self._unsure = False

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def queue(self) -> Queue:
        """Who waits, and what admission would do about it now. Begins nothing."""
        try:
            return await self._queue()
        except Exception:
            log.exception("the cluster cannot be asked what it has")
            return self._judged(await self._attempts.queued(), None)

    async def _queue(self) -> Queue:
        queued = await self._attempts.queued()
        loop = asyncio.get_running_loop()
        capacity = await loop.run_in_executor(self._threads, self._executor.capacity) if queued else NOTHING
        return self._judged(queued, capacity)

    def _judged(self, queued: list[QueuedJob], capacity: Capacity | None) -> Queue:
        running = [self._holding(follower) for follower, _ in self._following.values()]
        waits = {job.id: self._backoff.seconds(job.id) for job in queued}
        return Queue(
            places=admit(queued, capacity, running, waits, self._quota),
            capacity=capacity,
            used=in_use(running),
            running=tuple(self._following),
            quota=self._quota,
            shares=shares(running),
            giving_way={job: f.giving_way_to for job, (f, _) in self._following.items() if f.giving_way_to},
        )

    def _holding(self, follower: Follower) -> Holding:
        given = follower.given
        return Holding(
            job=given.id.job,
            user=given.job.user,
            priority=given.job.spec.get("priority", 0),
            workers=given.workers,
            gpus=given.gpus,
            preemptible=given.job.spec.get("preemptible", True),
            leaving=follower.leaving,
        )

    async def _admit(self) -> float | None:
        """Begins what may start. Returns after how many seconds to look again, if nothing happens before; None: no
        need.
        """
        queue = await self._queue()
        seconds: list[float] = []
        for place in queue.places:
            if self._stopping:
                break
            if place.verdict == Verdict.STARTS:
                failpoint("admission.before_begin")
                begun = await self._attempts.begin(place.job.id)
                if begun is not None:
                    self._follow(begun)
            elif place.preempts:
                await self._preempt(place)
            elif place.verdict == Verdict.TOO_LARGE:
                seconds.append(CAPACITY_SECONDS)
                await self._warn(place.job, queue.capacity)
            elif place.verdict == Verdict.BACKING_OFF:
                seconds.append(place.seconds)
        return min(seconds, default=None)

    async def _preempt(self, place: Place) -> None:
        """Has running jobs give way: noted first, so that a control plane that comes after this one goes on with it."""
        for victim in place.preempts:
            follower, _ = self._following[victim]
            noted = await self._attempts.preempt(follower.given, place.job.id)
            if noted is not None:
                log.info("%s gives way to %s", victim, place.job.id)
                follower.give_way(place.job.id)

    async def _warn(self, job: QueuedJob, capacity: Capacity | None) -> None:
        if job.id in self._warned or capacity is None:
            return
        self._warned.add(job.id)
        has = f"{capacity.workers} workers and {capacity.gpus} GPUs"
        needs = f"{job.workers} workers and {job.gpus} GPUs"
        text = f"waiting: the job needs {needs}, the cluster now has {has}; enlarge it or cancel the job"
        await self._attempts.warn(job.id, text)

    def _follow(self, given: Try) -> None:
        follower = Follower(given, self._attempts, self._executor, self._read_manifest, self._threads)
        self._tell(follower, self._asked.get(given.id.job))
        task = asyncio.create_task(follower.run(), name=f"follow {given.id}")
        self._following[given.id.job] = (follower, task)
        task.add_done_callback(lambda task: self._done(given.id.job, task))

    def _done(self, job_id: str, task: asyncio.Task[None]) -> None:
        del self._following[job_id]
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.critical("the follower of %s failed", job_id, exc_info=task.exception())


def _failed(change: JobChange) -> bool:
    """Whether an attempt that has ended did so because it failed, and not because it was paused or gave way."""
    ended = next((event for event in change.reported if isinstance(event, Ended)), None)
    return ended is None or ended.outcome == "failed"
