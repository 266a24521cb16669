"""submit, jobs, and job show, watch, cancel."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from batchyard.cli.failures import FAILED, INTERRUPTED, Failure
from batchyard.cli.names import job_id
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import ABSENT, for_people, print_facts, print_json, print_table, rich_table, share, span, when
from batchyard.cli.plan import plan

if TYPE_CHECKING:
    from batchyard.client import Client, TrainingJob

STATES = ("QUEUED", "STARTING", "RUNNING", "PAUSING", "PAUSED", "CANCELLING", "SUCCEEDED", "FAILED", "CANCELLED")


@click.command(
    epilog=examples(
        "batchyard submit examples/digits-mlp.yaml --follow",
        "batchyard submit job.yaml --set steps=5000 --set optimizer.learning_rate=0.5",
        "echo '{name: try, model: {architecture: mlp}, data: {dataset: digits}, steps: 100}' | batchyard submit -",
    )
)
@click.argument("file")
@click.option("--follow", "-f", is_flag=True, help="Watch it to its end. Ctrl-C stops watching, not the job.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Replace a value, for example steps=500.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="To find it by; may come several times.")
@click.option("--request-id", metavar="UUID", help="Makes repeating safe: the same id with the same job is one job.")
@as_json
@connects()
def submit(
    file: str,
    follow: bool,
    overrides: tuple[str, ...],
    tags: tuple[str, ...],
    request_id: str | None,
    as_json: bool,
    connection: Connection,
) -> None:
    """Submit the training job in FILE (YAML; - reads standard input)."""
    from batchyard.client import plain, read_job

    source = sys.stdin.read() + "\n" if file == "-" else file
    spec = read_job(source, [parse_override(each) for each in overrides])
    with connection.open() as client:
        created = client.submit(spec, request_id=request_id, tags=tags)
        if follow:
            _follow(client, created.name, as_json)
        elif as_json:
            print_json(plain(created))
        elif for_people():
            click.echo("\n".join(plan(created)))
        else:
            click.echo(_id(created))


@click.command(epilog=examples("batchyard jobs", "batchyard jobs --state RUNNING", "batchyard jobs | cut -f1"))
@click.option("--state", "states", multiple=True, type=click.Choice(STATES, case_sensitive=False), help="Only these.")
@click.option("--watch", "-w", is_flag=True, help="Look again every second; Ctrl-C ends it.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most this many, newest first.")
@as_json
@connects()
def jobs(states: tuple[str, ...], watch: bool, limit: int, as_json: bool, connection: Connection) -> None:
    """List jobs, newest first.

    Id, state, steps, loss, held-out accuracy, published version, age.
    """
    from itertools import islice

    from batchyard.client import TrainingJob, plain

    def find(client: Client) -> list[TrainingJob]:
        return list(islice(client.jobs(TrainingJob.State.Value(state) for state in states), limit))

    if watch and (as_json or not for_people()):
        raise click.UsageError("--watch redraws a terminal; expected no --json and no pipe: see `batchyard job watch`")
    with connection.open() as client:
        if watch:
            return _redraw(lambda: find(client))
        found = find(client)
    if as_json:
        return print_json([plain(each) for each in found])
    print_table(_COLUMNS, map(_row, found), none=_NONE, spare=_SPARE)
    return None


_COLUMNS = ("job", "state", "steps", "loss", "accuracy", "published", "created")
_SPARE = ("created", "loss", "accuracy", "published")
"""What a narrow terminal does without."""
_NONE = "No jobs yet. Submit one: batchyard submit examples/digits-mlp.yaml"


def _redraw(find: Callable[[], list[TrainingJob]]) -> None:
    """The table of jobs, anew every second until Ctrl-C."""
    from rich.live import Live

    try:
        with Live(auto_refresh=False) as live:
            while True:
                table = rich_table(_COLUMNS, map(_row, find()), width=live.console.width, spare=_SPARE)
                live.update(table, refresh=True)
                time.sleep(1)
    except KeyboardInterrupt:
        return


@click.group()
def job() -> None:
    """Show, watch or cancel one job, or read its log."""


@job.command(epilog=examples("batchyard job show digits-mlp-3f2a", "batchyard job show ID --json | jq .spec"))
@job_id
@as_json
@connects()
def show(name: str, as_json: bool, connection: Connection) -> None:
    """Everything known of a job."""
    from batchyard.client import plain

    with connection.open() as client:
        found = client.job(name)
    if as_json:
        print_json(plain(found))
    else:
        print_facts(_facts(found))


@job.command(epilog=examples("batchyard job watch digits-mlp-3f2a", "batchyard job watch ID --json"))
@job_id
@as_json
@connects()
def watch(name: str, as_json: bool, connection: Connection) -> None:
    """Follow a job to its end, from its beginning. Ctrl-C stops watching, not the job."""
    with connection.open() as client:
        _follow(client, client.job(name).name, as_json)


@job.command(epilog=examples("batchyard job cancel digits-mlp-3f2a"))
@job_id
@click.option("--wait", is_flag=True, help="Return only when every process of the job is gone.")
@as_json
@connects()
def cancel(name: str, wait: bool, as_json: bool, connection: Connection) -> None:
    """Stop a job."""
    from batchyard.client import plain, state_name

    with connection.open() as client:
        found = client.cancel(name)
        if wait:
            found = client.wait(name)
    if as_json:
        print_json(plain(found))
    else:
        click.echo(f"{_id(found)} is {state_name(found).lower()}." if for_people() else state_name(found))


def _follow(client: Client, name: str, as_json: bool) -> None:
    """Shows the job's events to its end. Raises Failure unless it SUCCEEDED, or when the user stops watching."""
    from batchyard.cli.follow import follow

    identity = name.removeprefix("trainingJobs/")
    try:
        ended = follow(client, name, as_json)
    except KeyboardInterrupt:
        back = f"Come back with `batchyard job watch {identity}`; stop it with `batchyard job cancel {identity}`."
        raise Failure(f"no longer watching; {identity} goes on", back, INTERRUPTED) from None
    raise_unless_succeeded(ended)


