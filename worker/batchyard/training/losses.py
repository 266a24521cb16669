"""Losses by name, summed over samples, so that shares of a batch add up however uneven they are."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits [samples, classes] and labels [samples] to the sum over the samples' losses, fp32."""


def loss_sum(name: str, label_smoothing: float = 0.0) -> Loss:
    """cross_entropy, in nats, with a share of each target spread over all classes; or mse, a sample's mean over the
    classes of the squared difference between logits and the label as one-hot.
    """

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)

    return {"cross_entropy": cross_entropy, "mse": _mse}[name]


def _mse(logits: Tensor, labels: Tensor) -> Tensor:
    classes = logits.shape[1]
    return F.mse_loss(logits, F.one_hot(labels, classes).to(logits.dtype), reduction="sum") / classes
