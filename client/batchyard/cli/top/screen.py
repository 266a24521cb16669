"""A survey as a screen of text."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batchyard.cli.output import ABSENT, clean, share, span
from batchyard.cli.sparkline import Course
from batchyard.cli.top.survey import Survey, Traffic
from batchyard.client import TrainingJob, state_name

COURSE = 16
"""Characters of a loss's course."""
BAR = 12


def draw(survey: Survey, courses: dict[str, Course]) -> RenderableType:
    """The whole screen."""
    counts = "  ".join(f"{state.lower()} {count}" for state, count in sorted(survey.counts.items())) or "no jobs yet"
    head = Text(f"control {clean(survey.control)}   inference {clean(survey.inference)}\n{counts}", style="dim")
    parts: list[RenderableType] = [head]
    if survey.active or survey.ended:
        parts.append(_jobs((*survey.active, *survey.ended), courses))
    if survey.traffic:
        parts.append(_models(survey.traffic))
    return Group(*parts)


def _jobs(jobs: tuple[TrainingJob, ...], courses: dict[str, Course]) -> Table:
    table = _table("job", "state", "progress", "", "loss", "", "accuracy", "samples/s", "left")
    for job in jobs:
        progress, steps = job.progress, job.progress.steps or job.spec.steps
        done = progress.step / steps if steps else 0.0
        course = courses.get(job.name)
        left = progress.remaining.ToTimedelta().total_seconds() if progress.HasField("remaining") else None
        table.add_row(
            Text(job.name.removeprefix("trainingJobs/")),
            state_name(job).lower(),
            Text("█" * round(BAR * done) + "░" * (BAR - round(BAR * done))),
            f"{progress.step:,}/{steps:,}",
            f"{progress.loss:.4g}" if progress.HasField("loss") else ABSENT,
            Text(course.line(COURSE) if course else ""),
            share(progress.evaluation_accuracy) if progress.HasField("evaluation_accuracy") else ABSENT,
            f"{progress.samples_per_second:,.0f}" if progress.HasField("samples_per_second") else ABSENT,
            ABSENT if left is None else span(left),
        )
    return table


def _models(traffic: tuple[Traffic, ...]) -> Table:
    table = _table("model", "version", "requests/s", "failures/s", "request ms", "queued ms", "rows a batch")
    for each in traffic:
        numbers = (
            (each.requests_per_second, ",.0f"),
            (each.failures_per_second, ",.1f"),
            (each.request_ms, ".2f"),
            (each.queue_ms, ".2f"),
            (each.batch, ".1f"),
        )
        cells = (ABSENT if number is None else format(number, form) for number, form in numbers)
        table.add_row(Text(each.model), Text(each.version), *cells)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        numeric = column.endswith(("/s", "ms", "batch", "left", "accuracy"))
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    return table
