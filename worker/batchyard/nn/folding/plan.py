"""What a rule of folding returns: edits to make, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import fx


class Stays(Exception):  # noqa: N818  not an error: the map stays where it is
    """The map cannot move; the message is the reason, for people."""


def listed(reasons: Iterable[str]) -> str:
    """Reasons as one text for people, each once; of more than three the number."""
    first, rest = (found := list(dict.fromkeys(reasons)))[:3], len(found) - 3
    return "; ".join([*first, f"and {rest} more like these"] if rest > 0 else first)


@dataclass
class Plan:
    """Edits that move one map away, the layers it goes into, and the nodes whose values change.

    A changed value no longer equals one of the original network.
    """

    edits: list[Callable[[], None]] = field(default_factory=list)
    into: list[str] = field(default_factory=list)
    changed: list[fx.Node] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Reasons why a part of the map stays as an affine node."""

    def __iadd__(self, other: Plan) -> Plan:
        self.edits += other.edits
        self.into += other.into
        self.changed += other.changed
        self.left += other.left
        return self
