"""Holds one worker process: starts it, carries messages both ways, turns what it prints into LogLine events, and says
exactly once how it ended. Used by the local supervisor and by the Ray worker actor alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict

from batchyard.cluster.attempts import MARK, Orders
from batchyard.cluster.channel import Channel, Exit, Message, Place
from batchyard.cluster.forked_worker import ForkedWorker
from batchyard.cluster.log_limit import Limits, LineLimiter, cut
from batchyard.cluster.processes import is_stopped
from batchyard.cluster.worker_main import STACK_SIGNAL
from batchyard.training.events import LogLine
from batchyard.training.spec import python_architecture

TAIL_LINES = 40
CHUNK = 1 << 16
DRAIN_CHUNKS = 64
"""Bounds what is read after a worker has ended: something it started may write on for ever."""


def place(orders: Orders, rank: int, *, host: str, interface: str) -> Place:
    """The place of one worker of an attempt."""
    attempt = orders.attempt
    return Place(
        job=attempt.id.job,
        attempt=attempt.id.number,
        spec=attempt.spec,
        rank=rank,
        world_size=orders.world_size,
        artifact_uri=attempt.artifact_uri,
        checkpoint_uri=attempt.checkpoint_uri,
        resume_from=attempt.resume_from,
        data_folders=list(attempt.data_folders),
        device="cuda" if orders.gpus_per_worker else "cpu",
        host=host,
        interface=interface,
    )


def worker_environment(orders: Orders, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker. One thread each: workers share the machine's cores, and the number of threads
    changes the order of floating-point sums, hence the weights.
    """
    allowed = ",".join(orders.attempt.allow_python)
    return {**base, "OMP_NUM_THREADS": "1", MARK: orders.mark, python_architecture.VARIABLE: allowed}


Process = subprocess.Popen[bytes] | ForkedWorker


