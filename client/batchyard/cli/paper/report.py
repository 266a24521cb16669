"""Writes a report: README.md with its plots, and numbers.json with everything that they show."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from batchyard.cli.paper import plots
from batchyard.cli.paper.experiment import Analysis, Experiment, Run, Table
from batchyard.cli.paper.history import History

PAGE, NUMBERS = "README.md", "numbers.json"


def write(
    experiment: Experiment,
    runs: Sequence[Run],
    histories: Mapping[str, History],
    measured: Mapping[str, Any],
    folder: Path,
    *,
    quick: bool,
) -> Path:
    """Writes the report into `folder`, which is made; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    analysis = experiment.analyse(histories, measured)
    for figure in analysis.figures:
        plots.draw(figure, folder)
    (folder / NUMBERS).write_text(_json(experiment, runs, histories, analysis, measured, quick=quick))
    page = folder / PAGE
    page.write_text(_page(experiment, runs, histories, analysis, quick=quick))
    return page


def _page(
    experiment: Experiment, runs: Sequence[Run], histories: Mapping[str, History], analysis: Analysis, *, quick: bool
) -> str:
    findings = Table(
        columns=("claim", "the paper", "here", "came out"),
        rows=[(f.claim, f.paper, f.ours, "yes" if f.came_out else "**no**") for f in analysis.findings],
    )
    command = f"batchyard paper {experiment.name}{' --quick' if quick else ''}"
    parts = [
        f"# {experiment.title}",
        f"{experiment.about} Made by `{command}`; the numbers are in [{NUMBERS}]({NUMBERS}).",
        "## What came out",
        table(findings),
        "## Numbers",
        table(analysis.table),
        *(f"![{figure.caption}]({figure.name}.png)\n\n*{figure.caption}*" for figure in analysis.figures),
        "## What differs from the paper",
        "\n".join(f"- {sentence}" for sentence in analysis.differs),
        "## The jobs",
        *(_job(run, histories[run.key]) for run in runs),
        f"{_machine()['text']}, {datetime.now(UTC):%Y-%m-%d}, batchyard {version('batchyard')}.",
    ]
    return "\n\n".join(parts) + "\n"


def _job(run: Run, history: History) -> str:
    end = f"; ended early: {history.diverged}" if history.diverged else ""
    return (
        f"{run.label}{end}:\n\n```yaml\n{yaml.safe_dump(dict(run.spec), sort_keys=False, default_flow_style=None)}```"
    )


def table(given: Table) -> str:
    """As Markdown."""
    lines = [given.columns, ["---"] * len(given.columns), *given.rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _json(
    experiment: Experiment,
    runs: Sequence[Run],
    histories: Mapping[str, History],
    analysis: Analysis,
    measured: Mapping[str, Any],
    *,
    quick: bool,
) -> str:
    document = {
        "experiment": experiment.name,
        "quick": quick,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": _machine(),
        "findings": [dataclasses.asdict(finding) for finding in analysis.findings],
        "numbers": analysis.numbers,
        "measured": measured,
        "runs": [{"key": run.key, "label": run.label, "spec": run.spec, **_series(histories[run.key])} for run in runs],
    }
    return json.dumps(_rounded(document), allow_nan=False) + "\n"


def _series(history: History) -> dict[str, Any]:
    series = {name: getattr(history, name) for name in ("loss", "step_seconds", "accuracy")}
    layers = {
        name: {field.name: [getattr(point, field.name) for point in points] for field in dataclasses.fields(points[0])}
        for name, points in history.layers.items()
    }
    return {"state": history.state, "diverged": history.diverged, **series, "layers": layers}


def _rounded(value: Any) -> Any:
    """The same with numbers of six digits: what a plot can show, in a file half as long. Null where not finite."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return value


def _machine() -> dict[str, Any]:
    """Of the command, which is that of the service where both run on one machine; no host name."""
    cores = len(os.sched_getaffinity(0))
    return {"cores": cores, "arch": platform.machine(), "text": f"{cores} cores, {platform.machine()}"}
