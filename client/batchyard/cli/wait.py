"""job wait: for scripts that go on when a job has come far enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchyard.cli.failures import FAILED, TIMED_OUT, Failure
from batchyard.cli.names import job_id
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import for_people, print_json

if TYPE_CHECKING:
    from batchyard.client import Client, Event

CONDITIONS = ("succeeded", "ended", "running", "first-step", "paused")


@click.command(
    epilog=examples(
        "batchyard job wait digits-mlp-3f2a && batchyard predict digits digit.png",
        "batchyard job wait ID --for first-step --timeout 30",
        "batchyard job wait ID --for ended; case $? in 0) ... ;; 5) echo 'still at it' ;; esac",
    )
)
@job_id
@click.option(
    "--for",
    "condition",
    type=click.Choice(CONDITIONS),
    default="succeeded",
    show_default=True,
    help="succeeded; ended, however; running; first-step: a step is done; paused: now.",
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Wait no longer.")
@as_json
@connects()
def wait(name: str, condition: str, timeout: float | None, as_json: bool, connection: Connection) -> None:
    """Wait until a job has come to a point.

    Exit code 0 when it has, 1 when it has ended without, 5 when the time is up.
    """
    from batchyard.client import WaitTimeoutError, plain, state_name

    with connection.open() as client:
        try:
            reached = _wait(client, client.job(name).name, condition, timeout)
        except WaitTimeoutError as error:
            raise Failure(
                error.message, f"Go on with `batchyard job wait {name} --for {condition}`.", TIMED_OUT
            ) from None
        job = client.job(name)
    state = state_name(job)
    if as_json:
        print_json(plain(job))
    elif reached:
        click.echo(f"{name}: {state.lower()}." if for_people() else state)
    if not reached:
        hint = job.failure.next_step or f"See `batchyard job logs {name}`."
        raise Failure(f"{name} is {state} and will not be {condition}", hint, FAILED)


def _wait(client: Client, name: str, condition: str, timeout: float | None) -> bool:
    """Whether the condition came true; False when the job ended before."""
    from batchyard.client import StateChange, StepMetrics

    kinds = (StateChange, StepMetrics) if condition == "first-step" else (StateChange,)
    cursor = ""
    if condition == "paused":  # an earlier pause that is over does not count
        before = list(client.watch(name, kinds=kinds, history_only=True))
        cursor = before[-2].cursor if len(before) > 1 else ""
    return any(_meets(event, condition) for event in client.watch(name, cursor=cursor, kinds=kinds, timeout=timeout))


def _meets(event: Event, condition: str) -> bool:
    from batchyard.client import StateChange, TrainingJob

    if not isinstance(event.detail, StateChange):
        return condition == "first-step"
    if condition == "ended":
        return event.ends_job
    wanted = {"succeeded": TrainingJob.SUCCEEDED, "running": TrainingJob.RUNNING, "paused": TrainingJob.PAUSED}
    return wanted.get(condition) == event.detail.state
