"""Learning rate schedules against torch's own schedulers, at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from batchyard.training.schedules import factor
from batchyard.training.spec import ScheduleSpec

STEPS = 47
MakeScheduler = Callable[[torch.optim.Optimizer], LRScheduler]


def rates_of(make: MakeScheduler, steps: int = STEPS) -> list[float]:
    """The learning rate that torch uses in each step, where the full one is 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def factors(steps: int = STEPS, **keys: Any) -> list[float]:
    spec = ScheduleSpec(**keys)
    return [factor(spec, step, steps) for step in range(1, steps + 1)]


@pytest.mark.parametrize(
    ("keys", "make"),
    [
        pytest.param({"name": "constant"}, lambda o: lr_scheduler.ConstantLR(o, 1.0), id="constant"),
        pytest.param(
            {"name": "step", "every_steps": 9, "factor": 0.3}, lambda o: lr_scheduler.StepLR(o, 9, 0.3), id="step"
        ),
        pytest.param(
            {"name": "step", "milestones": (4, 5, 30), "factor": 0.5},
            lambda o: lr_scheduler.MultiStepLR(o, [4, 5, 30], 0.5),
            id="milestones",
        ),
        pytest.param(
            {"name": "exponential", "every_steps": 1, "factor": 0.97},
            lambda o: lr_scheduler.ExponentialLR(o, 0.97),
            id="exponential",
        ),
        pytest.param(
            {"name": "exponential", "every_steps": 12, "factor": 0.5},
            lambda o: lr_scheduler.ExponentialLR(o, 0.5 ** (1 / 12)),
            id="exponential-over-several-steps",
        ),
        pytest.param({"name": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS), id="cosine"),
        pytest.param(
            {"name": "cosine", "final_factor": 0.2},
            lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.2),
            id="cosine-to-a-fifth",
        ),
    ],
)
def test_a_schedule_gives_the_rates_of_torch(keys: dict[str, Any], make: MakeScheduler) -> None:
    assert factors(**keys) == pytest.approx(rates_of(make), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rise", [0.1, 0.4, 0.95])
def test_one_cycle_gives_the_rates_of_torch(rise: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = lr_scheduler.OneCycleLR(
        optimizer, 1.0, STEPS, pct_start=rise, div_factor=20, final_div_factor=50, cycle_momentum=False
    )
    rates = [float(optimizer.param_groups[0]["lr"])]
    for _ in range(STEPS - 1):  # torch refuses a step after the last
        optimizer.step()
        scheduler.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    ours = factors(name="one_cycle", rise=rise, initial_factor=1 / 20, final_factor=1 / 1000)
    assert ours == pytest.approx(rates, rel=1e-9)


def test_warm_up_gives_the_rates_of_torch_and_then_the_schedule_begins() -> None:
    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        warmup = lr_scheduler.LinearLR(optimizer, start_factor=1 / 10, total_iters=9)
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, STEPS - 10)
        return lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [10])

    assert factors(name="cosine", warmup_steps=10) == pytest.approx(rates_of(make), rel=1e-9, abs=1e-12)


def test_warm_up_of_one_step_is_none() -> None:
    assert factors(warmup_steps=1) == [1.0] * STEPS


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_cycle_of_a_few_steps_stays_within_its_bounds(steps: int) -> None:
    assert all(0 <= value <= 1 for value in factors(steps, name="one_cycle"))
