"""Histories in which every failpoint is reached and kills, a few in each: one makes way for the next."""

from __future__ import annotations

from tests.chaos.plan import Action, Plan

FIRST_SEED = -1000


def _armed(*rules: str, after: str = "now") -> Action:
    return Action(do="arm", after=after, what="\n".join(rule if "=" in rule else f"{rule}=kill" for rule in rules))


def _kill(what: str, after: str) -> Action:
    return Action(do="kill", what=what, after=after)


ONE, PUBLISHED = Action(do="submit", what="one"), Action(do="submit", what="published")

GROUPS: dict[str, tuple[Action, ...]] = {
    "create and begin": (
        _armed("create.before_commit", "create.after_commit", "admission.before_begin", "begin.before_commit",
               "begin.after_commit", "start.before_executor", "start.after_executor"),
        ONE,
    ),
    "record and end": (
        _armed("record.before_transaction", "record.before_commit", "record.after_commit",
               "end.before_commit"),
        ONE,
    ),
    "release": (
        _armed("release.before_executor"),
        ONE,
    ),
    "released": (
        _armed("release.after_executor"),
        ONE,
    ),
    "tell and send": (
        _armed("ledger.before_tell", "stream.before_send", "stream.after_send=kill@2", "retention.before_files",
               "retention.after_files"),
        ONE,
    ),
    "start of a service": (
        _armed("announce.before_file"),
        Action(do="restart"),
        ONE,
    ),
    "start of an attempt": (
        _armed("attempt.before_rename", "attempt.after_rename", "supervisor.before_spawn", "supervisor.before_note"),
        ONE,
    ),
    "supervisor": (
        _armed("supervisor.before_crew", "event.before_append=kill@20", "event.after_append=kill@35"),
        ONE,
    ),
    "end of a supervisor": (
        _armed("ended.before_append", "ended.after_append"),
        ONE,
    ),
    "worker": (
        _armed("checkpoint.before_write", "checkpoint.after_write=kill@3", "checkpoint.in_removal",
               "checkpoint.after_report=kill@5"),
        ONE,
    ),
    "end of a worker": (
        _armed("worker.before_result"),
        ONE,
    ),
    "folder": (
        _armed("folder.before_file=kill@3", "folder.before_fsync=kill@7", "folder.before_manifest=kill@5"),
        ONE,
    ),
    "rename": (
        _armed("folder.before_rename=kill@2", "folder.after_rename=kill@4"),
        ONE,
    ),
    "publish": (
        _armed("publish.before_fold", "publish.after_fold", "publish.before_artifact", "publish.before_report"),
        PUBLISHED,
    ),
    "registry": (
        _armed("registry.before_row", "registry.after_row", "alias.before_commit", "alias.after_commit"),
        PUBLISHED,
        Action(do="alias", after="ended"),
    ),
    "a pause is asked for": (
        _armed("request.before_commit", "request.after_commit"),
        ONE,
        Action(do="pause", after="started"),
    ),
    "a pause is passed on": (
        _armed("pass_on.before_executor", "pass_on.after_executor"),
        ONE,
        Action(do="pause", after="started"),
    ),
    "control plane after control plane": (
        ONE,
        _armed("reattach.before_follow", after="started"),
        _kill("control", after="step"),
    ),
    "after a supervisor": (
        ONE,
        _armed("burial.before_kill", after="started"),
        _kill("supervisor", after="step"),
    ),
    "after a worker": (
        ONE,
        _armed("resume.before_sweep", "resume.before_report", after="started"),
        _kill("worker", after="checkpoint"),
    ),
    "an executor that does not start": (
        _armed("start.before_executor=error", "fail.before_commit"),
        ONE,
    ),
    "a start that is given up": (
        _armed("start.before_executor=error", "fail.after_commit"),
        ONE,
    ),
}  # fmt: skip
"""What is done in each."""

IN_PROCESS = ("interrupt.before_commit", "interrupt.after_commit")
"""Reached when a service stops and an attempt does not, 35 s later: a test has less patience."""


def plans() -> dict[str, Plan]:
    """A plan for each group."""
    return {
        name: Plan(
            seed=FIRST_SEED - number,
            jobs=("published" if PUBLISHED in actions else "one",),
            users=("ann",),
            actions=actions,
        )
        for number, (name, actions) in enumerate(GROUPS.items())
    }


def plan_of(seed: int) -> Plan:
    """The plan with this seed."""
    return next(plan for plan in plans().values() if plan.seed == seed)


def armed_in(plan: Plan) -> set[str]:
    """The failpoints that are to fire in it."""
    rules = [action.what.split() for action in plan.actions if action.do == "arm"]
    return {rule.partition("=")[0] for part in rules for rule in part}
