"""Engines take turns at being timed, and a busy machine does not decide who is fastest."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack

import numpy as np
import pytest
from numpy.typing import NDArray

from batchyard.serving.engines.rounds import LEAST_ROUNDS, LONG_BATCH_SECONDS, Contender, take_turns
from batchyard.serving.engines.stopwatch import undisturbed_seconds
from batchyard.serving.engines.switch import SwitchedEngine
from tests.children import running

SIZES = [1, 2, 4, 8]
ROWS = np.zeros((1, 1), np.float32)


class Clock:
    """Says what a batch takes, and remembers who was asked."""

    def __init__(self, **seconds_per_row: float) -> None:
        self.seconds_per_row = seconds_per_row
        self.asked: list[tuple[str, int]] = []
        self.breaks: set[str] = set()

    async def timed(self, contender: Contender, rows: int) -> float | None:
        self.asked.append((contender.engine, rows))
        return None if contender.engine in self.breaks else self.seconds_per_row[contender.engine] * rows

    async def race(self) -> list[Contender]:
        contenders = [Contender(name, 1) for name in self.seconds_per_row]
        await take_turns(contenders, SIZES, self.timed)
        return contenders


async def test_everyone_is_timed_at_every_size_in_turns() -> None:
    clock = Clock(one=1e-4, other=1.1e-4)
    contenders = await clock.race()
    assert all(list(contender.seconds) == SIZES for contender in contenders)
    assert clock.asked[:4] == [("one", 1), ("other", 1), ("one", 2), ("other", 2)]
    counts = Counter(clock.asked)
    assert len(set(counts.values())) == 1
    assert counts["one", 8] >= LEAST_ROUNDS


async def test_who_cannot_win_is_out_the_sooner_the_slower_it_is() -> None:
    clock = Clock(fast=1e-4, slow=1.5e-4, slowest=3e-4)
    await clock.race()
    asked = Counter(clock.asked)
    assert (asked["slowest", 8], asked["slow", 8]) == (1, 2)


async def test_sizes_that_take_long_are_left_out() -> None:
    clock = Clock(one=LONG_BATCH_SECONDS / 3, other=LONG_BATCH_SECONDS)
    one, _ = await clock.race()
    assert list(one.seconds) == [1, 2, 4]


async def test_who_breaks_down_is_asked_no_more() -> None:
    clock = Clock(well=1e-4, broken=1e-4)
    clock.breaks.add("broken")
    well, broken = await clock.race()
    assert Counter(name for name, _ in clock.asked)["broken"] == 1
    assert (list(well.seconds), broken.seconds) == (SIZES, {})


def work(_: NDArray[np.float32]) -> None:
    """About 40 ms of one core, whoever else wants it."""
    end = time.thread_time() + 0.04
    while time.thread_time() < end:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a thread waited for a core")
def test_a_busy_machine_hardly_changes_what_a_batch_takes() -> None:
    with ExitStack() as stack:
        for _ in range(2 * len(os.sched_getaffinity(0))):
            busy = stack.enter_context(running([sys.executable, "-c", "while True: pass"]))
            stack.callback(busy.kill)
        assert 0.039 < undisturbed_seconds(work, ROWS, 1) < 0.06


def test_what_an_engine_waits_for_itself_counts() -> None:
    """All but what other threads of this process may wait for a core meanwhile: that is taken for the engine's."""
    assert undisturbed_seconds(lambda _: time.sleep(0.1), ROWS, 1) > 0.05


class Held:
    """An engine that answers when it is let, and knows whether it was closed while it ran."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began, self.may_end = threading.Event(), threading.Event()
        self.closed = self.closed_too_early = False

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        self.began.set()
        assert self.may_end.wait(30)
        self.closed_too_early |= self.closed
        return rows

    def close(self) -> None:
        self.closed = True


def test_an_engine_is_exchanged_between_two_batches() -> None:
    old, new = Held("old"), Held("new")
    new.may_end.set()
    engine = SwitchedEngine(old)
    batch = threading.Thread(target=engine.run, args=(ROWS,))
    batch.start()
    assert old.began.wait(30)
    switch = threading.Thread(target=engine.switch, args=(new,))
    switch.start()
    assert engine.name == "old"
    old.may_end.set()
    batch.join()
    switch.join()
    assert (engine.name, old.closed, old.closed_too_early) == ("new", True, False)
    engine.run(ROWS)
    assert not new.closed


def test_an_engine_that_stays_is_not_closed() -> None:
    only = Held("only")
    engine = SwitchedEngine(only)
    engine.switch(only)
    assert not only.closed
