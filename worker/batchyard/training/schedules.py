"""Learning rate schedules: pure functions from a step to a factor of optimizer.learning_rate."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping

from batchyard.training.spec import ScheduleSpec


def factor(spec: ScheduleSpec, step: int, steps: int) -> float:
    """The factor for `step` (counted from 1) of `steps`.

    During warm-up it rises evenly and reaches 1 at step warmup_steps; what follows begins, with 1, in the step after.
    """
    if step <= spec.warmup_steps:
        return step / spec.warmup_steps
    return _SCHEDULES[spec.name](spec, step - spec.warmup_steps - 1, steps - spec.warmup_steps)


def _step(spec: ScheduleSpec, done: int, steps: int) -> float:
    falls = bisect_right(spec.milestones, done) if spec.milestones else done // spec.every_steps
    return spec.factor**falls


def _exponential(spec: ScheduleSpec, done: int, steps: int) -> float:
    return math.pow(spec.factor, done / spec.every_steps)


def _cosine(spec: ScheduleSpec, done: int, steps: int) -> float:
    return _between(1.0, spec.final_factor, done / steps)


def _one_cycle(spec: ScheduleSpec, done: int, steps: int) -> float:
    top, last = spec.rise * steps - 1, steps - 1
    if done <= top:
        return _between(spec.initial_factor, 1.0, done / top) if top else 1.0
    return _between(1.0, spec.final_factor, (done - top) / (last - top))


def _between(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


_SCHEDULES: Mapping[str, Callable[[ScheduleSpec, int, int], float]] = {
    "constant": lambda spec, done, steps: 1.0,
    "step": _step,
    "exponential": _exponential,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
}
"""By name: from the spec, the steps done since warm-up, and all steps since then."""