def raise_unless_succeeded(job: TrainingJob) -> None:
    """Raises Failure, with the job's own reason, for one that FAILED or was CANCELLED."""
    from batchyard.client import TrainingJob

    if job.state == TrainingJob.FAILED:
        cause = f"{_id(job)} failed: {job.failure.cause or 'no cause was given'}"
        raise Failure(cause, job.failure.next_step or f"See `batchyard job logs {_id(job)}`.", FAILED)
    if job.state == TrainingJob.CANCELLED:
        raise Failure(f"{_id(job)} was cancelled", "Submit it again to start over.", FAILED)


def parse_override(given: str) -> tuple[str, str]:
    """PATH=VALUE as a pair. Raises UsageError."""
    path, equals, value = given.partition("=")
    if not (path and equals) or not all(path.split(".")):
        raise click.UsageError(f"--set: {given!r} given; expected PATH=VALUE, for example steps=500")
    return path, value


def _id(job: TrainingJob) -> str:
    return job.name.removeprefix("trainingJobs/")


def _row(job: TrainingJob) -> tuple[str, ...]:
    from batchyard.client import state_name

    progress = job.progress
    return (
        _id(job),
        state_name(job),
        _steps(job),
        f"{progress.loss:.4g}" if progress.HasField("loss") else ABSENT,
        share(progress.evaluation_accuracy) if progress.HasField("evaluation_accuracy") else ABSENT,
        _version(job) or ABSENT,
        when(job.create_time),
    )


def _steps(job: TrainingJob) -> str:
    """3/10; 0/3 epochs before the job has told how many steps they are."""
    steps = job.progress.steps or job.spec.steps
    return f"{job.progress.step}/{steps}" if steps else f"0/{job.spec.epochs} epochs"


def _version(job: TrainingJob) -> str:
    """models/mnist/versions/3 as mnist/3."""
    return job.model_version.removeprefix("models/").replace("/versions/", "/")


_FAILURES = {
    1: "user: the spec or the data, so that a retry would fail again",
    2: "infrastructure: a process or a machine",
    3: "preempted: taken away for other work",
}
"""What Failure.Class tells people."""


def _facts(job: TrainingJob) -> list[tuple[str, str]]:
    from batchyard.client import plain, state_name

    progress, spec = job.progress, plain(job.spec)
    facts: list[tuple[str, str]] = [
        ("job", _id(job)),
        ("state", state_name(job)),
        ("user", job.user),
        ("tags", " ".join(job.tags)),
        ("note", job.note),
        ("failed because", job.failure.cause),
        ("whose failure", _FAILURES.get(job.failure.failure_class, "")),
        ("what to do", job.failure.next_step),
        ("step", _steps(job)),
        ("loss", f"{progress.loss:.4g}" if progress.HasField("loss") else ""),
        ("training accuracy", share(progress.accuracy) if progress.HasField("accuracy") else ""),
        ("held-out accuracy", share(progress.evaluation_accuracy) if progress.HasField("evaluation_accuracy") else ""),
        ("samples/s", f"{progress.samples_per_second:,.0f}" if progress.HasField("samples_per_second") else ""),
        ("remaining", span(progress.remaining.ToTimedelta().total_seconds()) if progress.HasField("remaining") else ""),
        ("checkpoint", f"step {progress.checkpoint_step}" if progress.HasField("checkpoint_step") else ""),
        ("published", _version(job)),
        ("attempt", str(job.attempt)),
        ("created", when(job.create_time)),
        ("started", when(job.start_time) if job.HasField("start_time") else ""),
        ("ended", when(job.end_time) if job.HasField("end_time") else ""),
    ]
    return facts + [(f"spec.{key}", compact(value)) for key, value in spec.items() if key != "name"]


def compact(value: Any) -> str:
    """A part of a spec on one line, as YAML may be written."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {compact(part)}" for key, part in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
