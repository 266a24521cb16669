"""Work beside requests, on threads of its own: in the time that nobody else wants, or at a low priority."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from batchyard.serving.engines.priority import lower_priority, only_what_is_left

T = TypeVar("T")

PATIENCE_SECONDS = 0.1
"""Within this, a machine that has time left gives some to a thread that asks for nothing else."""


class Aside:
    """One thing at a time. Belongs to one event loop."""

    def __init__(self) -> None:
        self._leisure = ThreadPoolExecutor(1, "batchyard-leisure", initializer=only_what_is_left)
        self._quiet = ThreadPoolExecutor(1, "batchyard-load", initializer=lower_priority)

    async def run(self, work: Callable[..., T], *arguments: object, others_serve: bool = True) -> T:
        """What `work` returns or raises. Where no core has time left it gets a tenth of one: it must come to an end."""
        executor = self._leisure if others_serve and await self._time_is_left() else self._quiet
        return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)

    def close(self) -> None:
        """Begins nothing more; does not wait."""
        for executor in (self._leisure, self._quiet):
            executor.shutdown(wait=False, cancel_futures=True)

    async def _time_is_left(self) -> bool:
        asked = asyncio.wrap_future(self._leisure.submit(int))
        done, _ = await asyncio.wait([asked], timeout=PATIENCE_SECONDS)
        return bool(done)
