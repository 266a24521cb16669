"""job pause and job resume: free the workers of a job and go on later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchyard.cli.failures import FAILED, Failure
from batchyard.cli.names import job_id
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import for_people, print_json

if TYPE_CHECKING:
    from batchyard.client import Client, TrainingJob


@click.command(
    epilog=examples("batchyard job pause digits-mlp-3f2a", "batchyard job pause ID --wait && batchyard down")
)
@job_id
@click.option("--wait", is_flag=True, help="Return only when the checkpoint is written and every process is gone.")
@as_json
@connects()
def pause(name: str, wait: bool, as_json: bool, connection: Connection) -> None:
    """Have a job write a checkpoint and free its workers.

    `batchyard job resume` goes on from there, to the same bits as without the pause.
    """
    from batchyard.client import TrainingJob, state_name

    with connection.open() as client:
        job = client.pause(name)
        if wait:
            job = _until_no_longer_pausing(client, job)
    _show(job, as_json)
    if wait and job.state != TrainingJob.PAUSED:
        what = f"{name} is {state_name(job)}: it was not paused"
        raise Failure(what, f"See `batchyard job show {name}`.", FAILED)


@click.command(
    epilog=examples("batchyard job resume digits-mlp-3f2a", "batchyard job resume ID && batchyard job watch ID")
)
@job_id
@as_json
@connects()
def resume(name: str, as_json: bool, connection: Connection) -> None:
    """Have a paused job go on from its checkpoint, when its turn comes."""
    with connection.open() as client:
        job = client.resume(name)
    _show(job, as_json)


def _until_no_longer_pausing(client: Client, job: TrainingJob) -> TrainingJob:
    from batchyard.client import StateChange, TrainingJob

    if job.state == TrainingJob.PAUSING:
        for _ in client.watch(job.name, kinds=(StateChange,)):
            job = client.job(job.name)
            if job.state != TrainingJob.PAUSING:
                break
    return job


def _show(job: TrainingJob, as_json: bool) -> None:
    from batchyard.client import plain, state_name

    if as_json:
        print_json(plain(job))
    else:
        identity = job.name.removeprefix("trainingJobs/")
        click.echo(f"{identity} is {state_name(job).lower()}." if for_people() else state_name(job))
