"""Optimisers by name, over a model's flat parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from batchyard.training.flat import FlatParameters
from batchyard.training.lars import LARS
from batchyard.training.sgd import SGD
from batchyard.training.spec import OptimizerSpec

State = dict[str, Tensor | int | float | str]


class Optimizer(Protocol):
    """Updates parameters from their gradients."""

    def step(self, learning_rate: float) -> None:
        """One update. It may overwrite the gradients."""

    def state_dict(self) -> Mapping[str, Tensor | int | float | str]:
        """What the next steps depend on beside the parameters; tensors in use, not copies."""

    def load_state_dict(self, state: Mapping[str, Tensor | int | float | str]) -> None:
        """Goes on from what `state_dict` gave."""


class TorchOptimizer:
    """One of torch.optim's, with the learning rate given step by step."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    def step(self, learning_rate: float, scaler: torch.amp.GradScaler | None = None) -> None:
        """One update; left out, where there is a scaler, when gradients are not finite."""
        for group in self.inner.param_groups:
            group["lr"] = learning_rate
        if scaler is None:
            self.inner.step()
        else:
            scaler.step(self.inner)

    def state_dict(self) -> State:
        """What the next steps depend on beside the parameters; tensors in use, not copies."""
        return {
            f"{number}.{name}": value
            for number, parameter in enumerate(self._parameters())
            for name, value in self.inner.state[parameter].items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor | int | float | str]) -> None:
        """Goes on from what `state_dict` gave."""
        parameters = self._parameters()
        for key, value in state.items():
            number, _, name = key.partition(".")
            parameter = parameters[int(number)]
            own = value.clone().to(parameter.device) if isinstance(value, Tensor) else value
            self.inner.state[parameter][name] = own

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.inner.param_groups for parameter in group["params"]]


def build(spec: OptimizerSpec, model: nn.Module, flat: FlatParameters, *, scaled: bool = False) -> Optimizer:
    """The optimiser that `spec` names for `model`, whose parameters `flat` holds.

    `scaled`: gradients come from a scaled loss, so that a step must be left out, without the host knowing, when they
    are not finite: torch's fused optimisers can do that.
    """
    if spec.name == "lars":
        mine = [parameter for parameter in model.parameters() if parameter.requires_grad]
        weights, others = ([p for p in mine if (p.ndim >= 2) is wanted] for wanted in (True, False))
        return TorchOptimizer(LARS(weights, others, spec))
    if spec.name == "sgd" and not scaled:
        return SGD(flat, spec)
    groups = _groups(flat, spec.weight_decay)
    if spec.name == "sgd":
        rate, momentum, nesterov = spec.learning_rate, spec.momentum, spec.nesterov
        return TorchOptimizer(torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov, fused=True))
    betas = spec.betas[0], spec.betas[1]
    return TorchOptimizer(torch.optim.AdamW(groups, lr=spec.learning_rate, betas=betas, eps=spec.eps, fused=True))


def _groups(flat: FlatParameters, weight_decay: float) -> list[dict[str, object]]:
    """Two long parameters for torch: all weights, with decay; all biases, gammas and betas, without."""
    groups: list[dict[str, object]] = []
    for part, decay in ((slice(flat.decayed), weight_decay), (slice(flat.decayed, None), 0.0)):
        if len(flat.values[part]):
            parameter = nn.Parameter(flat.values[part])
            parameter.grad = flat.gradients[part]
            groups.append({"params": [parameter], "weight_decay": decay})
    return groups
