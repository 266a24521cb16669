"""A disk that fills up while workers report. The limit on a process's files stands for it: it needs no rights, and a
write that would exceed it fails in part or whole, as on a full disk.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchyard.cluster.event_log import FULL, EventLog, EventReader
from batchyard.training.events import LogLine, StepMetrics
from tests.cluster.harness import Bench, Run, eventually
from tests.cluster.test_conformance import gone

STEPS = 300


@contextmanager
def full_disk(pid: int, size: int) -> Iterator[None]:
    """No file of the process can grow beyond `size`."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_an_event_that_finds_no_room_leaves_no_part_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append(LogLine(level="INFO", text="first"))
    with full_disk(os.getpid(), path.stat().st_size + 10), pytest.raises(OSError, match="File too large") as refused:
        log.append(LogLine(level="INFO", text="lost"))
    assert refused.value.errno in FULL
    log.append(LogLine(level="INFO", text="second"))
    log.close()
    texts = [event.text for event in EventReader(path).read(0).events if isinstance(event, LogLine)]
    assert texts == ["first", "second"]


def test_a_disk_and_a_quota_that_are_full_count_too() -> None:
    assert {errno.ENOSPC, errno.EDQUOT} <= FULL


def start(bench: Bench) -> Run:
    run = bench.start("report_steps", steps=STEPS)
    run.pids()
    return run


def go(run: Run) -> None:
    (Path(run.attempt.artifact_uri) / "go").touch()


def test_reports_wait_for_room_and_none_is_lost(local: Bench) -> None:
    run = start(local)
    with full_disk(run.supervisor().pid, 20_000):
        go(run)
        run.note("reported-0")
        eventually(lambda: run.folder().events.stat().st_size > 19_000, "the log has grown as far as it may")
        stored = run.executor.poll(run.attempt.id, 0)
        assert 0 < len(stored.events) < STEPS
        assert run.processes(), "the attempt ended for want of room"
    events = run.events()
    assert [event.step for event in events if isinstance(event, StepMetrics)] == list(range(1, STEPS + 1))
    assert run.ended().outcome == "succeeded"


def test_a_cancel_ends_the_workers_though_nothing_can_be_written(local: Bench) -> None:
    run = local.start("until_stopped", grace_s=30.0)
    pids = run.pids()
    with full_disk(run.supervisor().pid, 0):
        run.executor.cancel(run.attempt.id)
        eventually(lambda: gone(pids), "every worker is gone")
        assert run.executor.poll(run.attempt.id, 0).events == ()
    assert run.ended().outcome == "cancelled"
    assert run.processes() == []
