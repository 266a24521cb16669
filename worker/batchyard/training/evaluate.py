"""Loss and accuracy on held-out data, over all workers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from batchyard.data import share
from batchyard.training.batches import Samples
from batchyard.training.group import Group
from batchyard.training.losses import Loss

BATCH = 1000
"""Samples in one forward pass."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a model does on held-out data."""

    loss: float
    """The mean of the job's loss, without label smoothing; cross-entropy is in nats."""
    accuracy: float
    """Share in [0, 1] classified right."""
    samples: int


@torch.no_grad()
def share_running_statistics(model: nn.Module, group: Group) -> None:
    """Gives every worker the mean of all workers' running statistics, where each had normalised by itself.

    Training is not affected: it uses the statistics of the batch. Every worker must call it.
    """
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var", "running_cov")):
            group.mean_(buffer)


@torch.no_grad()
def evaluate(model: nn.Module, samples: Samples, group: Group, loss_of: Loss) -> Score:
    """Scores `model`, in inference mode, on every one of `samples`; each worker takes a share. One host sync.

    Every worker must call it, and gets the same Score. The model is left in the mode it was in.
    """
    totals = torch.zeros(2, dtype=torch.float64, device=group.device)
    was_training = model.training
    model.eval()
    for images, labels in samples.run(share(len(samples), group.rank, group.world_size), BATCH):
        logits = model(images)
        totals[0] += loss_of(logits, labels)
        totals[1] += (logits.argmax(1) == labels).sum()
    model.train(was_training)
    loss, correct = group.sum_(totals).tolist()  # host sync
    return Score(loss=loss / len(samples), accuracy=correct / len(samples), samples=len(samples))
