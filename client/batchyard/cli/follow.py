"""Showing a job while it runs: a progress bar for people, lines for pipes, JSON lines on request."""

from __future__ import annotations

import json
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import click

from batchyard.cli.output import clean, for_people, share, span
from batchyard.cli.sparkline import Course
from batchyard.client import (
    Client,
    Evaluation,
    Event,
    LogLine,
    PhaseChange,
    Resumed,
    StateChange,
    StepMetrics,
    TrainingJob,
    plain,
)
from batchyard.v1.training_pb2 import Progress

Show = Callable[[Event], None]

_LOOK_UP = 0.5
"""Seconds between looks for an interrupt that came just before a wait began."""


COURSE = 12
"""Characters that the course of the loss takes, where the terminal is wide enough for it."""
WORDS = 90
"""Characters that what is said in words takes, with numbers of a usual length."""
LEAST_BAR, WIDEST_BAR = 8, 24
"""Characters: what is left for the bar, if anything."""


def follow(client: Client, name: str, as_json: bool = False) -> TrainingJob:
    """Shows every event of a job to its end; returns it as it ended."""
    display = _json_lines if as_json else _bar if for_people() else _lines
    with display() as show:
        for event in interruptible(client.watch(name)):
            show(event)
    return client.job(name)


def interruptible(events: Iterator[Event]) -> Iterator[Event]:
    """The same events, read in another thread: Ctrl-C then finds this one in a plain wait, never inside gRPC, where an
    interrupt at the wrong moment is lost or leaves a lock behind.
    """
    arrived: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for event in events:
                arrived.put(event)
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    threading.Thread(target=read, name="watch", daemon=True).start()
    while True:
        try:
            found = arrived.get(timeout=_LOOK_UP)
        except queue.Empty:
            continue
        if found is None:
            return
        if isinstance(found, BaseException):
            raise found
        yield found


def event_json(event: Event) -> dict[str, Any]:
    """An event as one JSON-ready mapping: cursor, time, attempt, kind, and the fields of that kind."""
    kind = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(event.detail).__name__).removeprefix("_")
    head = {"cursor": event.cursor, "time": event.time.isoformat(), "attempt": event.attempt, "kind": kind}
    return {**head, **plain(event.detail)}


@dataclass
class Standing:
    """Where a job stands, from the events seen so far."""

    attempt: int = 0
    activity: str = "queued"
    step: int = 0
    steps: int = 0
    metrics: StepMetrics | None = None
    evaluation: Evaluation | None = None
    losses: Course = field(default_factory=Course)
    _step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=9))

    def take(self, event: Event) -> None:
        """Moves on to `event`. A new attempt begins afresh."""
        if event.attempt > self.attempt:
            self.attempt, self.step, self.steps, self.metrics, self.evaluation = event.attempt, 0, 0, None, None
            self._step_seconds.clear()
            self.losses.clear()
        match event.detail:
            case StateChange(state=state):
                self.activity = TrainingJob.State.Name(state).lower()
            case PhaseChange(phase=phase):
                self.activity = Progress.Phase.Name(phase).lower()
            case StepMetrics() as metrics:
                self.metrics, self.step, self.steps = metrics, metrics.step, metrics.steps
                self.losses.add(metrics.loss)
                # The first step pays for everything that happens once: it says nothing about the others.
                if metrics.step > 1:
                    self._step_seconds.append(metrics.step_seconds)
            case Evaluation() as evaluation:
                self.evaluation = evaluation
            case Resumed(step=step):
                self.step = step

    @property
    def remaining(self) -> float | None:
        """Seconds of training left at the speed of the last points; None while that is not known."""
        if not self._step_seconds:
            return None
        return (self.steps - self.step) * median(self._step_seconds)

    @property
    def summary(self) -> str:
        """Loss, accuracy, speed and time left in words."""
        eta = "unknown" if self.remaining is None else span(self.remaining)
        if self.metrics is None:
            return f"ETA {eta}"
        m = self.metrics
        return f"loss {m.loss:.4f}  accuracy {share(m.accuracy)}  {m.samples_per_second:,.0f} samples/s  ETA {eta}"


def remark(event: Event) -> str | None:
    """What deserves a line of its own."""
    match event.detail:
        case StateChange(state=state, model_version=version):
            word = TrainingJob.State.Name(state)
            return f"{word} {version.removeprefix('models/').replace('/versions/', '/')}".strip()
        case Evaluation(step=step, accuracy=accuracy, loss=loss, samples=samples):
            return f"step {step}: held-out accuracy {share(accuracy)}, loss {loss:.4f} on {samples:,} samples"
        case Resumed(step=step):
            return f"goes on from step {step}" if step else "begins again at step 0"
        case LogLine(level=level, text=text) if level != "DEBUG":
            return f"{level} {clean(text)}"
    return None


@contextmanager
def _json_lines() -> Iterator[Show]:
    yield lambda event: click.echo(json.dumps(event_json(event), allow_nan=False))


@contextmanager
def _lines() -> Iterator[Show]:
    """One line for each remark, and about twenty for the training itself."""
    standing, shown = Standing(), -1

    def show(event: Event) -> None:
        nonlocal shown
        standing.take(event)
        if words := remark(event):
            click.echo(words)
        elif isinstance(event.detail, StepMetrics):
            twentieth = standing.step * 20 // max(1, standing.steps)
            if twentieth != shown:
                click.echo(f"step {standing.step}/{standing.steps}  {standing.summary}")
            shown = twentieth

    yield show


@contextmanager
def _bar() -> Iterator[Show]:
    from rich import get_console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    words = ["{task.fields[activity]:>10}", "{task.completed:,.0f}/{task.fields[steps]}", "{task.fields[summary]}"]
    width = get_console().width
    if width >= WORDS + COURSE:
        words[-1] = f"{{task.fields[course]}} {words[-1]}"
    first, *others = (TextColumn(column, markup=False) for column in words)
    bar = width - WORDS - COURSE
    standing = Standing()
    with Progress(first, *[BarColumn(bar_width=min(bar, WIDEST_BAR))] * (bar >= LEAST_BAR), *others) as progress:
        task = progress.add_task("", total=None, activity="queued", steps="?", course="", summary=standing.summary)

        def show(event: Event) -> None:
            standing.take(event)
            if said := remark(event):
                progress.console.print(Text(said))
            progress.update(
                task,
                total=standing.steps or None,
                completed=standing.step,
                activity=standing.activity,
                steps=f"{standing.steps:,}" if standing.steps else "?",
                course=standing.losses.line(COURSE),
                summary=standing.summary,
            )

        yield show
