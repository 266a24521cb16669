"""Brings one attempt from its start to its Ended event. Knows neither Ray nor subprocesses: a Crew has the workers."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from batchyard.cluster.channel import Exit, Message, Result
from batchyard.cluster.event_log import FULL, EventLog
from batchyard.cluster.silence import Silence
from batchyard.cluster.verdict import Member, infrastructure, verdict
from batchyard.failpoints import failpoint
from batchyard.training.events import Ended, LogLine

SETTLE_S = 0.5
"""After the first worker has failed or stopped: time for the others to do the same by themselves, and for the real
cause to be noticed. Then they are killed, for they may wait in a collective for ever.
"""
LEAVE_S = 2.0
"""Time for workers that are done to exit."""
STACKS_S = 0.3
"""Time for a stuck worker to write where it is, before it is killed."""
KILL_AGAIN_S = 1.0
ROOM_S = 1.0
"""How often it is tried again to write an event that the disk has no room for."""
INBOX = 10_000
"""Messages that may wait; when the disk is slower than the workers are, they wait too."""

Deliver = Callable[[int, Message], None]
"""Takes a message from the worker of a rank."""


class RefusedError(Exception):
    """The workers cannot be started; `ended` says why."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.cause)
        self.ended = ended


class Crew(Protocol):
    """The workers of an attempt, wherever they are."""

    def start(self, deliver: Deliver, cancelled: Callable[[], bool]) -> None:
        """Starts all workers and tells them to prepare and run. Every worker's exit is delivered, once, last. Raises
        RefusedError; gives up early, with any RefusedError, when `cancelled` becomes true.
        """

    def tell(self, rank: int, message: Message) -> None:
        """Sends a message to one worker; none when it is gone."""

    def dump_stacks(self, rank: int) -> None:
        """Has one worker log where its threads are."""

    def kill(self) -> None:
        """Kills all workers; their exits are delivered."""

    def end(self) -> None:
        """Frees everything, and returns when no process is left."""


