"""Draws figures as PNG files. The only file that needs matplotlib, the extra `paper`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchyard.cli.failures import Failure
from batchyard.cli.paper.experiment import Figure, Line, Panel

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Okabe & Ito: distinct for colour-blind readers as well."""
WIDTH, HEIGHT = 5.2, 3.4
"""Inches of a panel."""
DOTS_PER_INCH = 110


def require() -> None:
    """Raises Failure with the command that installs it where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        what = "batchyard paper draws its plots with matplotlib, which is not installed"
        raise Failure(what, "Install it with: pip install 'batchyard[paper]'") from None


def draw(figure: Figure, folder: Path) -> Path:
    """Writes `figure` into `folder`; returns the file's path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns = min(figure.columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    canvas = Canvas(figsize=(WIDTH * columns, HEIGHT * rows), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(canvas)
    grid = canvas.subplots(rows, columns, squeeze=False, sharey="row" if figure.shared_y else False)
    for axes, panel in zip(grid.flat, figure.panels, strict=False):
        _panel(axes, panel)
    for axes in list(grid.flat)[len(figure.panels) :]:
        axes.set_visible(False)
    path = folder / f"{figure.name}.png"
    # No software name or date: the same numbers give the same file.
    canvas.savefig(path, metadata={"Software": None})
    return path


def _panel(axes: Any, panel: Panel) -> None:
    for line in panel.lines:
        _line(axes, line, points=panel.points)
    if panel.level is not None:
        value, words = panel.level
        axes.axhline(value, color="#888888", linewidth=0.9, linestyle=":", label=words)
    axes.set_title(panel.title, fontsize=10.5)
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    if panel.log_y:
        axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.margins(x=0.02)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if any(line.label for line in panel.lines):
        axes.legend(fontsize=8, framealpha=0.9)


def _line(axes: Any, line: Line, *, points: bool) -> None:
    colour = PALETTE[line.colour % len(PALETTE)]
    style = "none" if points else "--" if line.dashed else "-"
    marker = "o" if points or len(line.xs) < 3 else None
    axes.plot(line.xs, line.ys, linestyle=style, color=colour, label=line.label or None, linewidth=1.5, marker=marker)
    if line.low is not None and line.high is not None:
        axes.fill_between(line.xs, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
