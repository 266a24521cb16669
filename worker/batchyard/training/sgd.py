"""Stochastic gradient descent with momentum over flat parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from batchyard.training.flat import FlatParameters
from batchyard.training.spec import OptimizerSpec


class SGD:
    """The same arithmetic as torch.optim.SGD: v = momentum v + (g + weight_decay w), w = w - learning_rate v.

    Weight decay applies to weights, never to biases, gamma or beta.
    """

    def __init__(self, parameters: FlatParameters, spec: OptimizerSpec) -> None:
        self._parameters, self._spec = parameters, spec
        self._velocity = torch.zeros_like(parameters.values) if spec.momentum else None

    def state_dict(self) -> dict[str, torch.Tensor | int | float | str]:
        """The velocity, where there is momentum."""
        return {} if self._velocity is None else {"velocity": self._velocity}

    def load_state_dict(self, state: Mapping[str, torch.Tensor | int | float | str]) -> None:
        """Goes on from what `state_dict` gave."""
        if self._velocity is not None:
            self._velocity.copy_(torch.as_tensor(state["velocity"]))

    @torch.no_grad()
    def step(self) -> None:
        """Updates the parameters from their gradients."""
        spec, parameters = self._spec, self._parameters
        if spec.weight_decay:
            decayed = slice(parameters.decayed)
            parameters.gradients[decayed].add_(parameters.values[decayed], alpha=spec.weight_decay)
        direction = parameters.gradients
        if self._velocity is not None:
            direction = self._velocity.mul_(spec.momentum).add_(direction)
        parameters.values.add_(direction, alpha=-spec.learning_rate)
