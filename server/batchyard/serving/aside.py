"""Work beside requests, on threads of its own: in the time that nobody else wants, or at a low priority."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from batchyard.serving.engines.priority import lower_priority, only_what_is_left

T = TypeVar("T")

PATIENCE_SECONDS = 0.1
PROBE_BYTES = 16 << 20
"""To hash so many takes a core 9 ms. A machine that does it in the time that is left, within the patience, has as much
left as a thread of low priority would get; one that only lets go of a core now and then has not, and what it began
there would not come to an end."""


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
        asked = asyncio.wrap_future(self._leisure.submit(_work_a_little))
        done, _ = await asyncio.wait([asked], timeout=PATIENCE_SECONDS)
        return bool(done)


def _work_a_little() -> None:
    hashlib.sha256(bytes(PROBE_BYTES)).digest()  # without the interpreter's lock
