"""Loss, accuracy and speed between two metric points, counted on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from batchyard.training.events import StepMetrics, TrainingError
from batchyard.training.group import Group
from batchyard.training.spec import TrainingJobSpec


class Meter:
    """Adds up over steps without a host sync; `read` has the only one."""

    def __init__(self, spec: TrainingJobSpec, group: Group, steps: int) -> None:
        self._spec, self._group, self._all_steps = spec, group, steps
        self._loss = torch.zeros((), dtype=torch.float64, device=group.device)
        self._correct = torch.zeros((), dtype=torch.int64, device=group.device)
        self._micro_batches = 0
        self._since = time.perf_counter()

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Counts one micro-batch: `loss` summed over this worker's samples, their logits and labels."""
        self._loss += loss.detach()
        self._correct += (logits.detach().argmax(1) == labels).sum()
        self._micro_batches += 1

    def state_dict(self) -> dict[str, torch.Tensor | int | float | str]:
        """The sums of this worker since the last `read`; the clock is no part of them."""
        return {"loss": self._loss, "correct": self._correct, "micro_batches": self._micro_batches}

    def load_state_dict(self, state: Mapping[str, torch.Tensor | int | float | str]) -> None:
        """Goes on from what `state_dict` gave; the clock starts now."""
        self._loss.copy_(torch.as_tensor(state["loss"]))
        self._correct.copy_(torch.as_tensor(state["correct"]))
        self._micro_batches, self._since = int(state["micro_batches"]), time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock while something other than training steps goes on."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def read(self, step: int, learning_rate: float) -> StepMetrics:
        """Means over all workers since the last `read`, and begins anew; every worker must call it.

        Raises TrainingError, on every worker alike, when the loss is not finite.
        """
        totals = self._group.sum_(torch.stack([self._loss, self._correct.double()]))
        loss, correct = totals.tolist()  # host sync
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
        )
        require_finite(metrics)
        self._loss.zero_()
        self._correct.zero_()
        self._micro_batches, self._since = 0, time.perf_counter()
        return metrics


def require_finite(metrics: StepMetrics) -> None:
    """Raises TrainingError when training has diverged."""
    if not math.isfinite(metrics.loss):
        cause = f"the loss is {metrics.loss} by step {metrics.step}, at learning rate {metrics.learning_rate:g}"
        raise TrainingError(cause, "lower optimizer.learning_rate (try a tenth of it), or use model.norm: batch")
