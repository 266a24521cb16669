"""job explain: why a job is where it is, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchyard.cli.names import job_id
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import counted, print_facts, print_json, when

if TYPE_CHECKING:
    from batchyard.client import TrainingJobExplanation
    from batchyard.v1.training_pb2 import AttemptSummary, Queueing

AHEAD = 10
"""Jobs ahead that people are shown."""


@click.command(
    epilog=examples("batchyard job explain digits-mlp-3f2a", "batchyard job explain ID --json | jq .queueing")
)
@job_id
@as_json
@connects()
def explain(name: str, as_json: bool, connection: Connection) -> None:
    """Say why a job is where it is, and what to do next.

    For one that waits: which jobs are ahead, what it needs and what the cluster has, until when a retry backs off.
    For any: its attempts, how they ended, and its newest checkpoint.
    """
    from batchyard.client import plain

    with connection.open() as client:
        found = client.explain(name)
    if as_json:
        print_json(plain(found))
    else:
        print_facts(_facts(found))


def _facts(found: TrainingJobExplanation) -> list[tuple[str, str]]:
    from batchyard.client import TrainingJob

    checkpoint = f"step {found.checkpoint.step}, {found.checkpoint.uri}" if found.HasField("checkpoint") else ""
    return [
        ("job", found.name.removeprefix("trainingJobs/")),
        ("state", TrainingJob.State.Name(found.state)),
        ("why", found.summary),
        ("next", found.next_step),
        *(_queueing(found.queueing) if found.HasField("queueing") else []),
        ("checkpoint", checkpoint),
        *((f"attempt {each.number}", _attempt(each)) for each in found.attempts),
    ]


def _queueing(queue: Queueing) -> list[tuple[str, str]]:
    from batchyard.v1.training_pb2 import Queueing

    ahead = [
        f"{place.name.removeprefix('trainingJobs/')} (priority {place.priority}, {_amount(place.needs)}, "
        f"{Queueing.Verdict.Name(place.verdict).lower().replace('_', ' ')})"
        for place in queue.ahead[:AHEAD]
    ]
    left = queue.position - 1 - len(ahead)
    cluster = f"{_amount(queue.cluster)}; in use: {_amount(queue.used)}" if queue.HasField("cluster") else "silent"
    return [
        ("place in the queue", str(queue.position)),
        ("priority", str(queue.priority)),
        ("needs", _amount(queue.needs)),
        ("cluster", cluster),
        ("fits the cluster", ("yes" if queue.fits else "no") if queue.HasField("fits") else ""),
        ("its user", _share(queue.share) if queue.HasField("share") else ""),
        ("makes way", "\n".join(name.removeprefix("trainingJobs/") for name in queue.giving_way)),
        ("tried again at", queue.retry_time.ToJsonString() if queue.HasField("retry_time") else ""),
        ("ahead", "\n".join(ahead + ([f"and {left} more"] if left else []))),
    ]


def _amount(given: Queueing.Resources) -> str:
    return f"{counted(given.workers, 'worker')}, {counted(given.gpus, 'GPU')}"


def _share(given: Queueing.UserShare) -> str:
    jobs = counted(given.most_jobs, "job") if given.HasField("most_jobs") else ""
    workers = counted(given.most_workers, "worker") if given.HasField("most_workers") else ""
    gpus = counted(given.most_gpus, "GPU") if given.HasField("most_gpus") else ""
    may = ", ".join(filter(None, (jobs, workers, gpus)))
    return f"{given.user or 'not named'}: runs {counted(given.jobs, 'job')}, {_amount(given.used)}; may run {may}"


def _attempt(given: AttemptSummary) -> str:
    from batchyard.v1.training_pb2 import Failure

    failed = f" ({Failure.Class.Name(given.failure_class).lower()})" if given.failure_class else ""
    began = f"began {when(given.start_time)}"
    ended = f"ended {when(given.end_time)}" if given.HasField("end_time") else ""
    at = ""
    if given.HasField("resumed_step"):
        at = f"from step {given.resumed_step}" if given.resumed_step else "from the beginning"
    way = f"gave way to {given.preempted_by.removeprefix('trainingJobs/')}" if given.preempted_by else ""
    return ", ".join(filter(None, (f"{given.outcome or 'runs'}{failed}", way, at, began, ended)))
