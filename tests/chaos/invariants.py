"""What must hold of every history, however it went: one function each, which yields a sentence for every violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from batchyard.control import tokens
from tests.chaos.outcome import Outcome, Row
from tests.chaos.plan import SPECS, Plan
from tests.chaos.record import Entry
from tests.chaos.service import JOBS_OF_A_USER, WORKERS

LEGAL = {
    None: {"QUEUED"},
    "QUEUED": {"STARTING", "PAUSED", "CANCELLED", "FAILED"},
    "STARTING": {"RUNNING", "QUEUED", "PAUSING", "CANCELLING", "FAILED"},
    "RUNNING": {"QUEUED", "PAUSING", "CANCELLING", "SUCCEEDED", "FAILED"},
    "PAUSING": {"PAUSED", "CANCELLING", "SUCCEEDED", "FAILED"},
    "PAUSED": {"QUEUED", "CANCELLED"},
    "CANCELLING": {"CANCELLED", "SUCCEEDED", "FAILED"},
}
"""Written down a second time, so that a mistake in the service's own table is one."""
TERMINAL = {"SUCCEEDED", "FAILED", "CANCELLED"}
OF_A_STEP = ("step_metrics", "evaluation")
EXACT = ("step", "loss", "accuracy", "learning_rate", "samples")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A job of the same spec that nobody disturbed."""

    points: list[Row]
    """Metric points and evaluations, without times and speeds."""
    checkpoints: dict[int, str]
    """Digest of everything in the checkpoint of each step: weights, BN statistics, optimiser, random numbers."""
    published_weights: str | None
    """Digest of the weights and population statistics in the artifact."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A history that is over."""

    plan: Plan
    entries: list[Entry]
    outcome: Outcome
    references: dict[str, Reference]
    """By the spec's name."""
    not_over: str | None = None
    """What did not come to its end in time."""

    @property
    def jobs(self) -> list[Row]:
        return self.outcome.rows["jobs"]

    def events(self, job: Row) -> list[Row]:
        """Everything in the job's log, what was made void too."""
        return [row for row in self.outcome.rows["events"] if row["job_number"] == job["number"]]

    def states(self, job: Row) -> list[str]:
        return [row["payload"]["state"] for row in self.events(job) if row["kind"] == "state_change"]

    def reference(self, job: Row) -> Reference:
        """The undisturbed job of the same spec."""
        return next(self.references[name] for name, spec in SPECS.items() if _bits(spec) == _bits(job["spec"]))

    def of_kind(self, *kinds: str) -> list[Entry]:
        return [entry for entry in self.entries if entry["kind"] in kinds]


def _bits(spec: dict[str, Any]) -> tuple[Any, ...]:
    """What of a spec here makes a difference to a job's metrics, weights and files."""
    return spec["steps"], spec.get("workers", {}).get("count", 1), spec.get("publish") is not None


def no_acknowledged_submit_is_lost(found: Evidence) -> Iterator[str]:
    """Every job that a caller was told of is in the database."""
    known = {f"trainingJobs/{job['id']}" for job in found.jobs}
    for entry in found.of_kind("answered"):
        if "name" in entry and entry["name"].startswith("trainingJobs/") and entry["name"] not in known:
            yield f"{entry['method']} was answered with {entry['name']}, which is not there"


def one_job_for_each_request_id(found: Evidence) -> Iterator[str]:
    """However often a request_id is sent, there is one job; every answer names it, and another spec is refused."""
    named: dict[str, set[str]] = {}
    for entry in found.of_kind("answered"):
        if "request_id" in entry:
            named.setdefault(entry["request_id"], set()).add(entry["name"])
            if entry.get("other"):
                yield f"request_id {entry['request_id']} was taken for another spec"
    for request, names in named.items():
        if len(names) > 1:
            yield f"request_id {request} was answered with {sorted(names)}"
        rows = [job["id"] for job in found.jobs if job["request_id"] == request]
        if len(rows) != 1:
            yield f"request_id {request} has {len(rows)} jobs in the database"
    if len(found.jobs) != len(named):
        yield f"{len(found.jobs)} jobs in the database, of {len(named)} request_ids"


