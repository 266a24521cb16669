"""Everything the client raises, in one tree. str() of each says what is wrong; `hint` says what to do.

BatchyardError
├── ConfigurationError        an address, a token file or a certificate cannot be used
├── JobFileError              a job file cannot be read or is not a job spec; carries field violations
├── TensorError               an array cannot be sent, or an answer cannot be read
├── TransferError             a file of an import or export cannot be read or written, or arrived damaged
├── WaitTimeoutError          wait() gave up before the job had ended; also a TimeoutError
└── RpcError                  the service answered with an error, or did not answer; carries google.rpc details
    ├── InvalidRequestError     INVALID_ARGUMENT; carries field violations
    ├── NotFoundError           NOT_FOUND
    ├── AlreadyExistsError      ALREADY_EXISTS
    ├── PreconditionError       FAILED_PRECONDITION, ABORTED
    ├── OutOfRangeError         OUT_OF_RANGE
    ├── OverloadedError         RESOURCE_EXHAUSTED
    ├── DeadlineExceededError   DEADLINE_EXCEEDED
    ├── UnavailableError        UNAVAILABLE
    ├── AccessError             UNAUTHENTICATED, PERMISSION_DENIED
    ├── UnsupportedError        UNIMPLEMENTED
    └── ServiceError            every other code: a fault of the service
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldViolation:
    """One thing wrong with one field."""

    field: str
    """Path from the top, for example workers.count."""
    description: str
    """What was given, what is expected."""

    def __str__(self) -> str:
        return f"{self.field}: {self.description}" if self.field else self.description


class BatchyardError(Exception):
    """Base of all."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        """What to do about it; may be empty."""


class ConfigurationError(BatchyardError):
    """An address, a token file or a certificate cannot be used."""


class JobFileError(BatchyardError):
    """A job file cannot be read or is not a job spec."""

    def __init__(self, message: str, *, violations: Iterable[FieldViolation] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.violations = tuple(violations)


class TensorError(BatchyardError):
    """An array cannot be sent, or an answer cannot be read."""


class TransferError(BatchyardError):
    """A file of an import or export cannot be read or written, or arrived damaged."""


class WaitTimeoutError(BatchyardError, TimeoutError):
    """wait() gave up before the job had ended; the job goes on."""


class RpcError(BatchyardError):
    """The service answered with an error, or did not answer."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[FieldViolation] = (),
        retry_delay: float | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        """Name of the gRPC status code, for example NOT_FOUND."""
        self.reason = reason
        """ErrorInfo's reason, UPPER_SNAKE_CASE and stable; empty when the service sent none."""
        self.metadata = dict(metadata or {})
        """ErrorInfo's metadata."""
        self.violations = tuple(violations)
        """BadRequest's field violations; of an AlreadyExistsError the fields that differ, with both values."""
        self.retry_delay = retry_delay
        """RetryInfo: seconds after which a retry makes sense; None when the service did not say."""


class InvalidRequestError(RpcError):
    """The request names something illegal."""


class NotFoundError(RpcError):
    """The named resource does not exist."""


class AlreadyExistsError(RpcError):
    """The name or request_id is taken by something else."""


class PreconditionError(RpcError):
    """The resource is not in a state that allows this."""


class OutOfRangeError(RpcError):
    """A cursor or page token lies outside what exists."""


class OverloadedError(RpcError):
    """A queue is full."""


class DeadlineExceededError(RpcError):
    """No answer within the timeout."""


class UnavailableError(RpcError):
    """Nothing answers there, or it is starting or stopping."""


class AccessError(RpcError):
    """No token, or not the right one."""


class UnsupportedError(RpcError):
    """The service does not do this."""


class ServiceError(RpcError):
    """A fault of the service."""
