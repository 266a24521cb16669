"""What an experiment is, and what its analysis gives: plain data, no drawing, no service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchyard.cli.paper.history import History

if TYPE_CHECKING:
    from pathlib import Path

    from batchyard.client import Client

CHANCE = 0.1
"""Accuracy of guessing one of ten classes."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One job of an experiment."""

    key: str
    """What the analysis calls it."""
    label: str
    """What people call it."""
    spec: Mapping[str, Any]
    """A job file's mapping, without `name`."""
    may_diverge: bool = False
    """A loss that is no longer finite is a result of this run, not a failure of the experiment."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim of the paper, beside what came out here."""

    claim: str
    paper: str
    ours: str
    came_out: bool


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve over steps."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: int = 0
    """Number in the palette: the same run has the same one in every panel."""
    low: Sequence[float] | None = None
    """With `high`: a band around the curve."""
    high: Sequence[float] | None = None
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    lines: Sequence[Line]
    x: str = "training steps"
    y: str = ""
    log_y: bool = False
    level: tuple[float, str] | None = None
    """A horizontal line, and what it is."""
    points: bool = False
    """Separate points instead of curves."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One picture: panels in rows of `columns`, all of a row with one y axis where `shared_y`."""

    name: str
    """Of its file, without ending."""
    caption: str
    panels: Sequence[Panel]
    columns: int = 2
    shared_y: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under headings."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What an experiment shows."""

    findings: Sequence[Finding]
    table: Table
    figures: Sequence[Figure]
    differs: Sequence[str]
    """Sentences: what is not as it was in the paper."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready: what the findings were read from."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment of the paper."""

    name: str
    title: str
    about: str
    """Markdown: which part of the paper, and what is compared."""
    runs: Callable[[bool], Sequence[Run]]
    """The jobs, for a quick (True) or a full experiment."""
    analyse: Callable[[Mapping[str, History], Mapping[str, Any]], Analysis]
    """From the runs' histories by key, and what `measure` gave."""
    measure: Callable[[Client, Mapping[str, History], Path], Mapping[str, Any]] | None = None
    """What to ask the service once all runs have succeeded, with the held-out images of --test; JSON-ready."""
    one_at_a_time: bool = False
    """Whether the runs' speed is compared: then none may share the machine with another."""


def line(label: str, series: Sequence[tuple[int, float]], colour: int, *, dashed: bool = False) -> Line:
    """A series as a curve."""
    return Line(label=label, xs=[s for s, _ in series], ys=[v for _, v in series], colour=colour, dashed=dashed)


def percent(value: float) -> str:
    """A share in [0, 1] for people."""
    return f"{value:.1%}"


def steps(value: int | None) -> str:
    """A number of steps for people; None was never reached."""
    return "never" if value is None else f"{value:,}"