def only_legal_transitions(found: Evidence) -> Iterator[str]:
    """A job's states follow one another as the table says, and its row has the last of them."""
    for job in found.jobs:
        before = None
        for state in found.states(job):
            if state not in LEGAL.get(before, set()):
                yield f"{job['id']}: {before} -> {state}"
            before = state
        if before != job["state"]:
            yield f"{job['id']} is {job['state']}, and its last event says {before}"


def terminal_is_final(found: Evidence) -> Iterator[str]:
    """Nothing follows the event of a terminal state, and nobody who has seen one sees another state later."""
    for job in found.jobs:
        events = found.events(job)
        at = next((n for n, e in enumerate(events) if e["payload"].get("state") in TERMINAL), len(events) - 1)
        if at != len(events) - 1:
            yield f"{job['id']}: {len(events) - 1 - at} events after {events[at]['payload']['state']}"
    seen: dict[str, str] = {}
    for entry in found.of_kind("answered"):
        if entry.get("state"):
            before = seen.setdefault(entry["name"], entry["state"])
            if before in TERMINAL and entry["state"] != before:
                yield f"{entry['name']} was {before}, and then {entry['state']}"
            seen[entry["name"]] = entry["state"]


def every_job_comes_to_the_end_that_was_asked_for(found: Evidence) -> Iterator[str]:
    """Every job ends in time: as SUCCEEDED, unless its cancel was acknowledged, whatever broke down on the way."""
    if found.not_over is not None:
        yield found.not_over
        return
    cancelled = {e["job"] for e in found.of_kind("answered") if e["method"] == "CancelTrainingJob"}
    cancelled |= {e["job"] for e in found.of_kind("refused") if e["method"] == "CancelTrainingJob"}  # maybe carried out
    for job in found.jobs:
        allowed = {"SUCCEEDED", "CANCELLED"} if f"trainingJobs/{job['id']}" in cancelled else {"SUCCEEDED"}
        if job["state"] not in allowed:
            yield f"{job['id']} has {job['state']}: {job['failure_cause']}"


def at_most_one_live_attempt_writes(found: Evidence) -> Iterator[str]:
    """An attempt's events come between its STARTING and the next one's, and its processes are as many as it has."""
    for job in found.jobs:
        current = 0
        for event in found.events(job):
            if event["payload"].get("state") == "STARTING":
                current += 1
            if event["attempt"] != current:
                yield f"{job['id']}: event {event['sequence']} is of attempt {event['attempt']}, not {current}"
        count = job["spec"]["workers"]["count"]
        for entry in found.of_kind("processes"):
            running = {name: seen for name, seen in entry["running"].items() if name.startswith(f"{job['id']}-")}
            if sum(seen["workers"] > 0 for seen in running.values()) > 1:
                yield f"{job['id']}: workers of several attempts at once: {running}"
            for name, seen in running.items():
                if seen["supervisors"] > 1 or seen["workers"] > count:
                    yield f"{name} has {seen}, of 1 supervisor and {count} workers"


def metric_history_is_that_of_an_undisturbed_job(found: Evidence) -> Iterator[str]:
    """Steps without gap or repeat, and each with the loss and accuracy, to the last bit, of a job left alone."""
    for job in found.jobs:
        valid = [e["payload"] for e in found.events(job) if e["kind"] in OF_A_STEP and e["superseded_by"] is None]
        points = [point_of(payload) for payload in valid]
        expected = found.reference(job).points
        if job["state"] != "SUCCEEDED":
            expected = expected[: len(points)]
        if points != expected:
            differing = next((a for a, b in zip(points, expected, strict=False) if a != b), "their number")
            yield f"{job['id']}: {len(points)} points, {len(expected)} expected; the first that differs: {differing}"


