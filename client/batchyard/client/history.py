"""What a job measured, as rows of numbers: its events put in order, with what a resume made void left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from google.protobuf.message import Message

from batchyard.client.events import Event
from batchyard.v1.training_pb2 import Evaluation, LayerStatistics, Resumed, StepMetrics

MEASURING = (StepMetrics, Evaluation, LayerStatistics, Resumed)
"""The kinds of events that a history is made of."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one event measured."""

    step: int
    time: datetime
    attempt: int
    values: Mapping[str, float]
    """Name to number: train/loss, evaluation/accuracy, layers/{layer}/p50; each as in the API's message."""


class Points:
    """Points in order, those of one step side by side."""

    def __init__(self) -> None:
        self._points: list[Point] = []

    def append(self, point: Point) -> None:
        """Adds the next point."""
        self._points.append(point)

    def rewind(self, step: int) -> None:
        """Drops what came after `step`: training went on from a checkpoint there."""
        self._points = [point for point in self._points if point.step <= step]

    def __iter__(self) -> Iterator[Point]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of one quantity, for example train/loss."""
        return [(point.step, point.values[name]) for point in self._points if name in point.values]

    def names(self) -> list[str]:
        """Every quantity, in the order in which they first came."""
        return list(dict.fromkeys(name for point in self._points for name in point.values))

    def rows(self) -> Iterator[dict[str, float | int | str]]:
        """One mapping for each step: step, attempt, time (ISO 8601 of the step's first event), and every quantity."""
        steps: dict[int, dict[str, float | int | str]] = {}
        for point in self._points:
            row = steps.setdefault(
                point.step, {"step": point.step, "attempt": point.attempt, "time": point.time.isoformat()}
            )
            row.update(point.values)
        return (steps[step] for step in sorted(steps))


def history(events: Iterable[Event]) -> Points:
    """The points of a job from its events, without those that a resume made void."""
    points = Points()
    for event in events:
        if isinstance(event.detail, Resumed):
            points.rewind(event.detail.step)
        elif (point := point_of(event)) is not None:
            points.append(point)
    return points


def point_of(event: Event) -> Point | None:
    """The point that an event holds, or None."""
    match event.detail:
        case StepMetrics() as metrics:
            values = _numbers(metrics, "train", without=("step", "steps"))
        case Evaluation() as evaluation:
            values = _numbers(evaluation, "evaluation", without=("step",))
        case LayerStatistics(layers=layers):
            each = (_numbers(layer, f"layers/{layer.name}", without=("name",)) for layer in layers)
            values = {name: value for numbers in each for name, value in numbers.items()}
        case _:
            return None
    return Point(step=event.detail.step, time=event.time, attempt=event.attempt, values=values)


def _numbers(message: Message, prefix: str, without: tuple[str, ...]) -> dict[str, float]:
    """Every number that a message holds; optional ones that are not set are left out."""
    fields = (field for field in message.DESCRIPTOR.fields if field.name not in without)
    present = (field for field in fields if not field.has_presence or message.HasField(field.name))
    return {f"{prefix}/{field.name}": float(getattr(message, field.name)) for field in present}
