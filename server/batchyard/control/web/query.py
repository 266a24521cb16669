"""The query of a request, checked: unknown keys and values that are not what they should be are errors."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from aiohttp import web
from google.protobuf.descriptor import EnumDescriptor

from batchyard.endpoint.errors import FieldViolation, InvalidInputError

MOST = 2**31 - 1


class Query:
    """The keys that a route knows, and their values. Raises InvalidInputError for any other key."""

    def __init__(self, request: web.Request, *known: str) -> None:
        self._values = request.query
        for key in self._values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(known) or 'none'}"
                raise _violation(key[:80], f"unknown key; {hint}")

    def text(self, key: str) -> str:
        """The value, or ""."""
        return self._values.get(key, "")

    def texts(self, key: str) -> list[str]:
        """The values given, once or several times."""
        return self._values.getall(key, [])

    def integer(self, key: str, default: int) -> int:
        """A whole number that is not negative."""
        given = self._values.get(key)
        if given is None:
            return default
        if not (given.isascii() and given.isdigit() and int(given[:11]) <= MOST):
            raise _violation(key, f"{given[:80]!r} given; expected a whole number from 0 to {MOST}")
        return int(given)

    def choice(self, key: str, legal: Sequence[str]) -> str:
        """One of `legal`; the first when absent."""
        given = self._values.get(key, legal[0])
        if given not in legal:
            raise _violation(key, f"{given[:80]!r} given; expected one of {', '.join(legal)}")
        return given

    def flag(self, key: str) -> bool:
        """Whether the value is true; false when absent."""
        given = self._values.get(key, "false")
        if given not in ("true", "false"):
            raise _violation(key, f"{given[:80]!r} given; expected true or false")
        return given == "true"

    def enums(self, key: str, kind: EnumDescriptor) -> Sequence[int]:
        """The numbers of the names given, once or several times."""
        names = self._values.getall(key, [])
        legal = {value.name: value.number for value in kind.values if value.number != 0}
        for name in names:
            if name not in legal:
                raise _violation(key, f"{name[:80]!r} given; expected some of {', '.join(legal)}")
        return [legal[name] for name in names]


def _violation(field: str, description: str) -> InvalidInputError:
    return InvalidInputError([FieldViolation(field, description)])
