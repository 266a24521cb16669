"""Which jobs a listing holds, and in which order."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from batchyard.control.states import State

ORDERS = ("created", "name", "owner", "state", "progress", "loss", "accuracy", "samples_per_second")
"""What jobs can be sorted by."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Which jobs, in which order."""

    states: Collection[State] = ()
    """Only these; empty: all."""
    search: str = ""
    """Only those whose id, owner, state, tags or note hold each of these words, in any case."""
    order: str = "created"
    """One of ORDERS."""
    rising: bool = False
    name: str = field(init=False, default="")
    """The same for two listings that are the same: what a page token belongs to."""

    @property
    def steady(self) -> bool:
        """Whether no job ever changes its place: one that comes between two pages then shifts nothing."""
        return self.order == "created"

    def __post_init__(self) -> None:
        """Names it."""
        named = [",".join(sorted(set(self.states))), *self.search.lower().split(), self.order, str(self.rising)]
        object.__setattr__(self, "name", ":".join(["jobs", *named]))
