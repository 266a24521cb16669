"""Normalisation layers by name."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from batchyard.nn.comparisons import BatchRenorm, DetachedBatchNorm, StandardizeDetached, StandardizePost
from batchyard.nn.sync_batchnorm import SyncBatchNorm
from batchyard.nn.whitening import IterNorm, ZCAWhitening

NORMALIZERS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "batch": SyncBatchNorm,
    "detached": DetachedBatchNorm,
    "standardize_detached": StandardizeDetached,
    "standardize_post": StandardizePost,
    "zca": ZCAWhitening,
    "iternorm": IterNorm,
    "renorm": BatchRenorm,
}
"""none: no normalisation. batch: the paper's. The others are there to compare with: see their classes."""


def normalizer(name: str, num_features: int, **options: Any) -> nn.Module:
    """The normalisation layer called `name` for inputs (N, num_features, ...).

    Args:
        name: one of NORMALIZERS.
        num_features: C, the size of dimension 1.
        options: keyword arguments of the layer's class, such as eps, momentum, affine or process_group.

    Raises ValueError for a name or an option that is not known.
    """
    kind = _known(name)
    if kind is nn.Identity:
        return nn.Identity()
    legal = _options(kind)
    if unknown := sorted(set(options) - legal):
        raise ValueError(f"normalizer {name!r} has no option {unknown[0]!r}; it has {', '.join(sorted(legal))}")
    return kind(num_features, **options)


def placement(name: str) -> str:
    """Where the layer called `name` belongs, before the nonlinearity or after it; raises ValueError as `normalizer`."""
    return str(getattr(_known(name), "placement", "before"))


def _known(name: str) -> type[nn.Module]:
    if name not in NORMALIZERS:
        raise ValueError(f"normalizer {name!r} is not known; expected one of {', '.join(NORMALIZERS)}")
    return NORMALIZERS[name]


def _options(kind: type[nn.Module]) -> set[str]:
    """The keyword arguments that a class and those it builds on take."""
    found: set[str] = set()
    for owner in kind.__mro__:
        if owner is nn.Module or not owner.__module__.startswith(__name__.rpartition(".")[0]):
            break
        found |= set(inspect.signature(owner).parameters)
    return found - {"self", "num_features", "options"}
