"""Finds the one cause to report when workers fail, and puts it into words."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from batchyard.cluster.channel import Exit, Result
from batchyard.cluster.executor import Capacity
from batchyard.training.events import Ended

CAUSE_CHARACTERS = 6000


@dataclass(kw_only=True)
class Member:
    """What is known of one worker."""

    rank: int
    result: Result | None = None
    exit: Exit | None = None
    order: int = 0
    """Counts the workers that have ended, in the order in which that was noticed."""

    killed: bool = False
    """By the supervisor, because of another worker."""

    @property
    def done(self) -> bool:
        """Whether the entry returned."""
        return self.result is not None and self.result.outcome == "done"

    @property
    def paused(self) -> bool:
        """Whether the entry stopped with a checkpoint, which then is one of all workers."""
        return self.result is not None and self.result.outcome == "paused"


def verdict(job: str, members: list[Member], *, cancelled: bool, hung_after_s: float | None = None) -> Ended:
    """How the attempt ended. `cancelled`: it was asked to stop before anything had failed. `hung_after_s`: its workers
    were ended because they had given no sign of life for so long.
    """
    if all(member.done for member in members):
        return Ended(outcome="succeeded")
    if cancelled:
        return Ended(outcome="cancelled")
    if any(member.paused for member in members):
        return Ended(outcome="paused")
    if hung_after_s is not None:
        cause = (
            f"no worker gave a sign of life (a step, an event, a printed line) for {hung_after_s:g} s, which is "
            "workers.hung_after_seconds: all were ended, and the job's log says where each of them was"
        )
        said = next((member for member in members if member.exit and member.exit.tail), None)
        return infrastructure(cause + (_last_lines(said, f"of worker {said.rank}") if said else ""), job)
    culprit = min((m for m in members if not m.done), key=_suspicion)
    return _accuse(job, culprit, len(members))


def _suspicion(member: Member) -> tuple[int, int]:
    """Smaller is likelier. The first complaint is seldom the cause: when one worker is killed, all others complain
    about a broken connection. So: what a person can mend, then a process that vanished, then an exception.
    """
    if member.result is None:
        return (3 if member.killed else 1, member.order)
    return (0 if member.result.failure_class == "user" else 2, member.order)


def _accuse(job: str, member: Member, world_size: int) -> Ended:
    if member.result is not None and member.result.failure_class == "user":
        return Ended(
            outcome="failed",
            failure_class="user",
            cause=member.result.cause,
            next_step=member.result.next_step,
        )
    who = f"worker {member.rank} of {world_size}" if world_size > 1 else "the worker"
    if member.result is not None:
        cause = f"{who} failed: {member.result.cause or 'it stopped, and nobody had asked it to'}"
    else:
        assert member.exit is not None
        cause = f"{who} {_death(member.exit)}"
    return infrastructure(cause + _last_lines(member), job)


def _last_lines(member: Member, whose: str = "") -> str:
    if member.exit is None or not member.exit.tail:
        return ""
    head = f"; the last lines {whose}" if whose else "; its last lines"
    return f"{head}:\n" + "\n".join(member.exit.tail)[-CAUSE_CHARACTERS:]


def _death(end: Exit) -> str:
    if end.lost is not None:
        return f"was lost: {end.lost}"
    assert end.code is not None
    if end.code >= 0:
        return f"ended with exit code {end.code} before its work was done"
    name = signal.Signals(-end.code).name
    hint = " (the kernel does that when memory runs out; see dmesg)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def infrastructure(cause: str, job: str) -> Ended:
    """A failure that is nobody's fault who reads it."""
    next_step = f"Run `batchyard job rerun {job}`; `batchyard job logs {job}` shows what its workers wrote."
    return Ended(outcome="failed", failure_class="infrastructure", cause=cause, next_step=next_step)


def too_big(*, workers: int, gpus_per_worker: int, has: Capacity, where: str) -> Ended | None:
    """The refusal of an attempt that can never run here; None when it can."""
    if workers > has.workers:
        cause = f"workers.count: {workers} given; {where} has room for {has.workers} (one CPU each)"
        next_step = f"Set workers.count to {has.workers} or less, or give {where} more CPUs."
    elif workers * gpus_per_worker > has.gpus:
        cause = (
            f"workers.gpus_per_worker: {workers} workers with {gpus_per_worker} GPU each were asked for; "
            f"{where} has {has.gpus} GPUs"
        )
        next_step = (
            "Set workers.gpus_per_worker to 0 to train on the CPU, or lower workers.count."
            if has.gpus
            else "Set workers.gpus_per_worker to 0 to train on the CPU."
        )
    else:
        return None
    return Ended(outcome="failed", failure_class="user", cause=cause, next_step=next_step)
