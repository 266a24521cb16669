"""How weights are updated, and how far."""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchyard.training.spec.checks import Checks

OPTIMIZERS = ("sgd", "adamw", "lars")
SCHEDULES = ("constant", "step", "exponential", "cosine", "one_cycle")
LOSSES = ("cross_entropy", "mse")
PRECISIONS = ("fp32", "bf16", "fp16")
BETAS, EPS, TRUST = (0.9, 0.999), 1e-8, 0.001


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """How weights are updated."""

    name: str = "sgd"
    """One of OPTIMIZERS: stochastic gradient descent; Adam with decoupled decay (arXiv 1711.05101); layer-wise rates
    for large batches (arXiv 1708.03888)."""
    learning_rate: float = 0.1
    """Step size, above 0, where the schedule's factor is 1. adamw wants far less than sgd, for example 0.001."""
    momentum: float = 0.0
    """sgd and lars: in [0, 1)."""
    nesterov: bool = False
    """sgd only: Nesterov's momentum. Needs momentum above 0."""
    weight_decay: float = 0.0
    """Decay of weights, 0 or more; never of biases, gamma or beta. An L2 penalty, or with adamw decoupled from the
    gradient: weights shrink by learning_rate * weight_decay a step."""
    betas: tuple[float, ...] = BETAS
    """adamw only: decay of the running means of gradients and of their squares, both in [0, 1)."""
    eps: float = EPS
    """adamw and lars: added to denominators, above 0."""
    trust_coefficient: float = TRUST
    """lars only: a layer's step relative to the size of its weights, above 0."""

    def __post_init__(self) -> None:
        checks = Checks()
        checks.one_of("name", self.name, OPTIMIZERS)
        checks.above_zero("learning_rate", self.learning_rate)
        checks.below_one("momentum", self.momentum)
        checks.not_negative("weight_decay", self.weight_decay)
        checks.require(len(self.betas) == 2, "betas", list(self.betas), "two numbers")
        for i, beta in enumerate(self.betas):
            checks.below_one(f"betas[{i}]", beta)
        checks.above_zero("eps", self.eps)
        checks.above_zero("trust_coefficient", self.trust_coefficient)
        self._check_unused(checks)
        checks.finish()

    def _check_unused(self, checks: Checks) -> None:
        """No key is given that this optimiser would ignore."""
        name = self.name
        ignored = f"nothing: {name} does not use it; leave it out"
        checks.require(self.momentum == 0 or name != "adamw", "momentum", self.momentum, ignored)
        checks.require(not self.nesterov or name == "sgd", "nesterov", self.nesterov, ignored)
        checks.require(
            not self.nesterov or name != "sgd" or self.momentum > 0,
            "nesterov",
            True,
            "optimizer.momentum above 0 with it",
        )
        checks.require(self.betas == BETAS or name not in ("sgd", "lars"), "betas", list(self.betas), ignored)
        checks.require(self.eps == EPS or name != "sgd", "eps", self.eps, ignored)
        unused = self.trust_coefficient != TRUST and name in ("sgd", "adamw")
        checks.require(not unused, "trust_coefficient", self.trust_coefficient, ignored)


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """How the learning rate changes: a factor of optimizer.learning_rate for each step."""

    name: str = "constant"
    """One of SCHEDULES: constant; step multiplies by `factor` now and then; exponential falls by `factor` in every
    `every_steps`, smoothly (the paper's); cosine falls to `final_factor` by the last step (arXiv 1608.03983); one_cycle
    rises from `initial_factor` to 1 and falls to `final_factor` (arXiv 1708.07120)."""
    warmup_steps: int = 0
    """The factor rises evenly to 1 over this many steps first; the schedule begins after them. Not with one_cycle."""
    factor: float = 0.1
    """step and exponential: above 0, at most 1."""
    every_steps: int = 0
    """step and exponential: steps in which the rate falls by `factor`."""
    milestones: tuple[int, ...] = ()
    """step only, instead of every_steps: the rate falls by `factor` after each of these steps of the schedule."""
    final_factor: float = 0.0
    """cosine and one_cycle: the factor at the end, in [0, 1]."""
    initial_factor: float = 0.04
    """one_cycle only: the factor at the beginning, in [0, 1]."""
    rise: float = 0.3
    """one_cycle only: share of the steps in which the rate rises, above 0 and below 1."""

    def __post_init__(self) -> None:
        checks = Checks()
        checks.one_of("name", self.name, SCHEDULES)
        checks.integer("warmup_steps", self.warmup_steps, 0)
        checks.require(0 < self.factor <= 1, "factor", self.factor, "a number above 0, at most 1")
        checks.integer("every_steps", self.every_steps, 0)
        ascending = list(self.milestones) == sorted(set(self.milestones)) and min(self.milestones, default=1) > 0
        checks.require(ascending, "milestones", list(self.milestones), "steps in ascending order, from 1")
        checks.share("final_factor", self.final_factor)
        checks.share("initial_factor", self.initial_factor)
        checks.require(0 < self.rise < 1, "rise", self.rise, "a number above 0 and below 1")
        self._check_falls(checks)
        self._check_unused(checks)
        checks.finish()

    def _check_falls(self, checks: Checks) -> None:
        """Step and exponential know when to fall."""
        if self.name == "exponential":
            expected = "1 or more with schedule.name exponential: steps in which the rate falls by schedule.factor"
            checks.require(self.every_steps > 0, "every_steps", self.every_steps, expected)
        if self.name == "step":
            one = (self.every_steps > 0) != bool(self.milestones)
            expected = "either schedule.every_steps or schedule.milestones with schedule.name step"
            checks.require(one, "every_steps", self.every_steps, expected)

    def _check_unused(self, checks: Checks) -> None:
        """No key is given that this schedule would ignore."""
        uses = {
            "factor": ("step", "exponential"),
            "every_steps": ("step", "exponential"),
            "milestones": ("step",),
            "final_factor": ("cosine", "one_cycle"),
            "initial_factor": ("one_cycle",),
            "rise": ("one_cycle",),
            "warmup_steps": tuple(name for name in SCHEDULES if name != "one_cycle"),
        }
        for key, users in uses.items():
            given, default = getattr(self, key), type(self).__dataclass_fields__[key].default
            ignored = f"nothing with schedule.name {self.name}, which does not use it: leave it out"
            used = self.name in users or self.name not in SCHEDULES
            checks.require(used or given == default, key, given, ignored)


@dataclass(frozen=True, kw_only=True)
class StopAtSpec:
    """When training ends early: a target for a metric on held-out data."""

    accuracy: float
    """Share in (0, 1]: training ends at the first evaluation that reaches it."""

    def __post_init__(self) -> None:
        checks = Checks()
        legal = math.isfinite(self.accuracy) and 0 < self.accuracy <= 1
        checks.require(legal, "accuracy", self.accuracy, "a share above 0, at most 1 (0.95 for 95%)")
        checks.finish()
