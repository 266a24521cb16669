"""What one user may have running at once. Pure.

A user is who the client says it is: callers of one service share a token and trust each other, so quotas are for
fairness and not for security.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from batchyard.endpoint.errors import FieldViolation, InvalidInputError

USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


class Held(Protocol):
    """What runs for a user."""

    @property
    def user(self) -> str:
        """Who."""

    @property
    def workers(self) -> int:
        """Worker processes."""

    @property
    def gpus(self) -> int:
        """Of all workers."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one user has running."""

    jobs: int = 0
    workers: int = 0
    gpus: int = 0

    def plus(self, workers: int, gpus: int) -> Share:
        """With one job more."""
        return Share(jobs=self.jobs + 1, workers=self.workers + workers, gpus=self.gpus + gpus)


NOTHING_SHARED = Share()


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What each user may have running at once; None: any number."""

    jobs: int | None = None
    workers: int | None = None
    gpus: int | None = None

    def allows(self, share: Share) -> bool:
        """Whether a user may have so much running."""
        return not any(most is not None and given > most for most, given in self._limits(share))

    def _limits(self, share: Share) -> tuple[tuple[int | None, int], ...]:
        return (self.jobs, share.jobs), (self.workers, share.workers), (self.gpus, share.gpus)

    def check(self, workers: int, gpus: int) -> None:
        """Raises InvalidInputError for a job that is more than a user may ever have running."""
        found = []
        if self.workers is not None and workers > self.workers:
            most = f"{workers} workers given; one user may have {self.workers} running at once"
            found.append(FieldViolation("spec.workers.count", f"{most}: lower it to {self.workers} or less"))
        if self.gpus is not None and gpus > self.gpus:
            most = f"{gpus} GPUs in all given; one user may have {self.gpus} at once"
            found.append(FieldViolation("spec.workers.gpus_per_worker", f"{most}: ask for fewer workers, or none"))
        if found:
            raise InvalidInputError(found)

    def __str__(self) -> str:
        named = ((self.jobs, "job"), (self.workers, "worker"), (self.gpus, "GPU"))
        return ", ".join(amount(most, word) for most, word in named if most is not None) or "any number"


NO_QUOTA = Quota()


def shares(running: Iterable[Held]) -> Mapping[str, Share]:
    """What each user has running."""
    found: dict[str, Share] = {}
    for each in running:
        found[each.user] = found.get(each.user, NOTHING_SHARED).plus(each.workers, each.gpus)
    return found


def check_user(user: str) -> str:
    """The name, if it is one, or nothing. Raises InvalidInputError."""
    if user and not USER.fullmatch(user):
        expected = "expected 1 to 64 letters, digits and any of . _ @ + -, beginning with a letter or digit"
        raise InvalidInputError([FieldViolation("batchyard-user", f"{user[:80]!r} given as metadata; {expected}")])
    return user


def amount(count: int, word: str) -> str:
    """`2 jobs`."""
    return f"{count} {word}{'' if count == 1 else 's'}"
