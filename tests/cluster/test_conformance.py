"""What every executor must do; each test runs on plain subprocesses and on Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from batchyard.cluster.executor import AttemptId, UnknownAttemptError
from batchyard.cluster.processes import ProcessId
from batchyard.training.events import Ended, LogLine, PhaseChange, StepMetrics
from tests.children import running
from tests.cluster.harness import WORKERS, Bench, Run, eventually


def gone(pids: list[int]) -> bool:
    return not any(ProcessId.of(pid) for pid in pids)


def test_an_attempt_that_succeeds_tells_everything_in_order_and_ends_last(bench: Bench) -> None:
    run = bench.start("succeed", steps=5)
    events = run.events()
    assert [event.phase for event in events if isinstance(event, PhaseChange)] == ["training"]
    assert [event.step for event in events if isinstance(event, StepMetrics)] == [1, 2, 3, 4, 5]
    assert {(e.rank, e.text) for e in events if isinstance(e, LogLine)} == {(0, "hello from 0"), (1, "hello from 1")}
    assert events[-1] == Ended(outcome="succeeded", time=events[-1].time)
    assert run.processes() == []


def test_each_worker_has_one_thread_and_the_cpu(bench: Bench) -> None:
    run = bench.start("succeed")
    run.events()
    assert [run.note(f"rank-{rank}").split()[1:] for rank in (0, 1)] == [["1", "cpu"], ["1", "cpu"]]


def test_workers_meet_and_sum_over_gloo(bench: Bench) -> None:
    run = bench.start("sum_over_gloo", workers=3)
    assert run.ended().outcome == "succeeded", run.log()
    assert [run.note(f"sum-{rank}") for rank in range(3)] == ["6.0"] * 3


def test_the_store_listens_on_the_loopback_interface_only(bench: Bench) -> None:
    run = bench.start("listen")
    assert run.ended().outcome == "succeeded", run.log()
    assert set(run.note("listening").split()) == {"127.0.0.1"}


def test_a_users_error_ends_the_attempt_at_once_though_others_wait_in_a_collective(bench: Bench) -> None:
    run = bench.start("wrong_data")
    ended = run.ended()
    assert (ended.outcome, ended.failure_class) == ("failed", "user")
    assert ended.cause == "data.dataset: train-images is cut short"
    assert ended.next_step == "Fetch the file again."
    assert run.processes() == []


def test_an_exception_is_reported_with_its_traceback(bench: Bench) -> None:
    ended = bench.start("bug", workers=1).ended()
    assert (ended.outcome, ended.failure_class) == ("failed", "infrastructure")
    assert ended.cause is not None
    assert ended.cause.startswith("the worker failed: ZeroDivisionError: no such thing; its last lines:\nTraceback")
    assert ended.next_step is not None
    assert "batchyard job logs test-" in ended.next_step


def test_a_crash_is_reported_with_signal_and_last_words_and_not_the_complaints_of_the_others(bench: Bench) -> None:
    ended = bench.start("segfault").ended()
    assert ended.failure_class == "infrastructure"
    assert ended.cause is not None
    assert ended.cause.startswith("worker 1 of 2 was ended by SIGSEGV; its last lines:\nabout to fall")
    assert "Fatal Python error: Segmentation fault" in ended.cause
    assert "in string_at" in ended.cause


def test_a_worker_that_exits_early_is_a_failure(bench: Bench) -> None:
    ended = bench.start("quit_early", workers=1).ended()
    assert ended.cause == "the worker ended with exit code 3 before its work was done"


def test_a_killed_worker_ends_the_attempt_within_two_seconds(bench: Bench) -> None:
    run = bench.start("until_stopped")
    pids = run.pids()
    killed = time.monotonic()
    os.kill(pids[1], signal.SIGKILL)
    ended = run.ended()
    assert time.monotonic() - killed < 2.0
    assert ended.failure_class == "infrastructure"
    assert ended.cause is not None
    assert ended.cause.startswith("worker 1 of 2 was ended by SIGKILL (the kernel does that when memory runs out")
    assert gone(pids)


def test_cancel_stops_workers_that_ask(bench: Bench) -> None:
    run = bench.start("until_stopped", grace_s=30.0)
    pids = run.pids()
    run.executor.cancel(run.attempt.id)
    assert run.ended().outcome == "cancelled"
    assert gone(pids)
    assert run.processes() == []


def test_cancel_kills_workers_that_do_not_ask_and_tells_where_they_were(bench: Bench) -> None:
    run = bench.start("stuck")
    pids = [*run.pids(), int(run.note("child-0")), int(run.note("child-1"))]
    run.executor.cancel(run.attempt.id)
    log = "\n".join(run.log())
    assert run.ended().outcome == "cancelled"
    assert "worker 0 did not stop within 0.5 s and is killed; it was here:" in log
    assert "in sleep_without_end" in log
    assert gone(pids)


def test_pause_lets_workers_stop_and_leaves_no_process(bench: Bench) -> None:
    run = bench.start("until_paused")
    pids = run.pids()
    run.executor.pause(run.attempt.id)
    run.executor.pause(run.attempt.id)
    assert run.ended().outcome == "paused"
    assert run.processes() == []
    assert gone(pids)


def test_an_attempt_can_be_paused_as_soon_as_it_is_started(bench: Bench) -> None:
    run = bench.start("until_paused")
    run.executor.pause(run.attempt.id)
    assert run.ended().outcome == "paused"


def test_a_pause_that_workers_do_not_heed_can_be_cancelled(bench: Bench) -> None:
    run = bench.start("until_stopped")
    run.pids()
    run.executor.pause(run.attempt.id)
    run.executor.cancel(run.attempt.id)
    assert run.ended().outcome == "cancelled"
    assert run.processes() == []


def test_a_pause_that_comes_after_the_end_changes_nothing(bench: Bench) -> None:
    run = bench.start("succeed")
    assert run.ended().outcome == "succeeded"
    run.executor.pause(run.attempt.id)
    assert run.ended().outcome == "succeeded"


def test_workers_are_told_of_the_checkpoints(bench: Bench) -> None:
    told = replace(bench.attempt(), checkpoint_uri="file:///checkpoints", resume_from="file:///checkpoints/one")
    run = Run(bench, bench.executor("until_paused"), told)
    run.executor.start(told)
    assert [run.note(f"checkpoints-{rank}") for rank in (0, 1)] == ["file:///checkpoints file:///checkpoints/one"] * 2
    run.executor.cancel(told.id)
    assert run.ended().outcome == "cancelled"


def test_an_attempt_can_be_cancelled_as_soon_as_it_is_started(bench: Bench) -> None:
    run = bench.start("until_stopped", grace_s=30.0)
    run.executor.cancel(run.attempt.id)
    run.executor.cancel(run.attempt.id)
    assert run.ended().outcome == "cancelled"
    assert run.processes() == []


def test_cancel_after_the_end_changes_nothing(bench: Bench) -> None:
    run = bench.start("succeed")
    events = run.events()
    run.executor.cancel(run.attempt.id)
    assert run.events() == events


def test_unknown_attempts_are_refused_or_left_alone(bench: Bench) -> None:
    executor = bench.executor("succeed")
    nobody = AttemptId(job="nobody", number=1)
    with pytest.raises(UnknownAttemptError, match="nobody-1"):
        executor.poll(nobody, 0)
    executor.cancel(nobody)
    executor.release(nobody)


def test_an_attempt_id_cannot_leave_the_folder(bench: Bench) -> None:
    attempt = replace(bench.attempt(), id=AttemptId(job="../outside", number=1))
    with pytest.raises(ValueError, match=r"attempt id: '../outside-1' given"):
        bench.executor("succeed").start(attempt)


def test_starting_twice_runs_once(bench: Bench) -> None:
    run = bench.start("succeed")
    run.executor.start(run.attempt)
    events = run.events()
    run.executor.start(run.attempt)
    assert run.events() == events
    assert sum(isinstance(event, PhaseChange) for event in events) == 1


def test_polling_goes_on_from_any_cursor(bench: Bench) -> None:
    run = bench.start("succeed", steps=4)
    events = run.events()
    for cursor in range(len(events)):
        batch = run.executor.poll(run.attempt.id, cursor)
        assert (list(batch.events), batch.cursor) == (events[cursor:], len(events))
    assert run.executor.poll(run.attempt.id, len(events)).events == ()
    with pytest.raises(ValueError, match="cursor: -1 given"):
        run.executor.poll(run.attempt.id, -1)


def test_another_executor_on_the_same_folder_goes_on(bench: Bench) -> None:
    run = bench.start("until_stopped", grace_s=30.0)
    run.pids()
    other = Run(bench, bench.executor("succeed"), run.attempt)
    other.executor.cancel(run.attempt.id)
    assert other.ended().outcome == "cancelled"
    assert run.events() == other.events()


CONTROL = """
import json, sys, time
from pathlib import Path
from batchyard.cluster.executor import Attempt, AttemptId
from tests.cluster import harness
kind, folder, notes, job = sys.argv[1:]
bench = (harness.local_bench if kind == "local" else harness.ray_bench)(Path(folder), Path(notes))
attempt = Attempt(id=AttemptId(job=job, number=1), spec=harness.spec().to_mapping(), artifact_uri=f"{notes}/{job}-1")
bench.executor("until_stopped", 30.0).start(attempt)
print("started", flush=True)
time.sleep(600)
"""


def test_an_attempt_outlives_the_control_process_that_started_it(bench: Bench) -> None:
    attempt = bench.attempt()
    arguments = [bench.kind, str(bench.folder), str(bench.notes), attempt.id.job]
    with running([sys.executable, "-c", CONTROL, *arguments], stdout=subprocess.PIPE) as control:
        assert control.stdout is not None
        assert control.stdout.readline() == "started\n"
        control.kill()
    run = Run(bench, bench.executor("succeed"), attempt)
    pids = run.pids()
    assert run.executor.poll(attempt.id, 0).events == ()
    assert not gone(pids)
    run.executor.cancel(attempt.id)
    assert run.ended().outcome == "cancelled"
    assert gone(pids)


def test_a_dead_supervisor_ends_the_attempt_and_takes_the_workers_with_it(bench: Bench) -> None:
    run = bench.start("stuck")
    pids = [*run.pids(), int(run.note("child-0")), int(run.note("child-1"))]
    os.kill(run.supervisor().pid, signal.SIGKILL)
    ended = run.ended()
    assert (ended.outcome, ended.failure_class) == ("failed", "infrastructure")
    assert ended.cause is not None
    assert "supervisor" in ended.cause
    assert gone(pids)


def test_release_forgets_an_ended_attempt(bench: Bench) -> None:
    run = bench.start("succeed")
    run.events()
    run.executor.release(run.attempt.id)
    run.executor.release(run.attempt.id)
    with pytest.raises(UnknownAttemptError):
        run.executor.poll(run.attempt.id, 0)


def test_release_refuses_a_running_attempt(bench: Bench) -> None:
    run = bench.start("until_stopped", grace_s=30.0)
    with pytest.raises(RuntimeError, match="has not ended; cancel it first"):
        run.executor.release(run.attempt.id)
    run.executor.cancel(run.attempt.id)
    run.events()


def test_more_workers_than_there_is_room_for_is_the_users_to_mend(bench: Bench) -> None:
    ended = bench.start("succeed", workers=WORKERS + 1).ended()
    assert (ended.outcome, ended.failure_class) == ("failed", "user")
    assert ended.cause is not None
    assert ended.cause.startswith(f"workers.count: {WORKERS + 1} given; this machine")
    assert f"has room for {WORKERS}" in ended.cause
    assert ended.next_step is not None
    assert ended.next_step.startswith(f"Set workers.count to {WORKERS} or less")


def test_more_gpus_than_there_are_is_the_users_to_mend(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    attempt = bench.attempt()
    attempt.spec["workers"]["gpus_per_worker"] = 1
    executor = bench.executor("succeed")
    executor.start(attempt)
    ended = Run(bench, executor, attempt).ended()
    assert ended.failure_class == "user"
    assert ended.cause is not None
    assert ended.cause.startswith("workers.gpus_per_worker: 2 workers with 1 GPU each were asked for")


def test_a_chatty_worker_is_cut_short(bench: Bench) -> None:
    run = bench.start("chatty", workers=1)
    log = run.log()
    assert len(log) < 2000
    assert max(map(len, log)) < 5000
    assert log[0].startswith("xxxx")
    assert any("lines dropped: more than 100 a second" in text for text in log)


def test_close_ends_everything_and_leaves_no_process(bench: Bench) -> None:
    run = bench.start("stuck")
    pids = [*run.pids(), int(run.note("child-0")), run.supervisor().pid]
    run.executor.close()
    assert gone(pids)
    assert bench.processes() == []
    assert run.ended().outcome == "cancelled"
    run.executor.close()


def test_capacity_is_what_was_given(bench: Bench) -> None:
    assert bench.executor("succeed").capacity().workers == WORKERS


def test_a_control_process_has_neither_torch_nor_ray(bench: Bench) -> None:
    code = """
