"""From a step's gradients to new weights: loss scaling, clipping, learning rate, optimiser, average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from batchyard.training import optimizers
from batchyard.training.ema import ModelAverage, MovingAverage
from batchyard.training.events import TrainingError
from batchyard.training.flat import FlatParameters
from batchyard.training.optimizers import State, TorchOptimizer
from batchyard.training.schedules import factor
from batchyard.training.spec import TrainingJobSpec


class Update:
    """Changes `model`, whose parameters `flat` holds, as `spec` says, over `steps` steps.

    No call waits for the device, but for LARS in fp16. Raises TrainingError when warm-up takes all steps: how many an
    epoch has shows only with the data.
    """

    learning_rate: float
    """Of the latest step."""

    def __init__(self, spec: TrainingJobSpec, model: nn.Module, flat: FlatParameters, steps: int) -> None:
        _check_warmup(spec, steps)
        self._spec, self._flat, self._steps = spec, flat, steps
        self.learning_rate = spec.optimizer.learning_rate
        half = spec.precision == "fp16"
        self._scaler = torch.amp.GradScaler(flat.values.device.type) if half else None
        self._optimizer = optimizers.build(spec.optimizer, model, flat, scaled=half)
        self._average = None if spec.ema_decay is None else ModelAverage(model, flat, spec.ema_decay)

    def backward(self, loss: Tensor, weight: Tensor | None = None) -> None:
        """Adds the gradients of `weight` * `loss` to those of the step; in fp16 scaled, so that small ones do not
        vanish. `weight` (None: 1), of the loss's dtype, is cheaper as a gradient than as a factor.
        """
        torch.autograd.backward(loss if self._scaler is None else self._scaler.scale(loss), weight)

    def apply(self, step: int) -> None:
        """Makes step `step`, counted from 1, from gradients that are the same on every worker."""
        schedule, limit = self._spec.schedule, self._spec.clip_norm
        self.learning_rate = self._spec.optimizer.learning_rate * factor(schedule, step, self._steps)
        if self._scaler is not None:
            self._scaled_step(self._scaler, limit)
        else:
            if limit is not None:
                clip_(self._flat.gradients, limit)
            self._optimizer.step(self.learning_rate)
        if self._average is not None:
            self._average.update()

    def _scaled_step(self, scaler: torch.amp.GradScaler, limit: float | None) -> None:
        optimizer = self._optimizer
        assert isinstance(optimizer, TorchOptimizer)
        if limit is not None:
            scaler.unscale_(optimizer.inner)
            clip_(self._flat.gradients, limit)
        optimizer.step(self.learning_rate, scaler)
        scaler.update()

    def averaged(self) -> AbstractContextManager[None]:
        """The model has its averaged weights meanwhile, if any are kept."""
        return nullcontext() if self._average is None else self._average.in_place()

    def finish(self) -> None:
        """Leaves the averaged weights, if any are kept, in the model."""
        if self._average is not None:
            self._average.exchange()

    def state_dict(self) -> State:
        """What the next steps depend on beside the parameters; tensors in use, not copies."""
        return {
            f"{name}.{key}": value for name, part in self._parts().items() for key, value in part.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor | int | float | str]) -> None:
        """Goes on from what `state_dict` gave."""
        for name, part in self._parts().items():
            prefix = f"{name}."
            part.load_state_dict({k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)})

    def _parts(self) -> dict[str, Any]:
        """What all workers share. Running statistics are part of it unless each worker normalises by itself."""
        parts: dict[str, Any] = {"optimizer": self._optimizer, "scaler": self._scaler}
        if self._average is not None:
            parts["weights"] = self._average.weights
            parts["buffers"] = self._average.buffers if not self.own else None
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def own(self) -> dict[str, MovingAverage]:
        """What has state that differs between workers."""
        alone = self._spec.workers.sync_batch_norm == "none"
        return {"averages": self._average.buffers} if alone and self._average is not None else {}


def _check_warmup(spec: TrainingJobSpec, steps: int) -> None:
    warmup = spec.schedule.warmup_steps
    if warmup >= steps:
        cause = f"schedule.warmup_steps: {warmup} given; expected less than the job's {steps} steps"
        raise TrainingError(cause, "lower schedule.warmup_steps, or raise epochs")


@torch.no_grad()
def clip_(gradients: Tensor, limit: float) -> None:
    """Scales `gradients` [n] down, in place, to norm `limit` where they are longer (arXiv 1211.5063)."""
    norm = torch.linalg.vector_norm(gradients)
    gradients.mul_((limit / (norm + 1e-6)).clamp(max=1.0))  # the 1e-6 is that of torch.nn.utils.clip_grad_norm_
