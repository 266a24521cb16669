"""What a history does: drawn from its seed, the same for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from batchyard.failpoints.catalogue import CATALOGUE

STEPS, EVERY = 400, 50
HUNG_AFTER_S = 3.0
"""Without a sign of life, until workers are ended."""
PUBLISHING_S = 20.0
"""The same for those that publish: to fold, certify and export takes seconds in which no step is done."""

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
    "workers": {"hung_after_seconds": HUNG_AFTER_S},
}
SPECS: dict[str, dict[str, Any]] = {
    "one": SPEC,
    "two": {**SPEC, "workers": {**SPEC["workers"], "count": 2}},
    "published": {
        **SPEC,
        "workers": {"hung_after_seconds": PUBLISHING_S},
        "publish": {"model": "digits", "alias": "production"},
    },
    "urgent": {**SPEC, "workers": {**SPEC["workers"], "count": 2}, "priority": 9, "steps": 150},
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
"""Failpoints that a job without a publish, without a pause and without a fault comes to, but for what NEEDS says."""
NEEDS = {"checkpoint.in_removal": ("checkpoint.after_write=kill@2",)}
"""By failpoint, the rules that lead to it: an attempt removes what the one before it had written and not reported."""
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
IN_A_HURRY = "eve"
"""Whose urgent job needs all workers, so that those of others give way."""
PROGRESS = ("now", "started", "step", "checkpoint")
REQUESTS = ("pause", "pause", "cancel", "list", "submit_other", "alias")
FAULTS = {"arm": 7, "kill": 4, "restart": 1, "error": 1, "hang": 1, "full": 1, "standby": 1, "clock": 1}
"""How often each kind is drawn. On Ray processes are killed more often, no clock is moved, and no disk is full: what a
control plane starts there would find it full for ever.
"""
FAULTS_ON_RAY = {**FAULTS, "kill": 9, "clock": 0, "full": 0}
VICTIMS = ("control", "supervisor", "worker", "forks")
VICTIMS_ON_RAY = (*VICTIMS, "head", "head", "raylet", "gcs_server")


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing that is done to the service."""

    do: str
    """submit, submit_other, cancel, pause, list, alias, kill, restart, arm, hang, full, standby, clock."""
    job: int = 0
    """Which of the history's jobs it is about."""
    after: str = "now"
    """now, or that job's progress to wait for: started, step, checkpoint. A submit waits for the first job's."""
    what: str = ""
    """kill: control, supervisor, worker, forks (the fork server) or, of Ray, head (our driver), raylet, gcs_server;
    full: control or supervisor; arm: a rule; submit: a spec's name; clock: seconds.
    """
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
    jobs = tuple(dice.choices(("one", "two", "published"), (7, 2, 1), k=dice.choice((1, 1, 1, 2))))
    users = tuple(dice.choices(USERS, k=len(jobs)))
    actions = [
        Action(do="submit", job=number, what=spec, times=dice.choice((1, 1, 2, 3))) for number, spec in enumerate(jobs)
    ]
    others: list[Action] = []
    for _ in range(dice.choice((1, 2, 2, 3))):
        others += _fault(dice, jobs, executor) if dice.random() < 0.8 else [_request(dice, jobs)]
    if dice.random() < 0.1:
        jobs, users = (*jobs, "urgent"), (*users, IN_A_HURRY)
        others.append(Action(do="submit", job=len(jobs) - 1, what="urgent", after=dice.choice(("step", "checkpoint"))))
    others.sort(key=lambda action: PROGRESS.index(action.after))
    first = [action for action in others if action.do == "arm" and action.after == "now" and dice.random() < 0.5]
    return Plan(
        seed=seed, jobs=jobs, users=users, actions=(*first, *actions, *(each for each in others if each not in first))
    )


def _request(dice: random.Random, jobs: tuple[str, ...], kinds: tuple[str, ...] = REQUESTS) -> Action:
    return Action(do=dice.choice(kinds), job=dice.randrange(len(jobs)), after=dice.choice(PROGRESS))


def _fault(dice: random.Random, jobs: tuple[str, ...], executor: str) -> list[Action]:
    """A fault, after what makes it possible."""
    kinds = FAULTS_ON_RAY if executor == "ray" else FAULTS
    kind = dice.choices(tuple(kinds), tuple(kinds.values()))[0]
    job, progress = dice.randrange(len(jobs)), dice.choice(PROGRESS)
    match kind:
        case "kill":
            return [_kill(dice, jobs, VICTIMS_ON_RAY if executor == "ray" else VICTIMS)]
        case "restart":
            return [Action(do="restart", job=job, after=progress)]
        case "error":
            return [Action(do="arm", what=f"{dice.choice(WITH_ERROR)}=error@{dice.randint(1, 2)}")]
        case "hang":
            return [Action(do="hang", job=job, after="step")]
        case "full":
            return [Action(do="full", job=job, after="step", what=dice.choice(("control", "supervisor")))]
        case "standby":
            gone = dice.choice((Action(do="kill", what="control", after="step"), Action(do="restart", after="step")))
            return [Action(do="standby", job=job, after="started"), gone]
        case "clock":
            return [Action(do="clock", job=job, after=progress, what=dice.choice(("-3600", "3600")))]
    return _armed(dice, jobs, executor)


def _armed(dice: random.Random, jobs: tuple[str, ...], executor: str) -> list[Action]:
    """A failpoint that kills, after what leads to it."""
    name = dice.choice(_reachable(jobs, executor))
    most = 12 if name.startswith(OFTEN) else 2 if name in REACHED_BY_ALL and name not in NEEDS else 1
    job, rule = dice.randrange(len(jobs)), f"{name}=kill@{dice.randint(1, most)}"
    arm = Action(do="arm", job=job, what="\n".join((*NEEDS.get(name, ()), rule)))
    if name in REACHED_BY_A_REQUEST:
        return [arm, _request(dice, jobs, ("pause", "cancel"))]
    if name in REACHED_AFTER_A_FAULT:
        return [arm, _kill(dice, jobs, REACHED_AFTER_A_FAULT[name])]
    return [arm]


def _kill(dice: random.Random, jobs: tuple[str, ...], whom: tuple[str, ...]) -> Action:
    what = dice.choice(whom)
    after = dice.choice(PROGRESS if what in ("control", "forks") else ("step", "checkpoint"))
    return Action(do="kill", job=dice.randrange(len(jobs)), after=after, what=what)


def _reachable(jobs: tuple[str, ...], executor: str) -> tuple[str, ...]:
    names = (*REACHED_BY_ALL, *REACHED_AFTER_A_FAULT, *REACHED_BY_A_REQUEST)
    names += REACHED_BY_PUBLISHED if "published" in jobs else ()
    return tuple(name for name in names if executor == "local" or not name.startswith("supervisor."))
