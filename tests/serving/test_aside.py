"""Work beside requests takes the time that nobody wants, and where nobody leaves any, a little of the others'."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator

import pytest

from batchyard.serving import aside
from batchyard.serving.aside import Aside
from batchyard.serving.engines.priority import LOWER_PRIORITY

LEFT_OVER = os.SCHED_IDLE, os.nice(0)
LOW = os.SCHED_OTHER, min(19, os.nice(0) + LOWER_PRIORITY)


def mine() -> tuple[int, int]:
    """Policy and niceness of the calling thread."""
    return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.fixture
async def beside(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Aside]:
    monkeypatch.setattr(aside, "PATIENCE_SECONDS", 60.0)  # a machine with other tests on it
    made = Aside()
    yield made
    made.close()


async def test_it_runs_in_the_time_that_is_left(beside: Aside) -> None:
    assert await beside.run(mine) == LEFT_OVER
    assert await beside.run(mine) == LEFT_OVER


async def test_where_nobody_serves_yet_it_runs_at_low_priority(beside: Aside) -> None:
    assert await beside.run(mine, others_serve=False) == LOW


async def test_where_no_time_is_left_it_runs_at_low_priority(beside: Aside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "PATIENCE_SECONDS", 0.01)
    taken = threading.Event()
    beside._leisure.submit(taken.wait)  # as if no core let go of it
    try:
        assert await beside.run(mine) == LOW
    finally:
        taken.set()


async def test_a_core_let_go_of_for_a_moment_is_no_time_left(beside: Aside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(aside, "PROBE_BYTES", 1 << 30)
    assert await beside.run(mine) == LOW


async def test_where_leftover_time_cannot_be_asked_for_it_runs_at_low_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    beside = Aside()
    assert await beside.run(mine) == LOW
    beside.close()


async def test_the_callers_own_thread_stays_as_it_is(beside: Aside) -> None:
    before = mine()
    await beside.run(time.sleep, 0)
    assert mine() == before


async def test_what_the_work_raises_is_raised(beside: Aside) -> None:
    with pytest.raises(ZeroDivisionError):
        await beside.run(divmod, 1, 0)