import sys
from tests.cluster import harness
from pathlib import Path
kind, folder, notes = sys.argv[1:]
bench = (harness.local_bench if kind == "local" else harness.ray_bench)(Path(folder), Path(notes))
run = bench.start("succeed")
assert run.ended().outcome == "succeeded", run.events()
run.executor.release(run.attempt.id)
print(sorted(sys.modules.keys() & {"torch", "ray", "numpy"}))
"""
    arguments = [bench.kind, str(bench.folder), str(bench.notes)]
    out = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
    assert out.stderr == ""


def test_several_attempts_run_side_by_side(bench: Bench) -> None:
    runs = [bench.start("until_stopped", workers=1, grace_s=30.0) for _ in range(WORKERS)]
    for run in runs:
        run.pids(workers=1)
    runs[1].executor.cancel(runs[1].attempt.id)
    assert runs[1].ended().outcome == "cancelled"
    assert [run.executor.poll(run.attempt.id, 0).events for run in (runs[0], runs[2])] == [(), ()]
    for run in (runs[0], runs[2]):
        run.executor.cancel(run.attempt.id)
        assert run.ended().outcome == "cancelled"
    eventually(lambda: not any(run.processes() for run in runs), "no process is left")


def test_what_a_dead_control_plane_did_not_release_is_forgotten(bench: Bench) -> None:
    kept, released = bench.start("succeed", workers=1), bench.start("succeed", workers=1)
    for run in (kept, released):
        run.ended()
    half_made = released.folder().path.with_name(f".{'0' * 32}")
    half_made.mkdir()
    bench.executor("succeed").keep_only([kept.attempt.id])
    assert kept.ended().outcome == "succeeded"
    with pytest.raises(UnknownAttemptError):
        released.executor.poll(released.attempt.id, 0)
    assert not half_made.exists()


def test_what_still_runs_and_nobody_follows_is_stopped_and_then_forgotten(bench: Bench) -> None:
    run = bench.start("until_stopped")
    pids = run.pids()
    executor = bench.executor("until_stopped")

    def forgotten() -> bool:
        executor.keep_only([])
        try:
            executor.poll(run.attempt.id, 0)
        except UnknownAttemptError:
            return True
        return False

    eventually(forgotten, "the attempt is forgotten")
    assert gone(pids)
