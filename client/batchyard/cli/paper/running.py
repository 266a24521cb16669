"""Submits an experiment's jobs, shows how they come along, and gathers their histories."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from batchyard.cli.failures import Failure
from batchyard.cli.follow import Standing, interruptible
from batchyard.cli.output import clean, for_people
from batchyard.cli.paper.experiment import Experiment, Run
from batchyard.cli.paper.history import History

if TYPE_CHECKING:
    from batchyard.client import Client, Event, TrainingJob

DIVERGED = "the loss is "
"""How the cause of a job begins whose loss is no longer finite."""


def carry_out(client: Client, experiment: Experiment, runs: Sequence[Run]) -> Mapping[str, History]:
    """The history of every run, by key. All jobs are queued at once unless the experiment compares their speed.

    Raises Failure when a job ends otherwise than its run allows. Jobs that have not ended then, or when interrupted,
    are cancelled: nobody would read them.
    """
    jobs: dict[str, str] = {}
    try:
        if not experiment.one_at_a_time:
            jobs.update({run.key: _submit(client, experiment, run) for run in runs})
        histories = {}
        for number, run in enumerate(runs, start=1):
            if run.key not in jobs:
                jobs[run.key] = _submit(client, experiment, run)
            histories[run.key] = _follow(client, run, jobs[run.key], f"{number}/{len(runs)}")
        return histories
    except BaseException:
        for name in jobs.values():
            with contextlib.suppress(Exception):  # one that has ended
                client.cancel(name)
        raise


def _submit(client: Client, experiment: Experiment, run: Run) -> str:
    name = f"paper-{experiment.name}-{run.key}"
    return client.submit({"name": name, **run.spec}).name


def _follow(client: Client, run: Run, name: str, number: str) -> History:
    with _progress(number, run.label) as show:
        events = _shown(interruptible(client.watch(name)), show)
        history = History.of(name.removeprefix("trainingJobs/"), events)
    job = client.job(name)
    history.state = type(job).State.Name(job.state)
    history.model_version = job.model_version
    if history.state == "FAILED" and run.may_diverge and job.failure.cause.startswith(DIVERGED):
        history.diverged = job.failure.cause
    elif history.state != "SUCCEEDED":
        raise _failure(run, job, history)
    return history


def _failure(run: Run, job: TrainingJob, history: History) -> Failure:
    cause = f": {job.failure.cause}" if job.failure.cause else ""
    hint = job.failure.next_step or f"See `batchyard job logs {history.job}`."
    return Failure(f"{run.label} ({history.job}) is {history.state}{cause}", hint)


def _shown(events: Iterator[Event], show: Callable[[str], None]) -> Iterator[Event]:
    standing = Standing()
    for event in events:
        standing.take(event)
        held_out = f", held-out accuracy {standing.evaluation.accuracy:.2%}" if standing.evaluation else ""
        show(f"{standing.activity}, step {standing.step:,}/{standing.steps:,}{held_out}, {standing.summary}")
        yield event


@contextlib.contextmanager
def _progress(number: str, label: str) -> Iterator[Callable[[str], None]]:
    """People see one line that changes; a pipe gets a line when a run begins and one when it has ended."""
    if not for_people():
        click.echo(f"[{number}] {label}")
        last = ""

        def keep(words: str) -> None:
            nonlocal last
            last = words

        yield keep
        click.echo(f"[{number}] {label}: {clean(last)}")
        return
    from rich.console import Console
    from rich.markup import escape

    with Console().status(escape(f"[{number}] {label}")) as status:
        last_words = ""

        def update(words: str) -> None:
            nonlocal last_words
            last_words = clean(words)
            status.update(escape(f"[{number}] {label}: {last_words}"))

        yield update
    click.echo(f"[{number}] {label}: {last_words}")
