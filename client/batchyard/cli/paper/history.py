"""What the analyses ask of a finished job: series over steps, from the history that the client reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from batchyard.client import Event
from batchyard.client.history import Point, Points, history

Series = list[tuple[int, float]]
"""(step, value), steps ascending."""
LAST = "/p85"
"""Ends the name of a quantity that every point of every layer has."""


@dataclass(frozen=True, kw_only=True)
class LayerPoint:
    """Activation statistics of one layer at one step, over all its units."""

    step: int
    p15: float
    p50: float
    p85: float
    saturated: float
    bias_norm: float | None = None
    """L2 norm of the bias that the layer's normalisation takes away again; None where there is none."""


@dataclass(kw_only=True)
class History:
    """One finished run."""

    job: str = ""
    """The job's id."""
    state: str = "SUCCEEDED"
    diverged: str = ""
    """Why training ended early, if its loss was no longer finite."""
    model_version: str = ""
    loss: Series = field(default_factory=list)
    """Of training, means since the point before."""
    step_seconds: Series = field(default_factory=list)
    accuracy: Series = field(default_factory=list)
    """On held-out data, in [0, 1]."""
    layers: dict[str, list[LayerPoint]] = field(default_factory=dict)
    """By the layer's name, in the network's order."""

    @classmethod
    def of(cls, job: str, events: Iterable[Event]) -> History:
        """From the events of `job`, to their end."""
        points = history(events)
        return cls(
            job=job,
            loss=points.series("train/loss"),
            step_seconds=points.series("train/step_seconds"),
            accuracy=points.series("evaluation/accuracy"),
            layers=_layers(points),
        )

    @property
    def best_accuracy(self) -> float:
        """The highest that was measured; 0 where none was."""
        return max((value for _, value in self.accuracy), default=0.0)

    @property
    def final_accuracy(self) -> float:
        """At the last measurement; 0 where there was none."""
        return self.accuracy[-1][1] if self.accuracy else 0.0

    @property
    def step_milliseconds(self) -> float:
        """Median over the metric points, the first left out: it pays for everything that happens once."""
        later = [seconds for step, seconds in self.step_seconds if step > 1]
        return 1e3 * median(later) if later else 0.0

    def steps_to(self, accuracy: float) -> int | None:
        """The first measured step with at least this accuracy on held-out data; None: never reached."""
        return next((step for step, value in self.accuracy if value >= accuracy), None)


def _layers(points: Points) -> dict[str, list[LayerPoint]]:
    found: dict[str, list[LayerPoint]] = {}
    for name in points.names():
        if name.endswith(LAST):
            layer = name.removesuffix(LAST)
            found[layer.removeprefix("layers/")] = [_point(point, layer) for point in points if name in point.values]
    return found


def _point(point: Point, layer: str) -> LayerPoint:
    p15, p50, p85, saturated = (point.values[f"{layer}/{name}"] for name in ("p15", "p50", "p85", "saturated"))
    bias_norm = point.values.get(f"{layer}/bias_norm")
    return LayerPoint(step=point.step, p15=p15, p50=p50, p85=p85, saturated=saturated, bias_norm=bias_norm)
