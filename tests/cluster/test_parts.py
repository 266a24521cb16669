"""The parts that both executors are made of."""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
from pathlib import Path

import pytest

from batchyard.cluster.channel import Exit, Message, Result
from batchyard.cluster.event_log import BATCH_BYTES, EventLog, EventReader
from batchyard.cluster.gpus import GpuLease, visible
from batchyard.cluster.log_limit import Limits, LineLimiter
from batchyard.cluster.network import LOOPBACK, common_network, interface_of
from batchyard.cluster.processes import ProcessId, end_all, marked, spawn, wait_until
from batchyard.cluster.verdict import Member, verdict
from batchyard.cluster.worker_process import Lines, WorkerProcess
from batchyard.training.events import Ended, LogLine, from_json
from tests.children import running


def line(text: str) -> LogLine:
    return LogLine(level="INFO", text=text, time=1.0)


class Ticks:
    """A clock that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_that_was_cut_short_by_a_crash_is_removed_before_the_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append(line("whole"))
    log.close()
    with path.open("ab") as file:
        file.write(b'{"kind": "log_li' + b"x" * 3 * BATCH_BYTES)
    assert EventReader(path).read(0).events == (line("whole"),)
    log = EventLog(path)
    log.append(line("next"))
    log.close()
    assert EventReader(path).read(0).events == (line("whole"), line("next"))


def test_a_reader_hands_out_long_logs_in_parts_and_misses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log, reader = EventLog(path), EventReader(path)
    texts = [str(number) + "x" * 100_000 for number in range(30)]
    seen: list[str] = []
    for text in texts:
        log.append(line(text))
    cursor = 0
    while batch := reader.read(cursor).events:
        assert len(batch) <= 11
        seen += [event.text for event in batch if isinstance(event, LogLine)]
        cursor += len(batch)
    log.close()
    assert seen == texts


def test_one_event_longer_than_a_part_is_still_handed_out(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append(line("x" * 2 * BATCH_BYTES))
    log.close()
    assert len(EventReader(tmp_path / "events.jsonl").read(0).events) == 1


def test_a_cursor_beyond_the_end_still_learns_how_the_attempt_ended(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log, reader = EventLog(path), EventReader(path)
    log.append(line("first"))
    assert reader.read(9).events == ()
    log.append(Ended(outcome="succeeded", time=1.0))
    log.close()
    batch = reader.read(9)
    assert batch.events == (Ended(outcome="succeeded", time=1.0),)
    assert batch.cursor == 2


def test_events_survive_their_json(tmp_path: Path) -> None:
    event = line('tab\t, line\u2028separator, quote" and \x00')
    assert from_json(event.to_json()) == event
    log = EventLog(tmp_path / "events.jsonl")
    log.append(event)
    log.close()
    assert EventReader(tmp_path / "events.jsonl").read(0).events == (event,)


def test_lines_beyond_the_rate_are_dropped_and_counted() -> None:
    clock = Ticks()
    limiter = LineLimiter(Limits(burst=3, rate=2.0), clock)
    assert [text for number in range(10) for text in limiter.admit(str(number))] == ["0", "1", "2"]
    clock.now = 1.0
    admitted = [text for number in range(10, 20) for text in limiter.admit(str(number))]
    assert admitted == ["(7 lines dropped: more than 2 a second)", "10", "11"]
    assert list(limiter.notice()) == ["(8 lines dropped: more than 2 a second)"]
    assert list(limiter.notice()) == []


def test_long_lines_are_cut_and_a_full_log_says_so() -> None:
    limiter = LineLimiter(Limits(characters=5, total=10), Ticks())
    assert list(limiter.admit("123456789")) == ["12345 ... (4 more characters)"]
    assert list(limiter.admit("more")) == []
    assert list(limiter.notice()) == ["(1 lines dropped: the log of this worker is full)"]


def test_a_pid_that_is_used_again_is_another_process() -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    assert me.alive()
    before = ProcessId(me.pid, "an earlier boot/1")
    assert not before.alive()
    assert not before.send(signal.SIGKILL)


def test_marked_processes_are_found_and_ended_grandchildren_included(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run(['sleep', '600'], start_new_session=True)"
    environment = {**os.environ, "BATCHYARD_TEST": str(tmp_path)}
    with running([sys.executable, "-c", code], env=environment) as process:

        def found() -> list[ProcessId]:
            return marked("BATCHYARD_TEST", str(tmp_path))

        assert wait_until(lambda: len(found()) == 2, 20)
        end_all(found)
        assert process.wait() == -signal.SIGKILL
    assert found() == []


def test_a_spawned_process_leads_a_session_and_starts_with_sigterm_blocked(tmp_path: Path) -> None:
    (tmp_path / "spawned_module.py").write_text(
        "import os, signal, sys\n"
        "print(os.getsid(0) == os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, []), sys.argv[1:], sys.path[0])\n"
    )
    log = tmp_path / "log"
    process = spawn("spawned_module", ["one"], {"PYTHONPATH": str(tmp_path)}, log)
    assert process.await_end(20)
    assert log.read_text() == f"True {{<Signals.SIGTERM: 15>}} ['one'] {tmp_path}\n"
    assert os.waitpid(process.pid, 0)[1] == 0


def test_a_worker_that_is_killed_before_it_has_read_its_orders_is_still_seen_to_end() -> None:
    for _ in range(10):
        said: queue.Queue[Message] = queue.Queue()
        worker = WorkerProcess(rank=0, environment=os.environ, deliver=said.put)
        worker.start()
        worker.tell({"kind": "prepare", "entry": "tests.cluster.entries:succeed"})
        worker.kill()
        assert said.get(timeout=20)["kind"] == "exit"


def test_the_end_of_a_socket_with_unread_messages_is_the_end_of_a_stream() -> None:
    ours, theirs = socket.socketpair()
    lines: list[bytes] = []
    with ours:
        ours.send(b"orders that nobody reads")
        theirs.send(b"last words\n")
        theirs.close()
        reader = Lines(lines.append)
        assert reader.read(ours.fileno())
        assert not reader.read(ours.fileno())
    assert lines == [b"last words"]


def members(*ends: tuple[Result | None, Exit | None]) -> list[Member]:
    return [Member(rank=rank, result=ends[rank][0], exit=ends[rank][1], order=rank) for rank in range(len(ends))]


GONE = Exit(code=0, tail=[])
COMPLAINT = Result(outcome="failed", failure_class="infrastructure", cause="connection closed by peer")
MISTAKE = Result(outcome="failed", failure_class="user", cause="bad file", next_step="mend it")


@pytest.mark.parametrize(
    ("ends", "cause"),
    [
        ([(COMPLAINT, GONE), (None, Exit(code=-11, tail=[]))], "worker 1 of 2 was ended by SIGSEGV"),
        ([(COMPLAINT, GONE), (MISTAKE, GONE)], "bad file"),
        ([(None, Exit(code=-9, tail=[])), (MISTAKE, GONE)], "bad file"),
        ([(COMPLAINT, GONE), (COMPLAINT, GONE)], "worker 0 of 2 failed: connection closed by peer"),
        ([(None, Exit(lost="its node died", tail=[])), (COMPLAINT, GONE)], "worker 0 of 2 was lost: its node died"),
        ([(Result(outcome="stopped"), GONE)], "the worker failed: it stopped, and nobody had asked it to"),
    ],
)
def test_the_likeliest_cause_is_reported(ends: list[tuple[Result | None, Exit | None]], cause: str) -> None:
    ended = verdict("job", members(*ends), cancelled=False)
    assert (ended.outcome, ended.cause) == ("failed", cause)


def test_work_that_was_finished_before_it_could_be_stopped_has_succeeded() -> None:
    done = Result(outcome="done")
    assert verdict("job", members((done, GONE), (done, GONE)), cancelled=True).outcome == "succeeded"
    assert verdict("job", members((done, GONE), (COMPLAINT, GONE)), cancelled=True).outcome == "cancelled"


def test_workers_on_one_machine_use_the_loopback_interface() -> None:
    assert common_network(["10.0.0.1", "10.0.0.1"]) == [LOOPBACK, LOOPBACK]
    assert common_network(["10.0.0.1", "10.0.0.2"]) == [("10.0.0.1", ""), ("10.0.0.2", "")]
    assert interface_of("127.0.0.1") == "lo"
    with pytest.raises(OSError, match=r"has the address 203\.0\.113\.9"):
        interface_of("203.0.113.9")


def test_gpus_are_lent_once_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,GPU-abc")
    assert visible() == ["0", "2", "GPU-abc"]
    first, second = GpuLease(tmp_path / "gpus"), GpuLease(tmp_path / "gpus")
    assert first.take(2) == ["0", "2"]
    assert second.take(2) is None
    assert second.take(1) == ["GPU-abc"]
    first.free()
    assert second.take(2) == ["0", "2"]
    second.free()
