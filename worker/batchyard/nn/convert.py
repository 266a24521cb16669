"""Replaces every nn.BatchNorm in a network by SyncBatchNorm."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.sync_batchnorm import SyncBatchNorm

CONVERTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, SyncBatchNorm)


def convert_sync_batchnorm(module: nn.Module, process_group: dist.ProcessGroup | None = None) -> nn.Module:
    """Replaces, in place, every BN below `module` by a SyncBatchNorm over `process_group` (None: all workers).

    Parameters and buffers are taken over as they are, so that optimisers and tied weights stay valid; a BN that is used
    in several places is replaced by one that is. Returns `module`, or its replacement where it is a BN itself. Raises
    TypeError for a lazy BN or a subclass of nn.BatchNorm, whose own forward would be lost.
    """
    return _converted(module, process_group, {})


def _converted(module: nn.Module, group: dist.ProcessGroup | None, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in done:
        return done[module]
    done[module] = module
    if isinstance(module, _BatchNorm):
        done[module] = _replacement(module, group)
    else:
        for name, child in list(module._modules.items()):  # named_children would skip a second use
            if child is not None:
                setattr(module, name, _converted(child, group, done))
    return done[module]


def _replacement(bn: _BatchNorm, group: dist.ProcessGroup | None) -> SyncBatchNorm:
    if type(bn) not in CONVERTED:
        raise TypeError(
            f"cannot convert {type(bn).__name__}: its forward is not plain batch normalisation; "
            f"run a lazy layer once first, or replace a subclass by hand"
        )
    synced = SyncBatchNorm(bn.num_features, bn.eps, bn.momentum, bn.affine, bn.track_running_stats, group)
    synced.weight, synced.bias = bn.weight, bn.bias
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(synced, name, cast("torch.Tensor | None", getattr(bn, name)))
    if synced.skipped_batches is not None and bn.running_mean is not None:
        synced.skipped_batches = synced.skipped_batches.to(bn.running_mean.device)
    return synced.train(bn.training)
