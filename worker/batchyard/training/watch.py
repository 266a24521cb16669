"""Activation statistics of a job: taken at metric points, told together where points are close."""

from __future__ import annotations

import dataclasses
import time
from itertools import pairwise

import torch
from torch import Tensor, nn

from batchyard.nn import ActivationStats, LayerActivations
from batchyard.training.events import Emit, Layer, LayerStatistics
from batchyard.training.group import Group
from batchyard.training.spec import TrainingJobSpec

PATIENCE = 0.25
"""Seconds that a point may wait for others. What it shows is the same whenever it is told."""
DENSE_STEPS, SPARSE_STEPS = 1000, 100
"""Activations change most in the beginning: up to the first of these steps every metric point has statistics, from
there on one point in each of so many steps. In a small network they are a third of what all metrics cost."""
_FIELDS = tuple(field.name for field in dataclasses.fields(Layer) if field.name != "bias_norm")


class Watch:
    """What the layers of `model` show at metric points, if `spec` wants to know. Every worker makes the same calls."""

    def __init__(self, spec: TrainingJobSpec, model: nn.Module, group: Group, emit: Emit, steps: int) -> None:
        self._group, self._emit, self._all_steps = group, emit, steps
        self._every_steps = spec.metrics.every_steps
        self._statistics = ActivationStats(model) if spec.metrics.activation_statistics else None
        self._biases = biases_before(model)
        self._bias_norms: list[Tensor] = []
        self._steps: list[int] = []
        self._told = time.monotonic()

    @property
    def measuring(self) -> bool:
        """Whether forward passes count, and hooks are on the model."""
        return self._statistics is not None and self._statistics.enabled

    def begin_step(self, step: int, *, at_point: bool) -> bool:
        """Makes the forward passes of `step` count if it is a point that has statistics. Returns whether this worker
        would tell after it.
        """
        if self._statistics is None:
            return False
        self._statistics.enabled = at_point and self._is_due(step)
        waits = at_point and (self.measuring or self._steps)
        return bool(waits) and (self._statistics.full or time.monotonic() - self._told > PATIENCE)

    def _is_due(self, point: int) -> bool:
        """Whether statistics are taken at this point: a matter of its step alone, wherever an attempt began."""
        passes_one = point % SPARSE_STEPS < self._every_steps
        return point <= DENSE_STEPS or passes_one or point == self._all_steps

    def end_point(self, step: int) -> None:
        """Keeps what the forward passes of `step` showed, if they counted. No host sync."""
        if self._statistics is not None and self.measuring:
            self._statistics.end_point()
            self._steps.append(step)
            if self._biases:
                self._bias_norms.append(torch.stack([bias.detach().norm() for bias in self._biases.values()]))

    def tell(self) -> None:
        """Reports the points that wait, summed over all workers: a host sync if there are any."""
        if self._statistics is None or not self._steps:
            return
        points = self._statistics.collect_points(self._group.process_group)
        norms = torch.stack(self._bias_norms).tolist() if self._bias_norms else [[]] * len(self._steps)
        for step, layers, of_biases in zip(self._steps, points, norms, strict=False):  # nothing to watch: no points
            named = dict(zip(self._biases, of_biases, strict=True))
            self._emit(LayerStatistics(step=step, layers=tuple(_layer(layer, named) for layer in layers)))
        self._steps.clear()
        self._bias_norms.clear()
        self._told = time.monotonic()

    def finish(self) -> None:
        """Reports what waits and leaves the model as it was."""
        self.tell()
        if self._statistics is not None:
            self._statistics.detach()


def biases_before(model: nn.Module) -> dict[str, Tensor]:
    """Each layer's name to the bias of the linear layer or convolution right before it in their sequence, if any."""
    found: dict[str, Tensor] = {}
    for prefix, sequence in model.named_modules():
        if isinstance(sequence, nn.Sequential):
            for (_, before), (name, _) in pairwise(sequence.named_children()):
                if isinstance(before, nn.Linear | nn.Conv2d) and before.bias is not None:
                    found[f"{prefix}.{name}".lstrip(".")] = before.bias
    return found


def _layer(activations: LayerActivations, bias_norms: dict[str, float]) -> Layer:
    """As the event has it."""
    values = {name: getattr(activations, name) for name in _FIELDS}
    return Layer(**values, bias_norm=bias_norms.get(activations.name))
