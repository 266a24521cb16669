"""Which control plane may write: the one whose epoch is in the database's lease row.

On one machine the lock on the data folder decides, and the kernel frees it with its holder. The row is for where that
lock is not: on a file system without locks, or where somebody removed the lock file. Every write looks at the epoch in
its own transaction, so that a holder that was replaced, however late it notices, writes nothing more. No clock that may
jump decides anything: a holder on another machine counts as gone when its renewals have stood still for LEASE_SECONDS
of the observer's own monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from sqlalchemy import Connection

from batchyard.control.data_folder import FolderInUseError
from batchyard.control.holder import Holder
from batchyard.control.store import leases
from batchyard.control.store.database import Database
from batchyard.control.store.leases import LeaseRow
from batchyard.endpoint.errors import UnavailableError

log = logging.getLogger(__name__)

RENEW_SECONDS = 2.0
LEASE_SECONDS = 10.0
"""So long a holder on another machine may be silent: several renewals, for a disk may stall."""
LOOK_SECONDS = 0.25
"""How often one that waits for the lease looks at it."""


class LeaseLostError(UnavailableError):
    """Another control plane has taken the database over: this one may not write any more."""


class Lease:
    """One control plane's claim to a database."""

    def __init__(
        self, database: Database, holder: Holder, place: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`place` is where this holder finds the database; `clock` never goes back."""
        self._database = database
        self._holder = holder
        self._place = place
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._epoch = 0
        self._seen: tuple[int, int] | None = None
        """Epoch and renewals of another machine's holder, as last seen."""
        self._seen_at = 0.0
        self._renewing: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()
        """Set when a write found another holder."""

    async def acquire(self, *, standby: bool) -> None:
        """Returns when this process holds the lease. `standby`: waits for a holder that lives, instead of raising
        FolderInUseError.
        """
        waited_for: Holder | None = None
        while (row := await self._database.write(self._try)) is not None:
            lives = self._has_renewed(row) or row.holder.alive()
            if lives and not standby:
                raise self._in_use(row)
            if waited_for != row.holder:
                waited_for = row.holder
                log.info("the database is held by %s: waiting until it ends", row.holder)
            await asyncio.sleep(LOOK_SECONDS)
        log.info("holding the database, epoch %d", self._epoch)
        self._renewing = asyncio.create_task(self._renew_until_stopped(), name="lease")

    def check(self, connection: Connection) -> None:
        """For every write, inside its transaction. Raises LeaseLostError."""
        if leases.holds(connection, self._epoch):
            return
        found = leases.find(connection)
        by = found.holder if found else "nobody: its row is gone"
        error = LeaseLostError(
            f"this control plane ({self._holder}) does not hold its database any more; the holder is {by}: "
            "talk to that one",
            reason="LEASE_LOST",
        )
        if not self.lost.is_set():
            log.critical("%s", error)
            self._loop.call_soon_threadsafe(self.lost.set)
        raise error

    async def stop(self) -> None:
        """Gives the lease up, if it is still held."""
        if self._renewing is None:
            return
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        try:
            await self._database.write(lambda connection: leases.release(connection, self._epoch))
        except Exception:
            log.exception("the lease could not be given up; the next control plane finds out by itself")

    def _try(self, connection: Connection) -> LeaseRow | None:
        """Takes the lease, or returns who may still hold it."""
        row = leases.find(connection)
        if row is not None and self._held(row):
            return row
        self._epoch = leases.take(connection, self._holder, self._place)
        return None

    def _held(self, row: LeaseRow) -> bool:
        if row.released:
            return False
        if row.holder.boot == self._holder.boot:
            # A process of this machine lives or it does not. Two of one process are told apart by the folder's lock.
            return row.place == self._place and row.holder.pid != self._holder.pid and row.holder.alive()
        if row.holder.host == self._holder.host:
            return False  # this machine, before it was started anew
        if self._seen != (row.epoch, row.renewals):
            return True
        return self._clock() - self._seen_at < LEASE_SECONDS

    def _has_renewed(self, row: LeaseRow) -> bool:
        """Whether a holder on another machine has shown since the last look that it lives."""
        before, now = self._seen, (row.epoch, row.renewals)
        if before != now:
            self._seen, self._seen_at = now, self._clock()
        return before is not None and before != now

    def _in_use(self, row: LeaseRow) -> FolderInUseError:
        return FolderInUseError(
            f"the database {self._place} is in use by another control plane ({row.holder}): stop that one, or run this "
            "one with --standby to take over when it ends"
        )

    async def _renew_until_stopped(self) -> None:
        while not self.lost.is_set():
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._database.write(self._renew)
            except LeaseLostError:
                return
            except Exception:
                log.exception("the lease could not be renewed; trying again in %g s", RENEW_SECONDS)

    def _renew(self, connection: Connection) -> None:
        self.check(connection)
        leases.renew(connection, self._epoch)
