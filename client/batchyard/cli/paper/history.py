"""What a job's events leave to analyse: series over steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from batchyard.client import Evaluation, Event, LayerStatistics, StepMetrics
from batchyard.v1.training_pb2 import Resumed

Series = list[tuple[int, float]]
"""(step, value), steps ascending."""


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

    def take(self, events: Iterable[Event]) -> History:
        """Adds what `events` tell; returns itself."""
        for event in events:
            self._take(event)
        return self

    def _take(self, event: Event) -> None:
        match event.detail:
            case StepMetrics() as m:
                self.loss.append((m.step, m.loss))
                self.step_seconds.append((m.step, m.step_seconds))
            case Evaluation(step=step, accuracy=accuracy):
                self.accuracy.append((step, accuracy))
            case LayerStatistics(step=step, layers=layers):
                for layer in layers:
                    self.layers.setdefault(layer.name, []).append(_point(step, layer))
            case Resumed(step=step):
                self._forget_after(step)

    def _forget_after(self, step: int) -> None:
        """Drops what a new attempt will tell again."""
        for series in (self.loss, self.step_seconds, self.accuracy):
            series[:] = [point for point in series if point[0] <= step]
        for points in self.layers.values():
            points[:] = [point for point in points if point.step <= step]

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


def _point(step: int, layer: LayerStatistics.Layer) -> LayerPoint:
    bias_norm = layer.bias_norm if layer.HasField("bias_norm") else None
    return LayerPoint(
        step=step, p15=layer.p15, p50=layer.p50, p85=layer.p85, saturated=layer.saturated, bias_norm=bias_norm
    )
