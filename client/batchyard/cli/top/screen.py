"""A survey as a screen of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batchyard.cli.output import ABSENT, clean, share, span, with_room
from batchyard.cli.sparkline import Course
from batchyard.cli.top.survey import Survey, Traffic
from batchyard.client import TrainingJob, state_name

COURSE = 16
"""Characters of a loss's course."""
BAR = 12
_JOBS = ("job", "state", "bar", "progress", "loss", "course", "accuracy", "samples/s", "left")
_UNTITLED = ("bar", "course")
_SPARE = ("bar", "course", "samples/s", "accuracy", "rows a batch", "failures/s", "queued ms")
"""What a narrow terminal does without."""
_MODELS = ("model", "version", "requests/s", "failures/s", "request ms", "queued ms", "rows a batch")


def draw(survey: Survey, courses: dict[str, Course], width: int) -> RenderableType:
    """The whole screen, for a terminal of `width` characters."""
    head = Text(
        f"control {clean(survey.control)}   inference {clean(survey.inference)}\n{_counts(survey)}", style="dim"
    )
    parts: list[RenderableType] = [head]
    jobs = (*survey.active, *survey.ended)
    if jobs:
        rows = [_job(job, courses.get(job.name)) for job in jobs]
        parts.append(_table(_JOBS, [[row[column] for column in _JOBS] for row in rows], width))
    if survey.traffic:
        parts.append(_table(_MODELS, [_model(each) for each in survey.traffic], width))
    return Group(*parts)


def lines(survey: Survey) -> Iterator[str]:
    """The same for a pipe: a line for each thing, tabs between its fields, what it is first."""
    yield f"control\t{clean(survey.control)}"
    yield f"inference\t{clean(survey.inference)}"
    shown = [column for column in _JOBS if column not in _UNTITLED]
    for job in (*survey.active, *survey.ended):
        row = _job(job, None)
        yield "\t".join(("job", *(row[column] for column in shown)))
    for each in survey.traffic:
        yield "\t".join(("model", *_model(each)))


def _counts(survey: Survey) -> str:
    return "  ".join(f"{state.lower()} {count}" for state, count in sorted(survey.counts.items())) or "no jobs yet"


def _job(job: TrainingJob, course: Course | None) -> dict[str, str]:
    """By column."""
    progress, steps = job.progress, job.progress.steps or job.spec.steps
    done = round(BAR * progress.step / steps) if steps else 0
    left = progress.remaining.ToTimedelta().total_seconds() if progress.HasField("remaining") else None
    return {
        "job": job.name.removeprefix("trainingJobs/"),
        "state": state_name(job).lower(),
        "bar": "█" * done + "░" * (BAR - done),
        "progress": f"{progress.step:,}/{steps:,}",
        "loss": f"{progress.loss:.4g}" if progress.HasField("loss") else ABSENT,
        "course": course.line(COURSE) if course else "",
        "accuracy": share(progress.evaluation_accuracy) if progress.HasField("evaluation_accuracy") else ABSENT,
        "samples/s": f"{progress.samples_per_second:,.0f}" if progress.HasField("samples_per_second") else ABSENT,
        "left": ABSENT if left is None else span(left),
    }


def _model(traffic: Traffic) -> list[str]:
    numbers = (
        (traffic.requests_per_second, ",.0f"),
        (traffic.failures_per_second, ",.1f"),
        (traffic.request_ms, ".2f"),
        (traffic.queue_ms, ".2f"),
        (traffic.batch, ".1f"),
    )
    cells = (ABSENT if number is None else format(number, form) for number, form in numbers)
    return [traffic.model, traffic.version, *cells]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    shown = with_room(columns, rows, width, [column for column in _SPARE if column in columns])
    for column in (columns[at] for at in shown):
        numeric = column.endswith(("/s", "ms", "batch", "left", "accuracy"))
        justify: Literal["right", "left"] = "right" if numeric else "left"
        name = column in ("job", "model")  # folded rather than cut, where there is no room even for it
        title = "" if column in _UNTITLED else column
        table.add_column(title, justify=justify, no_wrap=not name, overflow="fold" if name else "ellipsis")
    for row in rows:
        table.add_row(*(Text(row[at]) for at in shown))
    return table
