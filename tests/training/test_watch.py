"""Activation statistics in the training loop: which points are told, and that nothing else depends on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from batchyard import data
from batchyard.training import watch, worker
from batchyard.training.context import WorkerContext
from batchyard.training.events import Event, LayerStatistics, StepMetrics, TrainingError
from batchyard.training.group import joined
from batchyard.training.loop import train

Job = Callable[..., dict[str, Any]]
Context = Callable[..., tuple[WorkerContext, list[Event]]]


def trained(context: WorkerContext) -> dict[str, torch.Tensor]:
    """The weights that a job ends with."""
    with joined(context) as group:
        parts = worker.prepare(context, group, data.load("digits", []))
        train(context, group, parts)
    return {name: value.clone() for name, value in parts.model.state_dict().items()}


def told(events: list[Event]) -> list[tuple[int, object]]:
    """Every point's step and layers, in the order in which they were told."""
    return [(event.step, event.layers) for event in events if isinstance(event, LayerStatistics)]


def test_weights_do_not_depend_on_how_often_metrics_are_reported(a_job: Job, a_context: Context) -> None:
    often, rarely = (trained(a_context(a_job(steps=30, metrics__every_steps=every))[0]) for every in (1, 29))
    assert all(torch.equal(often[name], rarely[name]) for name in often)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_points_told_at_once_and_together_are_the_same(
    a_job: Job, a_context: Context, monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    found = []
    for patience in (-1.0, 1e9):
        monkeypatch.setattr(watch, "PATIENCE", patience)
        context, events = a_context(a_job(model__norm=norm, steps=40, metrics__every_steps=2))
        trained(context)
        found.append(told(events))
    assert [step for step, _ in found[0]] == [1, *range(2, 41, 2)]
    assert found[0] == found[1]


def test_a_training_that_diverges_reports_its_points_up_to_the_last_sound_one(a_job: Job, a_context: Context) -> None:
    job = a_job(optimizer__learning_rate=1e30, model__norm="none", model__activation="relu", metrics__every_steps=1)
    context, events = a_context(job)
    with pytest.raises(TrainingError, match="the loss is"):
        trained(context)
    sound = [event.step for event in events if isinstance(event, StepMetrics)]
    assert sound
    assert [step for step, _ in told(events)] == sound


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [(4, 60, [1, 4, 8, 12, 20, 40, 60]), (3, 50, [1, 3, 6, 9, 12, 21, 42, 50]), (25, 60, [1, 25, 50, 60])],
)
def test_beyond_the_beginning_one_point_in_each_so_many_steps_has_statistics(
    a_job: Job, a_context: Context, monkeypatch: pytest.MonkeyPatch, every: int, steps: int, expected: list[int]
) -> None:
    monkeypatch.setattr(watch, "DENSE_STEPS", 12)
    monkeypatch.setattr(watch, "SPARSE_STEPS", 20)
    context, events = a_context(a_job(steps=steps, metrics__every_steps=every))
    trained(context)
    assert [step for step, _ in told(events)] == expected
