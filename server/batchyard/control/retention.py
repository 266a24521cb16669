"""Removes what nobody can use: checkpoints that the database does not list, and artifacts, whole or half written, of
attempts that became no version.

The rows go first, with the transaction that stores a newer checkpoint or ends the job; the files after, and again at
the next start for whatever was left. So what is listed is there, whatever becomes of a report. Of a job that has not
ended only what is older than the newest that is listed: what is newer may be a worker's, whose report is on its way,
and the next attempt sweeps what no report came of.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from batchyard.artifact.storage import Folder
from batchyard.artifact.writer import remove
from batchyard.control.ledger import JobChange, Ledger
from batchyard.control.store import checkpoints, models
from batchyard.control.store.checkpoints import Held
from batchyard.failpoints import failpoint
from batchyard.training.events import Checkpointed

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)

CHECKPOINT = re.compile(r"(\d{12})-(\d+)-[0-9a-f]{32}")
"""What training.checkpoint calls one, by step and attempt; nothing else is touched, but for files of a write that was
cut short.
"""

PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{32}")
"""What artifact.writer calls the folder NAME while it writes it."""

NOTHING = Held(ended=True)
"""What is listed of a job that nobody knows."""

JOBS_PER_READ = 500

AT_A_TIME = 2
"""Folders that are swept: a store that does not answer holds up no more than these."""


class Retention:
    """Listens from the moment it is made; `start` also clears what earlier control planes left."""

    def __init__(self, ledger: Ledger, folder: str, artifacts: str) -> None:
        """`folder` is the fsspec URI below which every job has its folder of checkpoints; `artifacts` has those of all
        attempts, and others.
        """
        self._ledger = ledger
        self._folder = folder.rstrip("/")
        self._artifacts = artifacts.rstrip("/")
        self._threads = ThreadPoolExecutor(AT_A_TIME, "retention")
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[str, bool] = {}
        """Jobs whose checkpoints are being swept, and whether to do it once more."""
        ledger.listen(self._take)

    def start(self) -> None:
        """Begins to sweep, and returns at once."""
        self._begin(self._sweep_all())

    async def stop(self) -> None:
        """Waits for what is being removed."""
        await asyncio.gather(*self._tasks)
        self._threads.shutdown()

    def _take(self, change: JobChange) -> None:
        job = change.job
        if job.ended or any(isinstance(event, Checkpointed) for event in change.reported):
            self._sweep_soon(job.id)
        if job.ended and job.spec.get("publish") is not None:
            numbers = range(1, job.attempt + 1)
            self._begin(self._sweep_artifacts([f"{job.id}-{number}" for number in numbers]))

    def _sweep_soon(self, job: str) -> None:
        """However quick checkpoints follow each other, one sweep of a job at a time."""
        under_way = job in self._asked
        self._asked[job] = True
        if not under_way:
            self._begin(self._sweep_while_asked(job))

    async def _sweep_while_asked(self, job: str) -> None:
        try:
            while self._asked[job]:
                self._asked[job] = False
                await self._sweep([job])
        finally:
            del self._asked[job]

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep_all(self) -> None:
        # Listed before the rows are read: a job that is new by then is not mistaken for one that nobody knows.
        present = await self._call(Folder(self._folder).names)
        await self._ledger.write(lambda unit: checkpoints.retire(unit.connection))
        for at in range(0, len(present), JOBS_PER_READ):
            await self._sweep(present[at : at + JOBS_PER_READ])
        found = await self._call(Folder(self._artifacts).names)
        names = sorted({partial[1] if (partial := PARTIAL.fullmatch(name)) else name for name in found})
        for at in range(0, len(names), JOBS_PER_READ):
            await self._sweep_artifacts(names[at : at + JOBS_PER_READ])

    async def _sweep_artifacts(self, names: list[str]) -> None:
        uris = [f"{self._artifacts}/{name}" for name in names]
        for uri in await self._ledger.read(lambda connection: models.useless(connection, uris)):
            log.info("removing what may be at %s: it has become no version", uri)
            await self._call(remove, uri)

    async def _sweep(self, jobs: list[str]) -> None:
        held = await self._ledger.read(lambda connection: checkpoints.held(connection, jobs))
        for job in jobs:
            listed = held.get(job, NOTHING)
            failpoint("retention.before_files")
            await self._call(sweep, listed.folder or f"{self._folder}/{job}", listed)
            failpoint("retention.after_files")

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls what may block in a thread."""
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def sweep(folder: str, held: Held) -> None:
    """Removes the checkpoints of a job's folder that nobody can use, and of a job that has ended what was never
    finished. Blocks. Raises OSError.
    """
    for name in useless(Folder(folder).names(), held):
        log.debug("removing %s/%s: no job goes on from it", folder, name)
        remove(f"{folder}/{name}")


def useless(names: Collection[str], held: Held) -> list[str]:
    """Which of the names in a job's folder are to go."""
    places = {name: place for name in (*names, *held.names) if (place := _place(name))}
    others = {name: place for name, place in places.items() if name not in held.names}
    if held.ended:
        return [*others, *(name for name in names if name.startswith("."))]
    # Until an attempt's Resumed is stored, its checkpoints may be of earlier steps than the newest that is listed.
    step, attempt = max((place for name, place in places.items() if name in held.names), default=(0, 0))
    return [name for name, place in others.items() if place[0] < step and place[1] <= attempt]


def _place(name: str) -> tuple[int, int] | None:
    """The step and attempt of a checkpoint."""
    match = CHECKPOINT.fullmatch(name)
    return match and (int(match[1]), int(match[2]))


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.exception("old checkpoints could not be removed; the next start of the service tries again")
