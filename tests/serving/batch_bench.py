"""A batcher over an engine that the test holds and lets go."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchyard.serving.batcher import Batcher, BatchPlan
from batchyard.serving.batching import BatchPolicy
from tests.serving.harness import until

FEATURES = 3
MAX_BATCH = 8
QUEUE_ROWS = 40


class HeldEngine:
    """Runs a batch only when the test lets it; the answer to a row is twice its first value and its last."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.fail_next = 0
        self.poison: float | None = None
        """A batch with a row that begins with this fails."""
        self._permits = threading.Semaphore(0)
        self.started = 0

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        self.started += 1
        assert self._permits.acquire(timeout=30), "the test never let the engine run"
        self.batches.append(len(rows))
        if self.fail_next:
            self.fail_next -= 1
            raise MemoryError("no room")
        if self.poison in rows[:, 0]:
            raise ArithmeticError("poison")
        return np.stack([rows[:, 0] * 2, rows[:, -1]], axis=1)

    def let(self, batches: int = 1) -> None:
        self._permits.release(batches)


class Observed:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.waits: list[float] = []

    def batch_ran(self, rows: int, seconds: float, requests: int) -> None:
        self.rows.append(rows)

    def request_waited(self, seconds: float) -> None:
        self.waits.append(seconds)


class Bench:
    """A batcher over a held engine."""

    def __init__(self, executor: ThreadPoolExecutor, inline: bool = False, **policy: Any) -> None:
        self.engine = HeldEngine()
        self.observed = Observed()
        self.plan = BatchPlan(model="'m' version 1", row_shape=(FEATURES,), inline=inline)
        self.batcher = Batcher(self.engine.run, self.plan, policy_of(**policy), executor, self.observed)

    def change(self, **policy: Any) -> None:
        self.batcher.change(policy_of(**policy), self.plan)

    def submit(self, rows: NDArray[Any], *terms: Any, **more: Any) -> asyncio.Task[NDArray[np.float32]]:
        return asyncio.create_task(self.batcher.submit(rows, *terms, **more))

    async def occupy(self) -> asyncio.Task[NDArray[np.float32]]:
        """A request that keeps the engine busy until it is let."""
        task = self.submit(rows_of(1, 999))
        started = self.engine.started
        await until(lambda: self.engine.started > started, "the engine runs")
        return task

    async def until_queued(self, rows: int) -> None:
        await until(lambda: self.batcher.queued_rows == rows, f"{rows} rows wait")


def policy_of(**changes: Any) -> BatchPolicy:
    return BatchPolicy(**{"max_batch": MAX_BATCH, "queue_rows": QUEUE_ROWS, **changes})


def rows_of(count: int, start: int) -> NDArray[np.float32]:
    """Rows that no other start gives."""
    return (np.arange(count * FEATURES, dtype=np.float32) + start * 100).reshape(count, FEATURES)


def answer_to(rows: NDArray[Any]) -> NDArray[np.float32]:
    return np.stack([rows[:, 0].astype(np.float32) * 2, rows[:, -1].astype(np.float32)], axis=1)
