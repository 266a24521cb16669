"""The errors of the domain, without transport: each says what, where and what to do. One interceptor (status.py) gives
them their gRPC codes.

    DomainError
    ├── InvalidInputError      the request names something illegal; carries field violations
    ├── NotFoundError          the named resource does not exist
    ├── AlreadyExistsError     the name or request_id is taken by something else
    ├── PreconditionError      the resource is not in a state that allows this
    ├── OutOfRangeError        a cursor or page token lies outside what exists
    ├── OverloadedError        a queue is full; carries when to try again
    ├── DeadlineError          the deadline passed before work began
    ├── UnavailableError       shutting down, or not ready yet
    ├── UnauthenticatedError   no token, or not the right one
    ├── ForbiddenError         the operator of this server does not allow it
    └── UnsupportedError       a legal request for something this server does not do
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldViolation:
    """One thing wrong with one field of a request."""

    field: str
    description: str


class DomainError(Exception):
    """Base of all. `reason` is UPPER_SNAKE_CASE and stable: programs may branch on it."""

    violations: tuple[FieldViolation, ...] = ()
    """The fields that are at fault."""

    def __init__(self, message: str, *, reason: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})


class InvalidInputError(DomainError):
    """The request names something illegal."""

    def __init__(self, violations: Iterable[FieldViolation], *, reason: str = "INVALID_INPUT") -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations), reason=reason)


class NotFoundError(DomainError):
    """The named resource does not exist."""


class AlreadyExistsError(DomainError):
    """The name or request_id is taken by something else; may name the fields in which that differs."""

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[FieldViolation] = (),
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.violations = tuple(violations)


class PreconditionError(DomainError):
    """The resource is not in a state that allows this."""


class OutOfRangeError(DomainError):
    """A cursor or page token lies outside what exists."""


class OverloadedError(DomainError):
    """A queue is full."""

    def __init__(
        self, message: str, *, reason: str, retry_after: float, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after = retry_after
        """Seconds."""


class DeadlineError(DomainError):
    """The deadline passed before work began."""


class UnavailableError(DomainError):
    """Shutting down, or not ready yet."""


class UnauthenticatedError(DomainError):
    """No token, or not the right one."""


class ForbiddenError(DomainError):
    """The operator of this server does not allow it."""


class UnsupportedError(DomainError):
    """A legal request for something this server does not do."""
