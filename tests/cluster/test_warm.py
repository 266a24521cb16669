"""Workers that are forked from a process with torch loaded: used, used once, the same as fresh ones, and never left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from batchyard.cluster.fork_client import ColdError, ForkServer, ask
from batchyard.cluster.forked_worker import show_mark
from batchyard.cluster.processes import PROC, ProcessId
from batchyard.control.process_watch import command_of
from tests.children import running
from tests.cluster import test_conformance as conformance
from tests.cluster.harness import Bench, ray_bench
from tests.cluster.test_same_weights import train

SAME = [
    conformance.test_an_attempt_that_succeeds_tells_everything_in_order_and_ends_last,
    conformance.test_each_worker_has_one_thread_and_the_cpu,
    conformance.test_workers_meet_and_sum_over_gloo,
    conformance.test_a_users_error_ends_the_attempt_at_once_though_others_wait_in_a_collective,
    conformance.test_a_crash_is_reported_with_signal_and_last_words_and_not_the_complaints_of_the_others,
    conformance.test_a_killed_worker_ends_the_attempt_within_two_seconds,
    conformance.test_cancel_kills_workers_that_do_not_ask_and_tells_where_they_were,
    conformance.test_pause_lets_workers_stop_and_leaves_no_process,
    conformance.test_another_executor_on_the_same_folder_goes_on,
    conformance.test_a_dead_supervisor_ends_the_attempt_and_takes_the_workers_with_it,
    conformance.test_a_chatty_worker_is_cut_short,
    conformance.test_several_attempts_run_side_by_side,
]


@pytest.mark.parametrize("test", SAME, ids=lambda test: test.__name__.removeprefix("test_"))
def test_with_warm_workers_it_is_the_same(test: Callable[[Bench], None], warm_bench: Bench) -> None:
    test(warm_bench)


def command(pid: int) -> str:
    return " ".join(command_of(pid)).rstrip()


def test_workers_are_forks_and_carry_the_mark_of_their_attempt(warm_bench: Bench) -> None:
    run = warm_bench.start("until_stopped", grace_s=30.0)
    pids = run.pids()
    assert all(command(pid).endswith("-m batchyard.cluster.worker_main (forked)") for pid in pids)
    assert set(pids) <= set(run.processes())
    run.executor.cancel(run.attempt.id)
    assert run.log() == []  # which would say why one was started cold
    assert run.ended().outcome == "cancelled"


def test_a_worker_finds_nothing_of_the_one_before(warm_bench: Bench) -> None:
    for _ in range(2):
        run = warm_bench.start("stain", workers=1)
        assert run.ended().outcome == "succeeded", run.log()
        assert run.note("found-0") == "False False 1"


def test_no_two_forks_draw_the_same_random_numbers(warm_local: Bench) -> None:
    runs = [bench.start("draw", workers=1) for bench in (warm_local, warm_local, warm_local)]
    assert [run.ended().outcome for run in runs] == ["succeeded"] * 3
    drawn = [number for run in runs for number in run.note("drawn-0").split()]
    assert len(set(drawn)) == 9


def test_a_job_gives_the_same_weights_in_fresh_and_in_forked_workers(local: Bench, warm_local: Bench) -> None:
    assert train(warm_local)[0] == train(local)[0]


def test_an_idle_fork_server_has_one_thread(warm_local: Bench, fork_server: ForkServer) -> None:
    assert warm_local.start("succeed").ended().outcome == "succeeded"
    assert fork_server.pid is not None
    assert len(list((PROC / str(fork_server.pid) / "task").iterdir())) == 1


def test_a_fork_server_that_was_killed_is_replaced(warm_local: Bench, fork_server: ForkServer) -> None:
    fork_server.ensure()
    assert fork_server.pid is not None
    process = ProcessId.of(fork_server.pid)
    assert process is not None
    process.send(signal.SIGKILL)
    assert process.await_end(10.0)
    run = warm_local.start("succeed")
    assert run.ended().outcome == "succeeded"
    assert fork_server.pid != process.pid


def test_what_libraries_read_when_they_are_loaded_is_right_or_the_worker_is_a_fresh_process(
    warm_local: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert warm_local.start("succeed").ended().outcome == "succeeded"
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    run = warm_local.start("until_stopped", workers=1, grace_s=30.0)
    (pid,) = run.pids(workers=1)
    assert "worker_main" in command(pid)
    assert "(forked)" not in command(pid)
    run.executor.cancel(run.attempt.id)
    assert run.log() == [
        "supervisor and workers start cold, which takes seconds: MKL_NUM_THREADS was not set when the fork server "
        "started and is now 3"
    ]


def test_a_fork_that_nobody_wants_ends(fork_server: ForkServer) -> None:
    fork_server.ensure()
    offer = ask(fork_server.address, "worker", {**os.environ, "OMP_NUM_THREADS": "1"}, rank=0)
    assert offer.process.alive()
    offer.decline()
    assert offer.process.await_end(10.0)


def test_without_a_fork_server_there_is_an_error_that_says_so() -> None:
    with pytest.raises(ColdError, match="the fork server does not answer"):
        ask("@nobody", "worker", {}, rank=0)


def test_a_mark_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="BATCHYARD_ATTEMPT: 'short' given; expected 0 characters"):
        show_mark("short")


OWNER = """
import sys
from pathlib import Path
from batchyard.cluster.fork_client import ForkServer
from tests.cluster.harness import local_bench
folder, notes = map(Path, sys.argv[1:])
server = ForkServer()
run = local_bench(folder, notes, server).start("until_stopped", grace_s=30.0)
print(server.pid, run.attempt.id.job, flush=True)
sys.stdin.read()
"""


@pytest.mark.ray
def test_a_ray_head_that_is_killed_or_closed_takes_its_fork_server_and_workers_with_it(tmp_path: Path) -> None:
    bench = ray_bench(tmp_path / "executor", tmp_path / "notes", warm=True)
    run = bench.start("stuck")
    pids = [*run.pids(), int(run.note("child-0")), *bench.processes()]
    assert any("fork_server" in command(pid) for pid in bench.processes())
    driver = json.loads((bench.folder / "ray" / "driver.json").read_text())["process"]["pid"]
    os.kill(driver, signal.SIGKILL)
    assert run.ended().failure_class == "infrastructure"
    assert [pid for pid in pids if ProcessId.of(pid)] == []
    later = bench.start("stuck")
    pids = [*later.pids(), *bench.processes()]
    later.executor.close()
    assert [pid for pid in pids if ProcessId.of(pid)] == []


def test_an_owner_that_is_killed_leaves_the_attempt_and_no_fork_server(local: Bench) -> None:
    arguments = [str(local.folder), str(local.notes)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running([sys.executable, "-c", OWNER, *arguments], **pipes) as owner:
        assert owner.stdout is not None
        pid, job = owner.stdout.readline().split()
        server = ProcessId.of(int(pid))
        assert server is not None
        owner.kill()
    assert server.await_end(10.0)
    run = local.run_of(job)
    pids = run.pids()
    assert run.executor.poll(run.attempt.id, 0).events == ()
    assert all(ProcessId.of(pid) for pid in pids)
    run.executor.cancel(run.attempt.id)
    assert run.ended().outcome == "cancelled"
    assert conformance.gone(pids)


def test_a_closed_fork_server_is_gone() -> None:
    server = ForkServer()
    server.ensure()
    assert server.pid is not None
    process = ProcessId.of(server.pid)
    assert process is not None
    server.close()
    assert not process.alive()
    server.close()
