"""Normalisation layers by name."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn

from batchyard.nn.sync_batchnorm import SyncBatchNorm

NORMALIZERS = ("none", "batch")


def normalizer(
    name: str,
    num_features: int,
    *,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    affine: bool = True,
    process_group: dist.ProcessGroup | None = None,
) -> nn.Module:
    """The normalisation layer called `name` for inputs (N, num_features, ...).

    none: the identity. batch: SyncBatchNorm. Raises ValueError for another name.
    """
    if name == "none":
        return nn.Identity()
    if name == "batch":
        return SyncBatchNorm(num_features, eps, momentum, affine, process_group=process_group)
    raise ValueError(f"normalizer {name!r} is not known; expected one of {', '.join(NORMALIZERS)}")
