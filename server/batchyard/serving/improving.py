"""Versions that serve with the first engine that could: which one is fastest is found out beside them."""

from __future__ import annotations

import asyncio
import logging

from batchyard.serving.loading import Loaded, Loader
from batchyard.serving.model import ServedVersion

log = logging.getLogger(__name__)


class Improver:
    """Tries the engines of served versions, one version after the other. Belongs to one event loop."""

    def __init__(self, loader: Loader, max_batch: int) -> None:
        self._loader = loader
        self._max_batch = max_batch
        self._tasks: dict[ServedVersion, asyncio.Task[None]] = {}

    def offer(self, served: ServedVersion, loaded: Loaded) -> None:
        """If the engines of this version are not known yet, they will be, and the fastest takes over."""
        if loaded.timings.measuring:
            task = asyncio.get_running_loop().create_task(self._improve(served, loaded))
            self._tasks[served] = task
            task.add_done_callback(lambda _: self._tasks.pop(served, None))

    async def give_up(self, served: ServedVersion) -> None:
        """The version is about to be closed: nothing is tried, opened or switched for it any more."""
        task = self._tasks.get(served)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _improve(self, served: ServedVersion, loaded: Loaded) -> None:
        try:
            better = await self._loader.improve(served.wanted, loaded, self._max_batch)
            await served.take_over(better)
            log.info("%s is served by %s: measured", served.wanted.label, better.engine.name)
        except Exception:
            # It serves, certified; whatever goes wrong in looking for a faster engine costs nobody an answer.
            log.exception("the engines of %s could not be measured: it is served as it is", served.wanted.label)
            served.stop_measuring()