class Supervision:
    """One attempt. `run` returns when its last event, Ended, is written; the others may be called from any thread."""

    def __init__(
        self, *, job: str, world_size: int, crew: Crew, log: EventLog, grace_s: float, hung_after_s: float = 0.0
    ) -> None:
        """`hung_after_s`: how long all workers may give no sign of life; 0: for ever."""
        self._job = job
        self._crew = crew
        self._log = log
        self._grace_s = grace_s
        self._members = [Member(rank=rank) for rank in range(world_size)]
        self._inbox: queue.Queue[tuple[int, Message]] = queue.Queue(INBOX)
        self._cancel_asked = False
        self._cancel_told = threading.Event()
        self._pause_asked = False
        self._cancelled = False
        """Cancelled before anything had failed."""
        self._failed = False
        self._ended_workers = 0
        self._deadline: float | None = None
        """When the workers that are left are killed."""
        self._stacks_dumped = False
        self._silence = Silence(hung_after_s)
        self._hung = False

    def cancel(self) -> None:
        """Asks the workers to stop; after the grace period they are killed."""
        self._cancel_asked = True
        self._cancel_told.set()
        self._inbox.put((-1, {"kind": "cancel"}))

    def pause(self) -> None:
        """Asks the workers to write a checkpoint and stop, however long that takes."""
        self._pause_asked = True
        self._inbox.put((-1, {"kind": "pause"}))

    def run(self) -> None:
        """Runs the attempt to its end. Whatever happens here, exactly one Ended event is written, last."""
        try:
            self._crew.start(
                lambda rank, message: self._inbox.put((rank, message)),
                lambda: self._cancel_asked or self._pause_asked,
            )
            self._silence.broken()
            while not all(member.exit for member in self._members):
                self._step()
            hung_after_s = self._silence.limit_s if self._hung else None
            ended = verdict(self._job, self._members, cancelled=self._cancelled, hung_after_s=hung_after_s)
        except RefusedError as refusal:
            ended = self._refused(refusal)
        except Exception:
            ended = infrastructure(f"the attempt's supervisor failed:\n{traceback.format_exc()}", self._job)
        ended = self._clear_up(ended)
        failpoint("ended.before_append")
        self._write(ended.to_json())
        failpoint("ended.after_append")

    def _write(self, event: dict[str, Any]) -> None:
        """Adds an event to the log. While the disk is full it waits, and in time the workers wait too; an attempt that
        is to be cancelled loses what it still had to say, all but its end.
        """
        last = event["kind"] == Ended.kind
        while True:
            try:
                return self._log.append_json(event)
            except OSError as error:
                if error.errno not in FULL:
                    raise
            if self._cancel_told.wait(ROOM_S):
                if not last:
                    return None
                time.sleep(ROOM_S)

    def _refused(self, refusal: RefusedError) -> Ended:
        """What was not started has nothing to lose."""
        if self._cancel_asked:
            return Ended(outcome="cancelled")
        return Ended(outcome="paused") if self._pause_asked else refusal.ended

    def _clear_up(self, ended: Ended) -> Ended:
        try:
            self._crew.end()
        except Exception as error:
            return infrastructure(f"the attempt's processes could not be ended: {error}", self._job)
        return ended

    def _step(self) -> None:
        """Waits for the next message or deadline and acts on it."""
        wait = self._silence.look_s if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        try:
            self._take(*self._inbox.get(timeout=wait))
        except queue.Empty:
            if self._deadline is None and self._silence.over():
                self._take_silence()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._force()

    def _take(self, rank: int, message: Message) -> None:
        if rank >= 0:
            self._silence.broken()
        match message.pop("kind"):
            case "event":
                self._write(message["event"])
            case "rendezvous":
                for other in self._members[1:]:
                    self._crew.tell(other.rank, {"kind": "rendezvous", **message})
            case "result":
                self._take_result(self._members[rank], Result(**message))
            case "exit":
                self._take_exit(self._members[rank], Exit(**message))
            case "cancel":
                self._take_cancel()
            case "pause":
                for member in self._members:
                    self._crew.tell(member.rank, {"kind": "pause"})

    def _take_result(self, member: Member, result: Result) -> None:
        member.result = result
        if not member.done:
            asked = {"stopped": self._cancelled, "paused": self._pause_asked}
            self._count_out(member, failed=not asked.get(result.outcome, False))
        if all(m.result or m.exit for m in self._members):
            for other in self._members:
                self._crew.tell(other.rank, {"kind": "leave"})
            self._kill_within(LEAVE_S)

    def _take_exit(self, member: Member, end: Exit) -> None:
        member.exit = end
        if member.result is None:
            self._count_out(member, failed=True)

    def _count_out(self, member: Member, *, failed: bool) -> None:
        """One worker has ended without being done: soon the others have to end too."""
        self._ended_workers += 1
        member.order = self._ended_workers
        self._failed = self._failed or failed
        self._kill_within(SETTLE_S)

    def _take_cancel(self) -> None:
        self._cancelled = self._cancelled or not self._failed
        for member in self._members:
            self._crew.tell(member.rank, {"kind": "stop"})
        self._kill_within(self._grace_s)

    def _take_silence(self) -> None:
        """Has each worker say where it is, and soon ends them all. In a group all wait for the one that hangs."""
        self._hung = self._failed = True
        for member in self._members:
            if not (member.result or member.exit):
                text = f"worker {member.rank}: no sign of life for {self._silence.limit_s:g} s; it is ended here:"
                self._write(LogLine(level="WARNING", text=text).to_json())
                self._crew.dump_stacks(member.rank)
        self._kill_within(STACKS_S)

    def _kill_within(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)

    def _force(self) -> None:
        """Kills what is left. A worker that ignored a request to stop first says where it is."""
        stuck = [member for member in self._members if not (member.result or member.exit)]
        if stuck and self._cancelled and self._ended_workers == 0 and not self._stacks_dumped:
            self._stacks_dumped = True
            for member in stuck:
                text = f"worker {member.rank} did not stop within {self._grace_s:g} s and is killed; it was here:"
                self._write(LogLine(level="WARNING", text=text).to_json())
                self._crew.dump_stacks(member.rank)
            self._deadline = time.monotonic() + STACKS_S
            return
        for member in stuck:
            member.killed = True
        self._crew.kill()
        self._deadline = time.monotonic() + KILL_AGAIN_S