def point_of(payload: Row) -> Row:
    """What of a metric point does not depend on time."""
    return {"kind": payload["kind"], **{name: payload[name] for name in EXACT if name in payload}}


def weights_and_statistics_are_those_of_an_undisturbed_job(found: Evidence) -> Iterator[str]:
    """Every checkpoint, the last above all, and the published weights have the bits of a job left alone."""
    for job in found.jobs:
        reference = found.reference(job)
        saved = (event["payload"] for event in found.events(job) if event["kind"] == "checkpointed")
        digests = {payload["step"]: payload["tensors_sha256"] for payload in saved}
        digests |= found.outcome.checkpoint_digests.get(job["number"], {})
        for step, digest in digests.items():
            if digest != reference.checkpoints.get(step, digest):  # a pause makes one after any step
                yield f"{job['id']}: the state after step {step} is {digest[:12]}, not that of an undisturbed job"
        if job["state"] == "SUCCEEDED" and max(reference.checkpoints) not in digests:
            yield f"{job['id']} has SUCCEEDED without the checkpoint of its last step"
    for name, manifest in found.outcome.artifacts.items():
        weights = manifest["files"]["model.safetensors"]
        if weights != found.references["published"].published_weights:
            yield f"artifact {name} has other weights or BN statistics than an undisturbed job's"


def an_attempt_goes_on_from_the_newest_checkpoint(found: Evidence) -> Iterator[str]:
    """Of those that the log had until then: what is announced is durable, and no step is done twice without need."""
    for job in found.jobs:
        announced = [0]
        for event in found.events(job):
            step = event["payload"].get("step")
            if event["kind"] == "checkpointed":
                announced.append(step)
            elif event["kind"] == "resumed":
                if step != max(announced):
                    yield f"{job['id']}: attempt {event['attempt']} goes on from {step}, of checkpoints at {announced}"
                announced = [each for each in announced if each <= step]


def a_job_gives_way_only_to_one_of_higher_priority(found: Evidence) -> Iterator[str]:
    """An attempt that was told to make room was told so for a job that may ask for it."""
    by_id = {job["id"]: job for job in found.jobs}
    by_number = {job["number"]: job for job in found.jobs}
    for attempt in found.outcome.rows["attempts"]:
        if attempt["preempted_by"] is not None:
            job, other = by_number[attempt["job_number"]], by_id.get(attempt["preempted_by"])
            if other is None or other["spec"]["priority"] <= job["spec"]["priority"]:
                yield f"{job['id']}: attempt {attempt['number']} gave way to {attempt['preempted_by']}"


def every_listed_checkpoint_verifies(found: Evidence) -> Iterator[str]:
    """What the database says can be gone on from is there, whole, and what was written."""
    for row in found.outcome.rows["checkpoints"]:
        if row["uri"] in found.outcome.damaged:
            yield f"{row['uri']}: {found.outcome.damaged[row['uri']]}"


def streams_are_ordered_and_resumable(found: Evidence) -> Iterator[str]:
    """Over all its connections a watcher gets each event once, in order, none missing but those made void."""
    for job in found.jobs:
        events = {event["sequence"]: event for event in found.events(job)}
        last = 0
        for entry in (e for e in found.of_kind("event") if e["job"] == f"trainingJobs/{job['id']}"):
            sequence = tokens.read_cursor(entry["cursor"], job["id"], 2**62)
            if sequence <= last:
                yield f"{job['id']}: event {sequence} after event {last}"
            if sequence not in events or events[sequence]["kind"] != entry["what"]:
                yield f"{job['id']}: a watcher got {entry['what']} as event {sequence}, which is not stored as such"
            missed = [n for n in range(last + 1, sequence) if n in events and events[n]["superseded_by"] is None]
            if missed:
                yield f"{job['id']}: a watcher got event {sequence} after {last} without {missed}"
            last = sequence
        if found.not_over is None and last != max(events, default=0):
            yield f"{job['id']}: a watcher's stream ended at event {last} of {max(events, default=0)}"


