"""LARS: rates that fit each layer, for large batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from batchyard.training.spec import OptimizerSpec


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (arXiv 1708.03888), over `weights`; `others` get plain momentum.

    For the weights w of a layer, with gradient g:

        trust = trust_coefficient |w| / (|g| + weight_decay |w| + eps), or 1 where |w| or |g| is 0
        v = momentum v + trust (g + weight_decay w);  w = w - learning_rate v

    Biases, gamma and beta have neither decay nor trust, as is usual: their norms say nothing of a sensible step.
    """

    def __init__(self, weights: Iterable[Tensor], others: Iterable[Tensor], spec: OptimizerSpec) -> None:
        self._spec = spec
        named = (("adapted", True, list(weights)), ("plain", False, list(others)))
        groups = [{"params": tensors, "adapted": adapted} for _, adapted, tensors in named if tensors]
        super().__init__(groups, {"lr": spec.learning_rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates the parameters from their gradients. `closure` is torch's and must be None."""
        assert closure is None
        for group in self.param_groups:
            self._step(group)

    def _step(self, group: dict[str, Any]) -> None:
        values, spec = group["params"], self._spec
        directions: Any = [value.grad for value in values]
        if group["adapted"]:
            trust = self._trust(values, directions)
            if spec.weight_decay:
                directions = torch._foreach_add(directions, values, alpha=spec.weight_decay)
            directions = torch._foreach_mul(directions, trust)
        if spec.momentum:
            velocities = [self._velocity(value) for value in values]
            torch._foreach_mul_(velocities, spec.momentum)
            torch._foreach_add_(velocities, directions)
            directions = velocities
        torch._foreach_add_(values, directions, alpha=-group["lr"])

    def _trust(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        spec = self._spec
        sizes, slopes = torch.stack(torch._foreach_norm(weights)), torch.stack(torch._foreach_norm(gradients))
        trust = spec.trust_coefficient * sizes / (slopes + spec.weight_decay * sizes + spec.eps)
        return list(trust.where((sizes > 0) & (slopes > 0), 1.0).unbind())

    def _velocity(self, value: Tensor) -> Tensor:
        state = self.state[value]
        if not state:
            state["velocity"] = torch.zeros_like(value)
        velocity: Tensor = state["velocity"]
        return velocity
