"""Several networks as one: the mean of their softmax, in one graph (the paper's six networks, section 4.2.3)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """log(mean over members of softmax(member(x))): logits whose softmax is exactly the members' mean.

    In logarithms, because a mean of probabilities that all underflow has no logarithm. The largest error of its outputs
    is at most twice the members' largest: log_softmax at most doubles an error, and logsumexp never enlarges it.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not len(self.members):
            raise ValueError("an ensemble of no members; expected one network or more")

    def forward(self, x: Tensor) -> Tensor:
        """[n, ...] to [n, classes]."""
        each = torch.stack([torch.log_softmax(member(x), 1) for member in self.members])
        return torch.logsumexp(each, 0) - math.log(len(self.members))
