"""Where the time of a step goes: parts that add up, measured in some steps, with collectives apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from batchyard.training import worker
from batchyard.training.context import WorkerContext
from batchyard.training.events import Event, StepMetrics
from batchyard.training.group import Group
from batchyard.training.step_clock import EVERY, PARTS, StepClock

Job = Callable[..., dict[str, Any]]
InWorkers = Callable[..., list[Any]]
Context = Callable[..., tuple[WorkerContext, list[Event]]]
BUSY = 0.01


def busy() -> None:
    """Takes BUSY seconds or more."""
    began = time.perf_counter()
    while time.perf_counter() - began < BUSY:
        pass


@dataclass(frozen=True)
class Waiting(Group):
    """A worker whose collectives take as long as a test says."""

    waited: list[float] = field(default_factory=lambda: [0.0])

    @property
    def collective_seconds(self) -> float:
        return self.waited[0]


def waiting() -> Waiting:
    return Waiting(rank=0, world_size=2, device=torch.device("cpu"))


def test_each_part_gets_its_time_and_what_collectives_take_within_it_is_theirs() -> None:
    group = waiting()
    clock = StepClock(group, every_steps=10)
    began = time.perf_counter()
    clock.begin_step(EVERY - 1, at_point=False)
    clock.lap("data")
    busy()
    busy()
    group.waited[0] += BUSY
    clock.lap("forward")
    busy()
    clock.lap("optimizer")
    took = time.perf_counter() - began

    parts = clock.read()

    assert parts.keys() == {f"{part}_seconds" for part in PARTS}
    assert parts["collectives_seconds"] == BUSY
    assert parts["forward_seconds"] >= BUSY
    assert parts["optimizer_seconds"] >= BUSY
    assert parts["backward_seconds"] == 0
    assert sum(parts.values()) == pytest.approx(took, rel=0.2)


def test_one_step_of_several_is_measured_and_points_only_where_every_step_is_one() -> None:
    sparse, dense = StepClock(waiting(), every_steps=2 * EVERY), StepClock(waiting(), every_steps=1)
    for step in range(1, 2 * EVERY + 1):
        for clock in (sparse, dense):
            clock.begin_step(step, at_point=step % EVERY == EVERY - 1)
            clock.lap("data")

    assert sparse.read()["data_seconds"] is None
    assert dense.read()["data_seconds"] is not None
    assert dense.read()["data_seconds"] is None


@pytest.mark.parametrize("every_steps", [EVERY // 2, EVERY, EVERY + 1, 20, 3 * EVERY])
def test_there_is_a_measured_step_before_each_point(every_steps: int) -> None:
    clock = StepClock(waiting(), every_steps=every_steps)
    for step in range(1, 8 * every_steps + 1):
        at_point = step % every_steps == 0
        clock.begin_step(step, at_point=at_point)
        clock.lap("data")
        if at_point:
            assert clock.read()["data_seconds"] is not None, step


def test_points_tell_where_the_time_since_the_one_before_went(a_job: Job, a_context: Context) -> None:
    context, events = a_context(a_job(steps=20))
    worker.run(context)

    first, *later = [event for event in events if isinstance(event, StepMetrics)]

    assert first.forward_seconds is None
    assert [event.collectives_seconds is not None for event in later] == [True, True]
    for event in later:
        assert min(event.data_seconds or 0, event.forward_seconds or 0, event.backward_seconds or 0) > 0


def test_two_workers_know_what_they_spend_in_collectives(in_workers: InWorkers, a_job: Job) -> None:
    first, _ = in_workers("trajectories", 2, specs=[a_job(steps=20)], double=False)
    points = [event for event in first[0]["events"] if event["kind"] == "step_metrics"][1:]
    assert points
    assert all(0 < point["collectives_seconds"] < point["step_seconds"] * 20 for point in points)
