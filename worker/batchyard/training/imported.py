"""A network that was read from a user's file, before it is folded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from batchyard.training import graph


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A network that was read and fits its description."""

    network: nn.Module
    shape: tuple[int, ...]
    """Of one sample."""
    classes: tuple[str, ...]
    spec: dict[str, Any]
    """For the manifest."""
    scale: float | None
    """The value of a full pixel; None where the network does not normalise its input."""
    input: str = graph.INPUT
    output: str = graph.OUTPUT
    files: Mapping[str, bytes] = field(default_factory=dict)
