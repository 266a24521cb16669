"""Replaces every nn.BatchNorm in a network by SyncBatchNorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.collectives import world_size
from batchyard.nn.sync_batchnorm import SyncBatchNorm
from batchyard.nn.whitening import ZCAWhitening

CONVERTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def convert_sync_batchnorm(
    module: nn.Module,
    process_group: dist.ProcessGroup | None = None,
    *,
    sync_group_size: int | None = None,
    ghost_size: int | None = None,
) -> nn.Module:
    """Replaces, in place, every nn.BatchNorm below `module` by a SyncBatchNorm over `process_group` (None: all).

    Parameters and buffers are taken over as they are, so that optimisers and tied weights stay valid; a BN that is used
    in several places is replaced by one that is. Normalisations of this library stay and get the group. `ghost_size` is
    that of SyncBatchNorm. With `sync_group_size` batches are shared by that many consecutive ranks, instead of by
    `process_group`: a collective call (see `sync_group`).

    Returns `module`, or its replacement where it is a BN itself. Raises TypeError for a lazy BN or a subclass of
    nn.BatchNorm, whose own forward would be lost, and ValueError for both a group and a size, or a size that does not
    divide the number of workers.
    """
    if sync_group_size is not None:
        if process_group is not None:
            raise ValueError("both process_group and sync_group_size were given; give the one that says who shares")
        process_group = sync_group(sync_group_size)

    def adopt(own: SyncBatchNorm | ZCAWhitening) -> None:
        own.process_group = process_group
        if isinstance(own, SyncBatchNorm) and ghost_size is not None:
            own.ghost_size = ghost_size

    return _converted(module, adopt, lambda bn: _replacement(bn, process_group, ghost_size), {})


def sync_group(size: int) -> dist.ProcessGroup | None:
    """The group of `size` consecutive ranks that this worker belongs to, for `process_group`.

    A collective call: every worker of the default group must make it. None, all workers, where `size` is all of them or
    nothing was initialised. Raises ValueError unless `size` divides the number of workers.
    """
    workers = world_size(None)
    if size < 1 or workers % size:
        raise ValueError(f"a sync group of {size} does not divide {workers} workers; choose a divisor")
    if size == workers:
        return None
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, workers, size)]
    return cast(dist.ProcessGroup, groups[dist.get_rank() // size])


def _converted(
    module: nn.Module,
    adopt: Callable[[SyncBatchNorm | ZCAWhitening], None],
    replacement: Callable[[_BatchNorm], SyncBatchNorm],
    done: dict[nn.Module, nn.Module],
) -> nn.Module:
    if module in done:
        return done[module]
    done[module] = module
    if isinstance(module, SyncBatchNorm | ZCAWhitening):
        adopt(module)
    elif isinstance(module, _BatchNorm):
        done[module] = replacement(module)
    else:
        for name, child in list(module._modules.items()):  # named_children would skip a second use
            if child is not None:
                setattr(module, name, _converted(child, adopt, replacement, done))
    return done[module]


def _replacement(bn: _BatchNorm, group: dist.ProcessGroup | None, ghost_size: int | None) -> SyncBatchNorm:
    if type(bn) not in CONVERTED:
        raise TypeError(
            f"cannot convert {type(bn).__name__}: its forward is not plain batch normalisation; "
            f"run a lazy layer once first, or replace a subclass by hand"
        )
    settings = (bn.num_features, bn.eps, bn.momentum, bn.affine, bn.track_running_stats)
    synced = SyncBatchNorm(*settings, group, ghost_size=ghost_size)
    synced.weight, synced.bias = bn.weight, bn.bias
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(synced, name, cast("torch.Tensor | None", getattr(bn, name)))
    if synced.skipped_batches is not None and bn.running_mean is not None:
        synced.skipped_batches = synced.skipped_batches.to(bn.running_mean.device)
    return synced.train(bn.training)
