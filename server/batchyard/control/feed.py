"""Every change to every job, as it is stored: for those who show all jobs at once."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from batchyard.control.ledger import JobChange, Ledger
from batchyard.control.notices import Notices
from batchyard.control.records import Job

TOPIC = "jobs"


class Feed:
    """Hands changes on to subscriptions. Belongs to one event loop."""

    def __init__(self, ledger: Ledger) -> None:
        self._notices = ledger.notices
        self._subscriptions: list[Subscription] = []
        ledger.listen(self._take)

    def subscribe(self) -> Subscription:
        """Collects changes from now on, until it is closed (a context manager)."""
        subscription = Subscription(self._notices, self._subscriptions)
        self._subscriptions.append(subscription)
        return subscription

    def _take(self, change: JobChange) -> None:
        for subscription in self._subscriptions:
            subscription.changed[change.job.id] = change.job
        self._notices.advance(TOPIC, self._notices.position(TOPIC) + 1)


class Subscription:
    """The jobs that have changed since somebody last asked; a job that changed often is there once, as it is now."""

    def __init__(self, notices: Notices, others: list[Subscription]) -> None:
        self._notices = notices
        self._others = others
        self.changed: dict[str, Job] = {}

    async def next(self) -> tuple[Job, ...]:
        """The jobs that have changed, one at least. Raises UnavailableError at shutdown."""
        while not self.changed:
            await self._notices.wait(TOPIC, self._notices.position(TOPIC))
        taken = tuple(self.changed.values())
        self.changed.clear()
        return taken

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._others.remove(self)
