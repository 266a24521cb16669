"""Stochastic gradient descent with momentum over flat parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from batchyard.training.flat import FlatParameters
from batchyard.training.spec import OptimizerSpec


class SGD:
    """The same arithmetic as torch.optim.SGD: v = momentum v + (g + weight_decay w), w = w - learning_rate v, or with
    Nesterov's momentum w = w - learning_rate (g + weight_decay w + momentum v).

    Weight decay applies to weights, never to biases, gamma or beta.
    """

    def __init__(self, parameters: FlatParameters, spec: OptimizerSpec) -> None:
        self._parameters, self._spec = parameters, spec
        self._velocity = torch.zeros_like(parameters.values) if spec.momentum else None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Updates the parameters from their gradients, which it may overwrite."""
        spec, parameters = self._spec, self._parameters
        if spec.weight_decay:
            decayed = slice(parameters.decayed)
            parameters.gradients[decayed].add_(parameters.values[decayed], alpha=spec.weight_decay)
        direction = parameters.gradients
        if self._velocity is not None:
            velocity = self._velocity.mul_(spec.momentum).add_(direction)
            direction = direction.add_(velocity, alpha=spec.momentum) if spec.nesterov else velocity
        parameters.values.add_(direction, alpha=-learning_rate)

    def state_dict(self) -> dict[str, Tensor]:
        """What the next steps depend on beside the parameters; tensors in use, not copies."""
        return {} if self._velocity is None else {"velocity": self._velocity}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Goes on from what `state_dict` gave."""
        if self._velocity is not None:
            velocity = state["velocity"]
            assert isinstance(velocity, Tensor)
            self._velocity.copy_(velocity)
