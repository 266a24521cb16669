"""Workers that hang: how long they may be silent, and what becomes of them."""

from __future__ import annotations

import os
import signal
import time

from batchyard.cluster.silence import LOOKS, Silence
from batchyard.training.events import Ended
from tests.cluster.harness import Bench, Run, eventually
from tests.cluster.test_conformance import gone

LIMIT_S = 3.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def looks(silence: Silence, clock: Clock, count: int) -> bool:
    """What the last of so many looks says, each in its time."""
    over = False
    for _ in range(count):
        clock.now += silence.look_s or 1.0
        over = silence.over()
    return over


def test_silence_is_over_the_limit_after_the_limit_and_not_before() -> None:
    clock = Clock()
    silence = Silence(8.0, clock)
    assert not looks(silence, clock, LOOKS - 1)
    assert looks(silence, clock, 1)


def test_a_sign_of_life_begins_the_silence_anew() -> None:
    clock = Clock()
    silence = Silence(8.0, clock)
    assert not looks(silence, clock, LOOKS - 1)
    silence.broken()
    assert not looks(silence, clock, LOOKS - 1)


def test_time_in_which_nobody_listened_hardly_counts() -> None:
    clock = Clock()
    silence = Silence(8.0, clock)
    clock.now += 3600.0
    assert not silence.over()
    assert not looks(silence, clock, LOOKS - 3)
    assert looks(silence, clock, 1)


def test_without_a_limit_workers_may_be_silent_for_ever() -> None:
    clock = Clock()
    silence = Silence(0.0, clock)
    assert silence.look_s is None
    assert not looks(silence, clock, 100_000)


def start(bench: Bench, entry: str, workers: int) -> Run:
    attempt = bench.attempt(workers)
    attempt.spec["workers"]["hung_after_seconds"] = LIMIT_S
    run = Run(bench, bench.executor(entry, grace_s=30.0), attempt)
    bench.runs.append(run)
    run.executor.start(attempt)
    return run


def check(ended: Ended) -> None:
    assert (ended.outcome, ended.failure_class) == ("failed", "infrastructure")
    assert ended.cause is not None
    assert ended.cause.startswith("no worker gave a sign of life (a step, an event, a printed line) for 3 s")
    assert "workers.hung_after_seconds" in ended.cause


def test_workers_that_are_stuck_in_their_code_are_ended_and_say_where_they_were(bench: Bench) -> None:
    run = start(bench, "stuck", workers=2)
    pids = [*run.pids(), int(run.note("child-0")), int(run.note("child-1"))]
    log = "\n".join(run.log())
    check(run.ended())
    assert "worker 1: no sign of life for 3 s; it is ended here:" in log
    assert log.count("in sleep_without_end") >= 2
    assert gone(pids)
    assert run.processes() == []


def test_a_worker_that_does_steps_may_go_on_and_one_that_is_stopped_may_not(local: Bench) -> None:
    run = start(local, "until_stopped", workers=1)
    (pid,) = run.pids(workers=1)
    began = time.monotonic()
    eventually(lambda: time.monotonic() > began + 1.5 * LIMIT_S, "it has done steps for longer than the limit")
    assert run.executor.poll(run.attempt.id, 0).events == ()
    os.kill(pid, signal.SIGSTOP)
    log = "\n".join(run.log())
    check(run.ended())
    assert "the process had been stopped by a signal" in log
    assert "in until_stopped" in log
    assert gone([pid])
