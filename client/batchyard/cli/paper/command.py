"""The `paper` command."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchyard.cli.options import Connection, connects, examples

if TYPE_CHECKING:
    from batchyard.cli.paper.experiment import Experiment

EXPERIMENTS = {
    "figure1": "MNIST, three layers of 100 sigmoids: accuracy and activations, with and without BN.",
    "speedup": "CIFAR-10: learning rates x1, x5 and x30, with and without BN.",
}
"""Modules of this package, and what each shows."""


@click.command(epilog=examples("batchyard paper figure1 --quick", "batchyard paper speedup --out report/speedup"))
@click.argument("experiment", type=click.Choice(list(EXPERIMENTS)))
@click.option("--quick", is_flag=True, help="Smaller networks or fewer steps: under 10 minutes on 2 cores.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="[paper/EXPERIMENT]")
@connects(inference=True)
def paper(experiment: str, quick: bool, out: Path | None, connection: Connection) -> None:
    """Repeat an experiment of the paper on this service, and write a report that sets both side by side.

    The jobs are ordinary ones: `batchyard jobs` lists them. An interrupt cancels those that have not ended.
    """
    from batchyard.cli.paper import plots, report, running

    plots.require()
    chosen = _load(experiment)
    runs = chosen.runs(quick)
    with connection.open() as client:
        histories = running.carry_out(client, chosen, runs)
        measured = chosen.measure(client, histories) if chosen.measure else {}
    page = report.write(chosen, runs, histories, measured, out or Path("paper", experiment), quick=quick)
    for finding in chosen.analyse(histories, measured).findings:
        click.echo(f"{'yes' if finding.came_out else 'NO '}  {finding.claim}: {finding.ours}")
    click.echo(page)


def _load(name: str) -> Experiment:
    found: Experiment = importlib.import_module(f"batchyard.cli.paper.{name}").EXPERIMENT
    return found


paper.help = f"{paper.help}\n\n\b\n" + "\n".join(f"{name:<11} {words}" for name, words in EXPERIMENTS.items())