class WorkerProcess:
    """One worker process: one that was forked already, or a fresh one with `environment`. `deliver` gets every message
    that the worker sends, LogLine events, and last an exit; it may block, which in time makes the worker wait.
    """

    def __init__(
        self,
        *,
        rank: int,
        deliver: Callable[[Message], None],
        environment: Mapping[str, str] | None = None,
        forked: ForkedWorker | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.rank = rank
        self._environment = dict(environment or {})
        self._forked = forked
        self._deliver = deliver
        self._limiter = LineLimiter(limits or Limits())
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._lock = threading.Lock()
        self._running: Process | None = None
        self._killed = False
        if forked is None:
            self._ours, self._theirs = socket.socketpair()
        else:
            self._ours = forked.channel
        self._channel = Channel(self._ours)
        # The kernel ties a fresh worker's life to the thread that starts it, so that stays until the worker is gone.
        self._keeper = threading.Thread(target=self._keep, name=f"worker-{rank}", daemon=True)

    def start(self) -> None:
        """Starts the process; messages may be told at once."""
        self._keeper.start()

    def tell(self, message: Message) -> None:
        """Sends the worker a message; none when it is gone."""
        with contextlib.suppress(OSError):
            self._channel.send(message)

    def dump_stacks(self) -> None:
        """Has the worker log where each of its threads is; one that was stopped goes on so that it can."""
        self._signal(STACK_SIGNAL)
        if self._stopped():
            self._deliver_line("WARNING", "the process had been stopped by a signal")
            self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kills the worker and whatever it started in its process group."""
        self._signal(signal.SIGKILL)

    def _stopped(self) -> bool:
        with self._lock:
            return self._running is not None and is_stopped(self._running.pid)

    def _signal(self, signum: int) -> None:
        with self._lock:  # while the lock is held a running process is not reaped, so the group cannot be another's
            self._killed = self._killed or signum == signal.SIGKILL
            if self._running is None:
                return
            with contextlib.suppress(ProcessLookupError):
                if signum == signal.SIGKILL:
                    os.killpg(self._running.pid, signum)
                else:
                    os.kill(self._running.pid, signum)

    def _keep(self) -> None:
        try:
            process = self._take(self._forked or self._launch())
        except OSError as error:
            self._deliver({"kind": "exit", **asdict(Exit(lost=f"it could not be started: {error}", tail=[]))})
            return
        with process:
            self._carry(process)
            # Not reaped yet, so its group cannot be somebody else's: end whatever it left behind there.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with self._lock:
                self._running = None
                code = process.wait()
        self._ours.close()
        for text in self._limiter.notice():
            self._deliver_line("WARNING", text)
        self._deliver({"kind": "exit", **asdict(Exit(code=code, tail=list(self._tail)))})

    def _take(self, process: Process) -> Process:
        with self._lock:
            self._running = process
            killed = self._killed
        if killed:
            self.kill()
        return process

    def _launch(self) -> Process:
        command = [sys.executable, "-P", "-u", "-m", "batchyard.cluster.worker_main"]
        with self._theirs as theirs:
            return subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                process_group=0,
                env=self._environment,
            )

    def _carry(self, process: Process) -> None:
        """Reads everything the worker sends and writes until it has ended. A grandchild that keeps the pipes open does
        not hold this up: the end is told by a pidfd.
        """
        assert process.stdout is not None
        assert process.stderr is not None
        sources = {
            process.stdout.fileno(): Lines(lambda line: self._log("INFO", line)),
            process.stderr.fileno(): Lines(lambda line: self._log("WARNING", line)),
            self._ours.fileno(): Lines(self._forward, limit=None),
        }
        end = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                for file in (*sources, end):
                    selector.register(file, selectors.EVENT_READ)
                ended = False
                while not ended:
                    ready = [key.fd for key, _ in selector.select()]
                    ended = end in ready
                    for file in ready:
                        if file != end and not sources[file].read(file):
                            selector.unregister(file)
        finally:
            os.close(end)
        for file, lines in sources.items():
            lines.drain(file)

    def _forward(self, line: bytes) -> None:
        message = json.loads(line)
        if message["kind"] == "event" and message["event"]["kind"] == LogLine.kind:
            for text in self._limiter.admit(message["event"]["text"]):
                self._deliver({"kind": "event", "event": {**message["event"], "text": text}})
        else:
            self._deliver(message)

    def _log(self, level: str, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        self._tail.append(cut(text, 1000))
        for admitted in self._limiter.admit(text):
            self._deliver_line(level, admitted)

    def _deliver_line(self, level: str, text: str) -> None:
        self._deliver({"kind": "event", "event": LogLine(level=level, text=text, rank=self.rank).to_json()})


class Lines:
    """Splits a stream into lines. A line longer than `limit` bytes is handed over in part and its rest is dropped;
    None: lines are messages, handed over whole or not at all.
    """

    def __init__(self, take: Callable[[bytes], None], limit: int | None = 4 * CHUNK) -> None:
        self._take = take
        self._limit = limit
        self._begun = bytearray()

    def read(self, file: int) -> bool:
        """Takes what is there; False at the end of the stream."""
        try:
            chunk = os.read(file, CHUNK)
        except ConnectionResetError:  # the end, too: the worker was killed before it had read all that it was told
            return False
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._add(line)
            self._finish()
        self._add(rest)
        return bool(chunk)

    def drain(self, file: int) -> None:
        """Takes what is left in a stream whose writer has ended, without waiting for more."""
        os.set_blocking(file, False)
        with contextlib.suppress(BlockingIOError):  # nothing more now
            for _ in range(DRAIN_CHUNKS):
                if not self.read(file):
                    break
        if self._begun and self._limit is not None:
            self._finish()

    def _add(self, part: bytes) -> None:
        self._begun += part if self._limit is None else part[: max(0, self._limit - len(self._begun))]

    def _finish(self) -> None:
        line = bytes(self._begun)
        self._begun.clear()
        self._take(line)
