"""The checker itself: a history that is right has no violation, and each way of being wrong has the one it should."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from batchyard.control import tokens
from tests.chaos.invariants import INVARIANTS, Evidence, Reference, violations
from tests.chaos.outcome import Outcome
from tests.chaos.plan import SPECS, Plan

JOB = "chaos-1"
NAME = f"trainingJobs/{JOB}"
MODEL = "models/digits/versions/1"
STEPS = ({"kind": "step_metrics", "step": 1, "loss": 2.0}, {"kind": "step_metrics", "step": 2, "loss": 1.0})
SAVED = {"kind": "checkpointed", "step": 2, "tensors_sha256": "good"}


def state(name: str) -> dict[str, Any]:
    return {"kind": "state_change", "state": name}


LOG = (state("QUEUED"), state("STARTING"), state("RUNNING"), *STEPS, SAVED, state("SUCCEEDED"))


def evidence() -> Evidence:
    """A job that published a model, and its watcher."""
    attempts = (0, 1, 1, 1, 1, 1, 1)
    events = [
        {"job_number": 1, "sequence": n, "attempt": attempt, "kind": payload["kind"], "payload": dict(payload)}
        | {"superseded_by": None}
        for n, (attempt, payload) in enumerate(zip(attempts, LOG, strict=True), start=1)
    ]
    spec = SPECS["published"] | {"workers": {"count": 1}, "priority": 0}
    rows: dict[str, list[dict[str, Any]]] = {
        "checkpoints": [],
        "jobs": [{"number": 1, "id": JOB, "user": "ann", "request_id": "r", "spec": spec, "state": "SUCCEEDED"}
                 | {"model_version": MODEL, "failure_cause": None}],
        "attempts": [{"job_number": 1, "number": 1, "start_time": 1.0, "end_time": 2.0, "preempted_by": None}],
        "events": events,
        "versions": [{"model": "digits", "number": 1, "job": JOB, "artifact_uri": f"file:///{JOB}-1"}
                     | {"manifest_sha256": "m"}],
    }  # fmt: skip
    watched = [
        {"time": 0.0, "kind": "event", "job": NAME, "cursor": tokens.cursor(JOB, event["sequence"])}
        | {"what": event["kind"], "attempt": event["attempt"], "step": None}
        for event in events
    ]
    answered = {"kind": "answered", "method": "CreateTrainingJob", "request_id": "r", "name": NAME, "state": "QUEUED"}
    looked = {"kind": "processes", "running": {f"{JOB}-1": {"supervisors": 1, "workers": 1}}}
    outcome = Outcome(
        rows=rows,
        damaged={},
        checkpoint_digests={1: {2: "good"}},
        artifacts={f"{JOB}-1": {"sha256": "m", "job": JOB, "spec": spec, "files": {"model.safetensors": "w"}}},
        left=(),
        processes=(),
    )
    return Evidence(
        plan=Plan(seed=1, jobs=("published",), users=("ann",), actions=()),
        entries=[answered, looked, *watched],
        outcome=outcome,
        references={
            name: Reference(points=[dict(step) for step in STEPS], checkpoints={2: "good"}, published_weights="w")
            for name in SPECS
        },
    )


Change = Callable[[Evidence], object]


def entry(found: Evidence, kind: str) -> dict[str, Any]:
    return next(each for each in found.entries if each["kind"] == kind)


def events(found: Evidence) -> list[dict[str, Any]]:
    return found.outcome.rows["events"]


def resumed(found: Evidence, step: int) -> None:
    """Its last event but one is that an attempt goes on from there."""
    events(found).insert(-1, {**events(found)[3], "kind": "resumed", "payload": {"step": step}})


def damaged(found: Evidence, why: str) -> None:
    """The listed checkpoint of step 2 is not what it was."""
    found.outcome.rows["checkpoints"].append({"job_number": 1, "step": 2, "uri": "file:///x"})
    found.outcome.damaged["file:///x"] = why


def beside(found: Evidence, *numbers: int) -> None:
    """More attempts run at the same time as its first."""
    attempts = found.outcome.rows["attempts"]
    attempts += [{**attempts[0], "number": number, "start_time": 1.5, "end_time": 1.8} for number in numbers]


WRONG: dict[str, list[tuple[str, Change]]] = {
    "no_acknowledged_submit_is_lost": [
        ("a job that was acknowledged is not there", lambda f: entry(f, "answered").update(name="trainingJobs/gone")),
    ],
    "one_job_for_each_request_id": [
        ("a second job of the request", lambda f: f.jobs.append({**f.jobs[0], "number": 2, "id": "chaos-2"})),
        ("another spec was taken", lambda f: entry(f, "answered").update(other=True)),
    ],
    "only_legal_transitions": [
        ("a state is left out", lambda f: events(f)[2]["payload"].update(state="PAUSED")),
        ("the row has another state", lambda f: f.jobs[0].update(state="RUNNING")),
    ],
    "terminal_is_final": [
        ("an event after the end", lambda f: events(f).append({**events(f)[3], "sequence": 8})),
        ("an answer after the end", lambda f: f.entries.extend(
            {"kind": "answered", "method": "GetTrainingJob", "name": NAME, "state": each, "job": NAME}
            for each in ("SUCCEEDED", "RUNNING"))),
    ],
    "every_job_comes_to_the_end_that_was_asked_for": [
        ("it failed", lambda f: f.jobs[0].update(state="FAILED", failure_cause="the machine")),
    ],
    "at_most_one_live_attempt_writes": [
        ("an event of an attempt that is over", lambda f: events(f)[4].update(attempt=0)),
        ("workers of two attempts", lambda f: entry(f, "processes")["running"].update(
            {f"{JOB}-2": {"supervisors": 1, "workers": 1}})),
        ("two crews on one attempt", lambda f: entry(f, "processes")["running"][f"{JOB}-1"].update(workers=2)),
        ("two supervisors", lambda f: entry(f, "processes")["running"][f"{JOB}-1"].update(supervisors=2)),
    ],
    "metric_history_is_that_of_an_undisturbed_job": [
        ("a point twice", lambda f: events(f)[4]["payload"].update(events(f)[3]["payload"])),
        ("a point is missing", lambda f: events(f)[3].update(superseded_by=7)),
        ("a loss off by one bit", lambda f: events(f)[4]["payload"].update(loss=1.0000000000000002)),
    ],
    "weights_and_statistics_are_those_of_an_undisturbed_job": [
        ("another state at the end", lambda f: f.outcome.checkpoint_digests[1].update({2: "bad"})),
        ("other published weights", lambda f: f.outcome.artifacts[f"{JOB}-1"]["files"].update(
            {"model.safetensors": "x"})),
    ],
    "an_attempt_goes_on_from_the_newest_checkpoint": [
        ("one from before it", lambda f: resumed(f, 0)),
        ("one that nobody has heard of", lambda f: resumed(f, 3)),
    ],
    "a_job_gives_way_only_to_one_of_higher_priority": [
        ("to itself", lambda f: f.outcome.rows["attempts"][0].update(preempted_by=JOB)),
        ("to nobody", lambda f: f.outcome.rows["attempts"][0].update(preempted_by="gone")),
    ],
    "every_listed_checkpoint_verifies": [
        ("one is cut short", lambda f: damaged(f, "the tensors are not")),
        ("one is gone", lambda f: damaged(f, "No such file")),
    ],
    "streams_are_ordered_and_resumable": [
        ("an event twice", lambda f: f.entries.insert(5, f.entries[4])),
        ("an event is missing", lambda f: f.entries.pop(5)),
        ("the last one is missing", lambda f: f.entries.pop()),
    ],
    "nothing_is_left_behind": [
        ("a process", lambda f: vars(f.outcome).update(processes=(7,))),
        ("a file", lambda f: vars(f.outcome).update(left=("artifacts/.x",))),
    ],
    "a_deployed_digest_traces_back_to_its_job": [
        ("another artifact", lambda f: f.outcome.artifacts[f"{JOB}-1"].update(sha256="other")),
        ("no version", lambda f: f.outcome.rows["versions"].clear()),
    ],
    "capacity_and_quotas_are_never_exceeded": [
        ("two jobs of a user", lambda f: beside(f, 2)),
        ("three workers", lambda f: beside(f, 2, 3)),
    ],
}  # fmt: skip


def test_every_invariant_is_tried() -> None:
    assert set(WRONG) == {check.__name__ for check in INVARIANTS}


def test_a_history_that_is_right_has_no_violation() -> None:
    assert violations(evidence()) == []


@pytest.mark.parametrize(
    ("invariant", "change"),
    [pytest.param(name, change, id=f"{name}-{what}") for name, ways in WRONG.items() for what, change in ways],
)
def test_a_history_that_is_wrong_is_found_out(invariant: str, change: Change) -> None:
    found = copy.deepcopy(evidence())
    change(found)
    assert invariant in {violation["invariant"] for violation in violations(found)}


def test_an_attempt_that_goes_on_from_the_newest_is_right() -> None:
    found = copy.deepcopy(evidence())
    resumed(found, 2)
    assert "an_attempt_goes_on_from_the_newest_checkpoint" not in {each["invariant"] for each in violations(found)}
