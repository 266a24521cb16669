"""job rerun: the same job again, and whether it came out the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchyard.cli.failures import FAILED, Failure
from batchyard.cli.jobs import parse_override, raise_unless_succeeded
from batchyard.cli.names import job_id
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import for_people, print_json
from batchyard.cli.plan import plan

if TYPE_CHECKING:
    from batchyard.client import Comparison, TrainingJob


@click.command(
    epilog=examples(
        "batchyard job rerun digits-mlp-3f2a --wait",
        "batchyard job rerun ID --set seed=2 --set publish=null",
    )
)
@job_id
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Replace a value, for example seed=2.")
@click.option("--wait", is_flag=True, help="Wait for its end, and say whether the final weights came out equal.")
@as_json
@connects()
def rerun(name: str, overrides: tuple[str, ...], wait: bool, as_json: bool, connection: Connection) -> None:
    """Submit a job's spec again, as a new job.

    It publishes as the first one did: a new version, and the alias moves; --set publish=null keeps it from that.

    With --wait the final weights are compared with those of the first job, which must have SUCCEEDED: bit by bit, those
    published, or else those of the last checkpoint. Exit code 1 when they differ though nothing was set.
    """
    from batchyard.client import TrainingJob, compare_weights, plain, read_job, state_name

    changes = [parse_override(each) for each in overrides]
    with connection.open() as client:
        first = client.job(name)
        if wait and first.state != TrainingJob.SUCCEEDED:
            what = f"--wait compares with a job that has SUCCEEDED; {_id(first)} is {state_name(first)}"
            raise Failure(what, f"Leave --wait out, or see `batchyard job explain {_id(first)}`.", FAILED)
        spec = read_job(plain(first.spec), changes) if changes else first.spec
        again = client.submit(spec, tags=first.tags)
        if not wait:
            return _show(again, as_json)
        again = client.wait(again.name)
        raise_unless_succeeded(again)
        found = compare_weights(client, first, again)
    _tell(first, again, found, as_json)
    if found.equal is False and not changes:
        hint = "GPUs need `deterministic: true`; another CPU or another version of a library may round differently."
        raise Failure(f"{_id(again)} did not come out with the weights of {_id(first)}", hint, FAILED)
    return None


def _show(job: TrainingJob, as_json: bool) -> None:
    from batchyard.client import plain

    if as_json:
        print_json(plain(job))
    else:
        click.echo("\n".join(plan(job)) if for_people() else _id(job))


def _tell(first: TrainingJob, again: TrainingJob, found: Comparison, as_json: bool) -> None:
    from batchyard.client import plain

    if as_json:
        about = {"of": _id(first), "compared": found.of, "equal": found.equal, "sha256": list(found.sha256)}
        return print_json({"job": plain(again), **about})
    verdict = {True: "equal", False: "different", None: "not comparable"}[found.equal]
    if for_people():
        click.echo(f"{_id(again)} against {_id(first)}: {verdict} ({found.of}).")
    else:
        click.echo("\t".join((_id(again), verdict, found.of)))
    return None


def _id(job: TrainingJob) -> str:
    return job.name.removeprefix("trainingJobs/")
