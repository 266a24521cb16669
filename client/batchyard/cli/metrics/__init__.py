"""job metrics: what a job measured, as a table, for TensorBoard or for MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchyard.cli.failures import INTERRUPTED, Failure
from batchyard.cli.names import job_id
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import print_json, print_table

if TYPE_CHECKING:
    from batchyard.cli.metrics.sinks import Sink
    from batchyard.client import Client

FORMATS = ("csv", "parquet", "tensorboard", "mlflow")
TRAINING = {
    "train/loss": "loss",
    "train/accuracy": "accuracy",
    "train/learning_rate": "learning rate",
    "train/samples_per_second": "samples/s",
    "evaluation/accuracy": "held-out accuracy",
}
"""What is printed when no file is asked for, and how its columns are headed."""


@click.command(
    epilog=examples(
        "batchyard job metrics digits-mlp-3f2a",
        "batchyard job metrics ID --format csv --output history.csv",
        "batchyard job metrics ID --format tensorboard --follow    # and: tensorboard --logdir runs",
        "batchyard job metrics ID --format mlflow --output http://127.0.0.1:5000",
    )
)
@job_id
@click.option("--format", "form", type=click.Choice(FORMATS), help="Write a file or a run instead of printing.")
@click.option("--output", "-o", metavar="TARGET", help="File, folder (tensorboard) or tracking URI (mlflow).")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@as_json
@connects()
def metrics(
    name: str, form: str | None, output: str | None, follow: bool, as_json: bool, connection: Connection
) -> None:
    """What a job measured, step by step: loss, accuracy, speed, and the activation statistics of every layer.

    What a resume from a checkpoint made void is left out.
    """
    if form is None and output is not None:
        raise click.UsageError(f"--output {output!r} given without --format; expected --format {' | '.join(FORMATS)}")
    with connection.open() as client:
        job = client.job(name)
        if form is None:
            _print(client, job.name, follow, as_json)
            return
        from batchyard.cli.metrics.sinks import SINKS, TARGETS

        identity = job.name.removeprefix("trainingJobs/")
        sink = SINKS[form](output or TARGETS[form].format(job=identity), job)
        _pour(client, job.name, sink, follow)
        where = sink.close(client.job(name))
    if as_json:
        print_json({"job": identity, "format": form, "written": where})
    else:
        click.echo(where)


def _print(client: Client, name: str, follow: bool, as_json: bool) -> None:
    from batchyard.client.history import MEASURING, history

    points = history(client.watch(name, kinds=MEASURING, history_only=not follow))
    if as_json:
        return print_json(list(points.rows()))
    shown = [column for column in TRAINING if column in points.names()]
    rows = [(str(row["step"]), *(_number(row.get(column)) for column in shown)) for row in points.rows()]
    print_table(("step", *(TRAINING[column] for column in shown)), rows, none="Nothing has been measured yet.")
    return None


def _pour(client: Client, name: str, sink: Sink, follow: bool) -> None:
    """Hands every point to the sink. Ctrl-C ends following; what came so far is kept."""
    from batchyard.client.history import MEASURING, point_of
    from batchyard.v1.training_pb2 import Resumed

    try:
        for event in client.watch(name, kinds=MEASURING, history_only=not follow):
            if isinstance(event.detail, Resumed):
                sink.rewind(event.detail.step)
            elif (point := point_of(event)) is not None:
                sink.write(point)
    except KeyboardInterrupt:
        where = sink.close(client.job(name))
        again = f"Run it again for all of it; the job goes on: {name.removeprefix('trainingJobs/')}."
        raise Failure(f"no longer following; so far: {where}", again, INTERRUPTED) from None


def _number(value: float | int | str | None) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
