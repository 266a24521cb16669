"""An exponential moving average of a model's weights and running statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from batchyard.training.flat import FlatParameters


class MovingAverage:
    """average = decay average + (1 - decay) value after each step, beginning with the values after the first.

    The arithmetic is that of torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn(decay).
    """

    def __init__(self, live: Sequence[Tensor], decay: float) -> None:
        self._live, self._decay = live, decay
        self._averages = [tensor.detach().clone() for tensor in live]
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes the values of one more step in."""
        weight = 1 - self._decay if self._steps else 1.0
        for average, live in zip(self._averages, self._live, strict=True):
            average.lerp_(live, weight)
        self._steps += 1

    @torch.no_grad()
    def exchange(self) -> None:
        """Puts the averages where the values were, and the values in their place."""
        for average, live in zip(self._averages, self._live, strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Tensor | int]:
        """The averages, in use, and how many steps are in them."""
        return {"steps": self._steps, **{str(i): average for i, average in enumerate(self._averages)}}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Goes on from what `state_dict` gave."""
        steps = state["steps"]
        assert isinstance(steps, int)
        self._steps = steps
        for i, average in enumerate(self._averages):
            value = state[str(i)]
            assert isinstance(value, Tensor)
            average.copy_(value)


class ModelAverage:
    """Averages of a model's weights and of its running statistics; counters are left as they are."""

    def __init__(self, model: nn.Module, flat: FlatParameters, decay: float) -> None:
        self.weights = MovingAverage([flat.values], decay)
        self.buffers = MovingAverage([b for b in model.buffers() if b.is_floating_point()], decay)

    def update(self) -> None:
        """Takes one more step in."""
        self.weights.update()
        self.buffers.update()

    def exchange(self) -> None:
        """Puts the averages into the model, and what was there in their place."""
        self.weights.exchange()
        self.buffers.exchange()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averages meanwhile."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()
