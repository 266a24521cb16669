"""Removes what jobs that have ended leave and nobody can use: checkpoints that the database does not list, and
artifacts, whole or half written, of attempts that became no version.

The rows go first, with the transaction that ends the job; the files after, and again at the next start for whatever was
left. A job that has not ended is left alone: its worker keeps the newest few and sweeps when it goes on.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Coroutine
from typing import Any

from batchyard.artifact.storage import Folder
from batchyard.artifact.writer import remove
from batchyard.control.ledger import JobChange, Ledger
from batchyard.control.store import checkpoints, models
from batchyard.failpoints import failpoint

log = logging.getLogger(__name__)

CHECKPOINT = re.compile(r"\d{12}-\d+-[0-9a-f]{32}")
"""What training.checkpoint calls one; nothing else is touched, but for files of a write that was cut short."""

PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{32}")
"""What artifact.writer calls the folder NAME while it writes it."""

JOBS_PER_READ = 500


class Retention:
    """Listens from the moment it is made; `start` also clears what earlier control planes left."""

    def __init__(self, ledger: Ledger, folder: str, artifacts: str) -> None:
        """`folder` is the fsspec URI below which every job has its folder of checkpoints; `artifacts` has those of all
        attempts, and others.
        """
        self._ledger = ledger
        self._folder = folder.rstrip("/")
        self._artifacts = artifacts.rstrip("/")
        self._tasks: set[asyncio.Task[None]] = set()
        ledger.listen(self._take)

    def start(self) -> None:
        """Begins to sweep, and returns at once."""
        self._begin(self._sweep_all())

    async def stop(self) -> None:
        """Waits for what is being removed."""
        await asyncio.gather(*self._tasks)

    def _take(self, change: JobChange) -> None:
        if change.job.ended:
            self._begin(self._sweep([change.job.id]))
            if change.job.spec.get("publish") is not None:
                numbers = range(1, change.job.attempt + 1)
                self._begin(self._sweep_artifacts([f"{change.job.id}-{number}" for number in numbers]))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep_all(self) -> None:
        # Listed before the rows are read: a job that is new by then is not mistaken for one that nobody knows.
        present = await asyncio.to_thread(Folder(self._folder).names)
        await self._ledger.write(lambda unit: checkpoints.retire(unit.connection))
        for at in range(0, len(present), JOBS_PER_READ):
            await self._sweep(present[at : at + JOBS_PER_READ])
        found = await asyncio.to_thread(Folder(self._artifacts).names)
        names = sorted({partial[1] if (partial := PARTIAL.fullmatch(name)) else name for name in found})
        for at in range(0, len(names), JOBS_PER_READ):
            await self._sweep_artifacts(names[at : at + JOBS_PER_READ])

    async def _sweep_artifacts(self, names: list[str]) -> None:
        uris = [f"{self._artifacts}/{name}" for name in names]
        for uri in await self._ledger.read(lambda connection: models.useless(connection, uris)):
            log.info("removing what may be at %s: it has become no version", uri)
            await asyncio.to_thread(remove, uri)

    async def _sweep(self, jobs: list[str]) -> None:
        held = await self._ledger.read(lambda connection: checkpoints.held(connection, jobs))
        for job in jobs:
            if job not in held or held[job].ended:
                kept = held[job].names if job in held else frozenset[str]()
                failpoint("retention.before_files")
                await asyncio.to_thread(sweep, f"{self._folder}/{job}", kept)
                failpoint("retention.after_files")


def sweep(folder: str, kept: Collection[str]) -> None:
    """Removes every checkpoint of a job's folder but those named, and what was never finished.

    Blocks. Raises OSError.
    """
    for name in Folder(folder).names():
        if (CHECKPOINT.fullmatch(name) and name not in kept) or name.startswith("."):
            log.info("removing %s/%s: no job goes on from it", folder, name)
            remove(f"{folder}/{name}")


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.exception("old checkpoints could not be removed; the next start of the service tries again")
