"""What a history does: drawn from its seed, the same for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from batchyard.failpoints.catalogue import CATALOGUE

STEPS, EVERY = 400, 50

SPEC: dict[str, Any] = {
    "name": "chaos",
    "model": {"architecture": "mlp", "hidden": [16], "norm": "batch"},
    "data": {"dataset": "digits", "batch_size": 61},
    "optimizer": {"momentum": 0.9},
    "metrics": {"every_steps": 20, "activation_statistics": False},
    "evaluate": {"every_steps": 200},
    "checkpoint": {"every_steps": EVERY, "keep": 2},
    "steps": STEPS,
    "retries": 20,
}
SPECS: dict[str, dict[str, Any]] = {
    "one": SPEC,
    "two": {**SPEC, "workers": {"count": 2}},
    "published": {**SPEC, "publish": {"model": "digits", "alias": "production"}},
}
"""What jobs are made of, by name; `retries` are more than a history has faults."""

REACHED_BY_ALL = (
    "create.before_commit", "create.after_commit",
    "admission.before_begin", "begin.before_commit", "begin.after_commit",
    "start.before_executor", "start.after_executor", "record.before_transaction", "record.before_commit",
    "record.after_commit", "end.before_commit", "release.before_executor", "release.after_executor",
    "ledger.before_tell", "stream.before_send", "stream.after_send", "retention.before_files", "retention.after_files",
    "announce.before_file", "attempt.before_rename", "attempt.after_rename", "supervisor.before_spawn",
    "supervisor.before_note", "supervisor.before_crew", "event.before_append", "event.after_append",
    "ended.before_append", "ended.after_append", "worker.before_result", "checkpoint.before_write",
    "checkpoint.after_write", "checkpoint.after_report", "checkpoint.in_removal", "folder.before_file",
    "folder.before_manifest", "folder.before_rename", "folder.after_rename", "folder.before_fsync",
)  # fmt: skip
"""Failpoints that a job without a publish, without a pause and without a fault comes to."""
REACHED_BY_PUBLISHED = tuple(name for name in CATALOGUE if name.partition(".")[0] in ("publish", "registry"))
REACHED_AFTER_A_FAULT = {
    "reattach.before_follow": ("control",),
    "burial.before_kill": ("supervisor",),
    "resume.before_sweep": ("worker", "supervisor"),
    "resume.before_report": ("worker", "supervisor"),
}
"""By failpoint, whose death it takes."""
REACHED_BY_A_REQUEST = tuple(name for name in CATALOGUE if name.partition(".")[0] in ("request", "pass_on"))
OFTEN = ("event.", "record.", "stream.", "ledger.", "folder.before_file", "folder.before_fsync")
"""These come many times in a job: they fire at any of the first so many."""
WITH_ERROR = tuple(
    f"{what}.{when}_commit" for what in ("create", "request", "record", "begin") for when in ("before", "after")
)
"""An error there is the service's to make good; elsewhere it may well end a job."""
USERS = ("ann", "bob")
PROGRESS = ("now", "started", "step", "checkpoint")
REQUESTS = ("pause", "pause", "cancel", "list", "submit_other", "alias")


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing that is done to the service."""

    do: str
    """submit, submit_other, cancel, pause, list, alias, kill, restart, arm."""
    job: int = 0
    """Which of the history's jobs it is about."""
    after: str = "now"
    """now, or that job's progress to wait for: started, step, checkpoint."""
    what: str = ""
    """kill: control, supervisor, worker or head (Ray's); arm: a rule; submit: a spec's name."""
    times: int = 1
    """submit: how often it is sent with the same request_id."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A history before it happens."""

    seed: int
    jobs: tuple[str, ...]
    """The spec's name of each."""
    users: tuple[str, ...]
    """Who submits each: one may have one job running at a time."""
    actions: tuple[Action, ...]


def draw(seed: int, executor: str = "local") -> Plan:
    """The plan of a seed."""
    dice = random.Random(f"chaos {seed}")
    jobs = tuple(dice.choices(tuple(SPECS), (7, 2, 1), k=dice.choice((1, 1, 1, 2))))
    actions = [
        Action(do="submit", job=number, what=spec, times=dice.choice((1, 1, 2, 3))) for number, spec in enumerate(jobs)
    ]
    others: list[Action] = []
    for _ in range(dice.choice((1, 2, 2, 3))):
        others += _fault(dice, jobs, executor) if dice.random() < 0.7 else [_request(dice, jobs)]
    others.sort(key=lambda action: PROGRESS.index(action.after))
    first = [action for action in others if action.do == "arm" and action.after == "now" and dice.random() < 0.5]
    users = tuple(random.Random(f"users {seed}").choices(USERS, k=len(jobs)))
    return Plan(
        seed=seed, jobs=jobs, users=users, actions=(*first, *actions, *(each for each in others if each not in first))
    )


def _request(dice: random.Random, jobs: tuple[str, ...], kinds: tuple[str, ...] = REQUESTS) -> Action:
    return Action(do=dice.choice(kinds), job=dice.randrange(len(jobs)), after=dice.choice(PROGRESS))


def _fault(dice: random.Random, jobs: tuple[str, ...], executor: str) -> list[Action]:
    """A fault, after what makes it possible."""
    kind = dice.choices(("kill", "restart", "error", "arm"), (4, 1, 1, 7))[0]
    if kind == "kill":
        return [_kill(dice, jobs, ("control", "supervisor", "worker", *(["head"] if executor == "ray" else [])))]
    if kind == "restart":
        return [Action(do="restart", job=dice.randrange(len(jobs)), after=dice.choice(PROGRESS))]
    if kind == "error":
        return [Action(do="arm", what=f"{dice.choice(WITH_ERROR)}=error@{dice.randint(1, 2)}")]
    name = dice.choice(_reachable(jobs, executor))
    most = 12 if name.startswith(OFTEN) else 2 if name in REACHED_BY_ALL else 1
    arm = Action(do="arm", job=dice.randrange(len(jobs)), what=f"{name}=kill@{dice.randint(1, most)}")
    if name in REACHED_BY_A_REQUEST:
        return [arm, _request(dice, jobs, ("pause", "cancel"))]
    if name in REACHED_AFTER_A_FAULT:
        return [arm, _kill(dice, jobs, REACHED_AFTER_A_FAULT[name])]
    return [arm]


def _kill(dice: random.Random, jobs: tuple[str, ...], whom: tuple[str, ...]) -> Action:
    what = dice.choice(whom)
    after = dice.choice(PROGRESS if what == "control" else ("step", "checkpoint"))
    return Action(do="kill", job=dice.randrange(len(jobs)), after=after, what=what)


def _reachable(jobs: tuple[str, ...], executor: str) -> tuple[str, ...]:
    names = (*REACHED_BY_ALL, *REACHED_AFTER_A_FAULT, *REACHED_BY_A_REQUEST)
    names += REACHED_BY_PUBLISHED if "published" in jobs else ()
    return tuple(name for name in names if executor == "local" or not name.startswith("supervisor."))
