"""The `paper` command."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchyard.cli.failures import USAGE, Failure
from batchyard.cli.options import Connection, connects, examples

if TYPE_CHECKING:
    from batchyard.cli.paper.experiment import Experiment

EXPERIMENTS = {
    "figure1": "MNIST, three layers of 100 sigmoids: accuracy and activations, with and without BN.",
    "speedup": "CIFAR-10: learning rates x1, x5 and x30, with and without BN.",
    "saturating": "MNIST: deep networks of sigmoids, with and without BN.",
    "naive": "MNIST: normalisation outside the gradient, and after the sigmoid.",
    "whitening": "MNIST: BN beside ZCA and IterNorm, in steps and in time.",
    "ensemble": "CIFAR-10: six networks with BN served as one. Needs --test.",
}
"""Modules of this package, and what each shows."""


@click.command(epilog=examples("batchyard paper figure1 --quick", "batchyard paper speedup --out report/speedup"))
@click.argument("experiment", type=click.Choice(list(EXPERIMENTS)))
@click.option("--quick", is_flag=True, help="Smaller networks or fewer steps: under 10 minutes on 2 cores.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="[paper/EXPERIMENT]")
@click.option(
    "--test",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="ensemble only: NPZ with held-out images as `inputs` [N, 3, 32, 32], 0 to 255, and their `labels` [N].",
)
@connects(inference=True)
def paper(experiment: str, quick: bool, out: Path | None, test: Path | None, connection: Connection) -> None:
    """Repeat an experiment of the paper on this service, and write a report that sets both side by side.

    The jobs are ordinary ones: `batchyard jobs` lists them. An interrupt cancels those that have not ended.
    """
    from batchyard.cli.paper import plots, report, running

    plots.require()
    chosen = _load(experiment)
    if (chosen.measure is None) != (test is None):
        raise click.UsageError(f"{experiment} {'needs --test FILE' if test is None else 'takes no --test'}")
    runs, folder = chosen.runs(quick), out or Path("paper", experiment)
    _make(folder)
    with connection.open() as client:
        histories = running.carry_out(client, chosen, runs)
        measured = chosen.measure(client, histories, test) if chosen.measure and test else {}
    page = report.write(chosen, runs, histories, measured, folder, quick=quick)
    for finding in chosen.analyse(histories, measured).findings:
        click.echo(f"{'yes' if finding.came_out else 'NO '}  {finding.claim}: {finding.ours}")
    click.echo(page)


def _make(folder: Path) -> None:
    """Before hours of training, not after them. Raises Failure."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"{folder}: {error.strerror}", "Name a folder that can be written with --out.", USAGE) from None


def _load(name: str) -> Experiment:
    found: Experiment = importlib.import_module(f"batchyard.cli.paper.{name}").EXPERIMENT
    return found


_LIST = "\n".join(f"{name:<11} {words}" for name, words in EXPERIMENTS.items())
paper.help = f"{inspect.cleandoc(paper.help or '')}\n\n\b\n{_LIST}"
