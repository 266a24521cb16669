"""Admits queued jobs, in order, when the cluster has room; has a follower for every attempt that runs.

It is woken by what is stored (a new job, an ended one, a cancel) and asks nothing while nothing happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor

from batchyard.cluster.executor import Capacity, Executor
from batchyard.control.attempts import Attempts, Try
from batchyard.control.follower import Follower
from batchyard.control.ledger import JobChange, Ledger
from batchyard.control.lifecycle import SERVICE_STOPPED
from batchyard.control.publishing import ReadManifest
from batchyard.control.states import State
from batchyard.control.store.jobs import QueuedJob, StaleWriteError

log = logging.getLogger(__name__)

CAPACITY_SECONDS = 5.0
"""How often a cluster that is too small, or does not answer, is asked again while a job waits for it."""
STOP_SECONDS = 30.0
"""A cold start of the cluster may have to end before its attempt can be stopped."""
THREADS = 32
"""Calls into the executor at one time."""


class Scheduler:
    """Between `start` and `stop`, jobs run."""

    def __init__(self, ledger: Ledger, attempts: Attempts, executor: Executor, read_manifest: ReadManifest) -> None:
        self._attempts = attempts
        self._executor = executor
        self._read_manifest = read_manifest
        self._threads = ThreadPoolExecutor(THREADS, "executor")
        self._following: dict[str, tuple[Follower, asyncio.Task[None]]] = {}
        self._cancelling: set[str] = set()
        self._warned: set[str] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._admitting: asyncio.Task[None] | None = None
        ledger.listen(self._take)

    async def start(self) -> None:
        """Re-attaches to what ran when an earlier control plane ended, then begins to admit."""
        for found in await self._attempts.unfinished():
            self._follow(found)
        self._admitting = asyncio.create_task(self._admit_until_stopped())

    async def stop(self) -> None:
        """Stops every attempt. A job that ran is FAILED (infrastructure) with the advice to submit it again, unless
        its user had cancelled it or it had just ended by itself; queued jobs stay queued.
        """
        self._stopping = True
        self._wake.set()
        if self._admitting is not None:
            await self._finish({self._admitting}, CAPACITY_SECONDS)
        for follower, _ in self._following.values():
            follower.cancel()
        left = list(self._following.values())
        await self._finish({task for _, task in left}, STOP_SECONDS)
        for follower, _ in left:
            await self._close(follower.given)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _finish(self, tasks: set[asyncio.Task[None]], seconds: float) -> None:
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self, given: Try) -> None:
        if given.job.ended:
            return
        with contextlib.suppress(StaleWriteError):  # its follower had already written its end
            await self._attempts.fail(given, SERVICE_STOPPED)

    def _take(self, change: JobChange) -> None:
        state = change.job.state
        if state == State.CANCELLING:
            self._cancelling.add(change.job.id)  # its follower may be about to begin
            if change.job.id in self._following:
                self._following[change.job.id][0].cancel()
        else:
            self._cancelling.discard(change.job.id)
        if state == State.QUEUED and change.old_state != State.QUEUED:
            self._wake.set()

    async def _admit_until_stopped(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                ask_again = await self._admit()
            except Exception:
                log.exception("admission failed; trying again in %g s", CAPACITY_SECONDS)
                ask_again = True
            await self._sleep(CAPACITY_SECONDS if ask_again else None)

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _admit(self) -> bool:
        """Begins what fits. True: something waits for more than the cluster has, ask it again after a while."""
        queued = await self._attempts.queued()
        if not queued:
            return False
        capacity = await asyncio.get_running_loop().run_in_executor(self._threads, self._executor.capacity)
        too_big = False
        for job in queued:
            if self._stopping:
                break
            if job.workers > capacity.workers or job.gpus > capacity.gpus:
                too_big = True  # it was accepted when there was more; those behind it need not wait
                await self._warn(job, capacity)
            elif self._fits(job, capacity):
                begun = await self._attempts.begin(job.id)
                if begun is not None:
                    self._follow(begun)
            else:
                break  # in order: nobody overtakes the job that is next
        return too_big

    def _fits(self, job: QueuedJob, capacity: Capacity) -> bool:
        running = [follower.given for follower, _ in self._following.values()]
        workers = sum(given.workers for given in running) + job.workers
        gpus = sum(given.gpus for given in running) + job.gpus
        return workers <= capacity.workers and gpus <= capacity.gpus

    async def _warn(self, job: QueuedJob, capacity: Capacity) -> None:
        if job.id in self._warned:
            return
        self._warned.add(job.id)
        has = f"{capacity.workers} workers and {capacity.gpus} GPUs"
        needs = f"{job.workers} workers and {job.gpus} GPUs"
        text = f"waiting: the job needs {needs}, the cluster now has {has}; enlarge it or cancel the job"
        await self._attempts.warn(job.id, text)

    def _follow(self, given: Try) -> None:
        follower = Follower(given, self._attempts, self._executor, self._read_manifest, self._threads)
        if given.id.job in self._cancelling:
            follower.cancel()
        task = asyncio.create_task(follower.run(), name=f"follow {given.id}")
        self._following[given.id.job] = (follower, task)
        task.add_done_callback(lambda task: self._done(given.id.job, task))

    def _done(self, job_id: str, task: asyncio.Task[None]) -> None:
        del self._following[job_id]
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.critical("the follower of %s failed", job_id, exc_info=task.exception())
