"""How a part of a spec checks itself, and what a mistake is told."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

NAME_RULE = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
INT64_MAX = 2**63 - 1
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Violation:
    """One thing wrong with one field."""

    field: str
    """Path from the top of the spec, for example workers.count."""
    description: str
    """What was given, what is expected, what to do."""


class SpecError(ValueError):
    """The spec is not legal; `violations` says where and why."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class Checks:
    """Collects violations while a dataclass checks itself."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def require(self, legal: bool, name: str, given: object, expected: str) -> None:
        """`name` was `given` something other than `expected`, unless `legal`."""
        if not legal:
            self.violations.append(Violation(name, f"{given!r} given; expected {expected}"))

    def one_of(self, name: str, given: str, legal: tuple[str, ...]) -> None:
        """One of the words in `legal`."""
        if given not in legal:
            near = difflib.get_close_matches(str(given), legal, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            self.violations.append(Violation(name, f"{given!r} given; expected one of {', '.join(legal)}{hint}"))

    def integer(self, name: str, given: int, least: int, most: int = INT64_MAX) -> None:
        """A whole number from `least` to `most`."""
        expected = f", {least} or more" if given < least and most == INT64_MAX else f" from {least} to {most}"
        self.require(least <= given <= most, name, given, f"a whole number{expected}")

    def above_zero(self, name: str, given: float) -> None:
        """A finite number above 0."""
        self.require(math.isfinite(given) and given > 0, name, given, "a finite number above 0")

    def not_negative(self, name: str, given: float) -> None:
        """A finite number, 0 or more."""
        self.require(math.isfinite(given) and given >= 0, name, given, "a finite number, 0 or more")

    def below_one(self, name: str, given: float) -> None:
        """A number in [0, 1)."""
        self.require(0 <= given < 1, name, given, "a number from 0 up to but not including 1")

    def share(self, name: str, given: float) -> None:
        """A number in [0, 1]."""
        self.require(0 <= given <= 1, name, given, "a number from 0 to 1")

    def name(self, name: str, given: str) -> None:
        """A name for people, of a job, a model or an alias."""
        rule = "1 to 40 characters of a-z, 0-9 and '-', beginning with a letter and not ending with '-'"
        self.require(NAME_RULE.fullmatch(given) is not None, name, given, rule)

    def finish(self) -> None:
        """Raises SpecError if anything was found."""
        if self.violations:
            raise SpecError(self.violations)
