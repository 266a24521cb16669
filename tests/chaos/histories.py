"""Runs one history, from its seed to its violations, and the undisturbed jobs that it is held against."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

from tests.chaos.each_failpoint import plan_of
from tests.chaos.invariants import OF_A_STEP, Evidence, Reference, point_of, violations
from tests.chaos.outcome import Outcome, stopped
from tests.chaos.plan import SPECS, Action, Plan, draw
from tests.chaos.record import Entry, Record
from tests.chaos.service import Service
from tests.chaos.storm import carry_out, folder_of

AT_A_TIME = 2
"""Undisturbed jobs: as many as a small machine has cores, so that they are just that."""
HEAD = ("raylet", "gcs_server")
"""Parts with which all of a Ray head is lost."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where histories run.

    Args: see Service.
    """

    root: Path
    forge: str | None
    executor: str = "local"
    keep: bool = False
    """Whether the files of histories without a violation stay."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a history."""

    seed: int
    seconds: float
    faults: Counter[str]
    violations: list[dict[str, Any]]
    recoveries: list[tuple[str, float]]
    """Kind of process that was lost, and seconds; see _recoveries."""


def run(seed: int, ground: Ground, references: dict[str, Reference]) -> Result:
    """Runs the history of a seed: drawn from it, or one of each_failpoint's where it is negative."""
    plan = draw(seed, ground.executor) if seed >= 0 else plan_of(seed)
    began = time.monotonic()
    folder = folder_of(ground.root, plan.seed)
    evidence = _evidence(plan, folder, ground, references)
    found = violations(evidence)
    if not found and not ground.keep:
        shutil.rmtree(folder)
    return Result(
        seed=plan.seed,
        seconds=time.monotonic() - began,
        faults=Counter(_faults(evidence)),
        violations=found,
        recoveries=list(_recoveries(evidence.entries)),
    )


def references(ground: Ground) -> dict[str, Reference]:
    """An undisturbed job of each spec."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return dict(zip(SPECS, pool.map(partial(_undisturbed, ground), count(1), SPECS), strict=True))


def _undisturbed(ground: Ground, number: int, name: str) -> Reference:
    plan = Plan(seed=-number, jobs=(name,), users=("ann",), actions=(Action(do="submit", what=name),))
    folder = folder_of(ground.root, plan.seed)
    evidence = _evidence(plan, folder, ground, {})
    if evidence.not_over is not None:
        raise RuntimeError(f"an undisturbed job of spec {name} has not ended: {evidence.not_over}; see {folder}")
    shutil.rmtree(folder)
    return _reference(evidence)


def _evidence(plan: Plan, folder: Path, ground: Ground, references: dict[str, Reference]) -> Evidence:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record = Record(folder / "history.jsonl")
    service = Service(folder / "data", ground.forge, ground.executor)
    try:
        not_over = carry_out(plan, service, record)
        outcome: Outcome = stopped(service)
        for fired in service.fired():
            record.add("fired", name=fired["name"], action=fired["action"], at=fired["time"])
    finally:
        with contextlib.suppress(TimeoutError):
            service.clear()
        record.close()
    return Evidence(plan=plan, entries=record.entries, outcome=outcome, references=references, not_over=not_over)


def _reference(evidence: Evidence) -> Reference:
    events = evidence.outcome.rows["events"]
    weights = [manifest["files"]["model.safetensors"] for manifest in evidence.outcome.artifacts.values()]
    return Reference(
        points=[point_of(event["payload"]) for event in events if event["kind"] in OF_A_STEP],
        checkpoints={
            e["payload"]["step"]: e["payload"]["tensors_sha256"] for e in events if e["kind"] == "checkpointed"
        },
        published_weights=weights[0] if weights else None,
    )


def _faults(evidence: Evidence) -> Iterator[str]:
    for entry in evidence.entries:
        match entry["kind"]:
            case "killed":
                yield f"kill {entry['what']}"
            case "fired":
                yield f"{entry['action']} at {entry['name']}"
            case "hung":
                yield "hang worker"
            case "disk_full":
                yield f"disk full for {entry['what']}"
            case "action" if entry["do"] in ("restart", "clock", "standby"):
                yield {"clock": f"clock {entry['what']} s", "restart": "restart", "standby": "standby"}[entry["do"]]
    yield from ("preemption" for row in evidence.outcome.rows["attempts"] if row["preempted_by"] is not None)


def _recoveries(entries: list[Entry]) -> Iterator[tuple[str, float]]:
    """What was lost, and the seconds until it was made good.

    That is when a control plane answers, or when a later attempt than the one that was lost has its first metric point.
    """
    points = [entry for entry in entries if entry["kind"] == "event" and entry["what"] == "step_metrics"]
    for entry in entries:
        if entry["kind"] == "back" and not entry["first"]:
            yield "control", entry["seconds"]
        for attempt in entry.get("attempts", ()):
            job, _, number = attempt.rpartition("-")
            after = (p["time"] for p in points if p["job"].endswith(job) and p["attempt"] > int(number))
            kind = "head" if entry["what"] in HEAD else entry["what"]
            yield from ((kind, time - entry["time"]) for time in islice(after, 1))


def summary(result: Result) -> str:
    """A line for people."""
    faults = ", ".join(f"{kind} x{times}" if times > 1 else kind for kind, times in result.faults.items()) or "no fault"
    return f"seed {result.seed}: {result.seconds:.1f} s, {faults}, {len(result.violations)} violations"


def say(result: Result, command: str) -> str:
    """What is printed of a history with violations."""
    lines = [f"{v['invariant']}: {v['says']}" for v in result.violations]
    return "\n".join([summary(result), *(f"  {line}" for line in lines), f"  again: {command} SEED={result.seed}"])
