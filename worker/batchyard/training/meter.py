"""Loss, accuracy and speed between two metric points, counted on the device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from batchyard.training.events import StepMetrics, TrainingError
from batchyard.training.group import Group
from batchyard.training.spec import TrainingJobSpec
from batchyard.training.step_clock import StepClock

MOST_KEPT = 1 << 18
"""Logits that are kept to be added up together, at a metric point or when they are more: 1 MB. In a step of 0.7 ms the
nine small operations that add up would be 3% of it, for each comes to a core that has long worked on something else.
"""


class Meter:
    """Adds up over steps without a host sync; `read` has the only one."""

    def __init__(self, spec: TrainingJobSpec, group: Group, steps: int) -> None:
        self._spec, self._group, self._all_steps = spec, group, steps
        self._sums = torch.zeros(2, dtype=torch.float64, device=group.device)
        """Of the losses, and of the samples classified right."""
        self._micro_batches = 0
        self._kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._kept_logits = 0
        self._since = time.perf_counter()
        self.clock = StepClock(group, spec.metrics.every_steps)
        """Of the parts of a step, which the training loop tells it."""

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Counts one micro-batch: `loss` summed over this worker's samples, their logits and labels."""
        self._kept.append((loss.detach(), logits.detach(), labels))
        self._micro_batches += 1
        self._kept_logits += logits.numel()
        if self._kept_logits > MOST_KEPT:
            self._add_up()

    @torch.no_grad()
    def _add_up(self) -> None:
        if self._kept:
            losses, logits, labels = zip(*self._kept, strict=True)
            right = torch.cat(logits).argmax(1) == torch.cat(labels)
            exact = {"dtype": torch.float64}
            self._sums += torch.stack([torch.stack(losses).sum(**exact), right.sum(**exact)])
            self._kept.clear()
            self._kept_logits = 0

    def state_dict(self) -> dict[str, torch.Tensor | int | float | str]:
        """The sums of this worker since the last `read`; the clock is no part of them.

        They do not depend on what was added up together: fp64 holds sums of fp32 losses exactly, unless the largest is
        more than 1e7 times the smallest.
        """
        self._add_up()
        loss, correct = self._sums.clone()
        return {"loss": loss, "correct": correct.long(), "micro_batches": self._micro_batches}

    def load_state_dict(self, state: Mapping[str, torch.Tensor | int | float | str]) -> None:
        """Goes on from what `state_dict` gave; the clock starts now."""
        self._sums[0], self._sums[1] = torch.as_tensor(state["loss"]), torch.as_tensor(state["correct"])
        self._micro_batches, self._since = int(state["micro_batches"]), time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock while something other than training steps goes on."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def read(self, step: int, learning_rate: float) -> StepMetrics:
        """Means over all workers since the last `read`, and begins anew; every worker must call it."""
        self._add_up()
        loss, correct = self._group.sum_(self._sums).tolist()  # host sync
        steps = self._micro_batches // self._spec.accumulate
        seconds, samples = time.perf_counter() - self._since, steps * self._spec.data.batch_size
        metrics = StepMetrics(
            step=step,
            steps=self._all_steps,
            loss=loss / samples,
            accuracy=correct / samples,
            learning_rate=learning_rate,
            samples_per_second=samples / seconds,
            step_seconds=seconds / steps,
            **self.clock.read(),
        )
        self._sums.zero_()
        self._micro_batches, self._since = 0, time.perf_counter()
        return metrics


def diverged(metrics: StepMetrics) -> TrainingError:
    """What to raise when the loss is not finite; it is the same on every worker."""
    cause = f"the loss is {metrics.loss} by step {metrics.step}, at learning rate {metrics.learning_rate:g}"
    return TrainingError(cause, "lower optimizer.learning_rate (try a tenth of it), or use model.norm: batch")