def nothing_is_left_behind(found: Evidence) -> Iterator[str]:
    """After a stop there is no process, and no file or folder that the database does not refer to."""
    if found.outcome.processes:
        yield f"processes still run: {found.outcome.processes}"
    for path in found.outcome.left:
        yield f"left: {path}"


def a_deployed_digest_traces_back_to_its_job(found: Evidence) -> Iterator[str]:
    """Each version names an artifact that is there with this digest, made by the job that names the version."""
    rows = found.outcome.rows
    jobs = {job["id"]: job for job in found.jobs}
    for version in rows["versions"]:
        name = f"models/{version['model']}/versions/{version['number']}"
        manifest = found.outcome.artifacts.get(version["artifact_uri"].rpartition("/")[2])
        if manifest is None or manifest["sha256"] != version["manifest_sha256"]:
            yield f"{name}: its artifact is not there, or is another one"
        elif manifest["job"] != version["job"] or manifest["spec"] != jobs[version["job"]]["spec"]:
            yield f"{name}: its artifact is of job {manifest['job']}, the registry says {version['job']}"
        elif jobs[version["job"]]["model_version"] != name:
            yield f"{name}: its job {version['job']} has made {jobs[version['job']]['model_version']}"
    for job in found.jobs:
        wanted = job["state"] == "SUCCEEDED" and job["spec"].get("publish") is not None
        made = [version for version in rows["versions"] if version["job"] == job["id"]]
        if len(made) != wanted:
            yield f"{job['id']} is {job['state']} and has made {len(made)} versions"


def capacity_and_quotas_are_never_exceeded(found: Evidence) -> Iterator[str]:
    """At no time do more workers belong to attempts than the cluster has, nor more jobs of a user run than may.

    By stored times, which say nothing where the clock was set back.
    """
    if any(action.do == "clock" and float(action.what) < 0 for action in found.plan.actions):
        return
    jobs = {job["number"]: job for job in found.jobs}
    changes: list[tuple[float, int, Row]] = []
    for attempt in found.outcome.rows["attempts"]:
        job = jobs[attempt["job_number"]]
        changes.append((attempt["start_time"], 1, job))
        if attempt["end_time"] is not None:
            changes.append((attempt["end_time"], -1, job))
    workers, running = 0, Counter[str]()
    for time, change, job in sorted(changes, key=lambda each: each[:2]):
        workers += change * job["spec"]["workers"]["count"]
        running[job["user"]] += change
        if workers > WORKERS:
            yield f"{workers} workers at {time:.3f}, of {WORKERS}"
        if running[job["user"]] > JOBS_OF_A_USER:
            yield f"{running[job['user']]} jobs of {job['user']} at {time:.3f}, of {JOBS_OF_A_USER}"


INVARIANTS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    no_acknowledged_submit_is_lost,
    one_job_for_each_request_id,
    only_legal_transitions,
    terminal_is_final,
    every_job_comes_to_the_end_that_was_asked_for,
    at_most_one_live_attempt_writes,
    metric_history_is_that_of_an_undisturbed_job,
    weights_and_statistics_are_those_of_an_undisturbed_job,
    an_attempt_goes_on_from_the_newest_checkpoint,
    a_job_gives_way_only_to_one_of_higher_priority,
    every_listed_checkpoint_verifies,
    streams_are_ordered_and_resumable,
    nothing_is_left_behind,
    a_deployed_digest_traces_back_to_its_job,
    capacity_and_quotas_are_never_exceeded,
)


def violations(found: Evidence) -> list[dict[str, Any]]:
    """Every violation of a history."""
    return [
        {"seed": found.plan.seed, "invariant": check.__name__, "says": says}
        for check in INVARIANTS
        for says in check(found)
    ]
