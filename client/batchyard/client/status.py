"""Turns a gRPC error and its google.rpc details into this client's exceptions."""

from __future__ import annotations

from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from batchyard.client import errors
from batchyard.client.errors import FieldViolation, RpcError
from batchyard.client.hints import trouble

M = TypeVar("M", bound=Message)

DETAILS = "grpc-status-details-bin"

_ERRORS: dict[grpc.StatusCode, type[RpcError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PreconditionError,
    grpc.StatusCode.ABORTED: errors.PreconditionError,
    grpc.StatusCode.OUT_OF_RANGE: errors.OutOfRangeError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AccessError,
    grpc.StatusCode.PERMISSION_DENIED: errors.AccessError,
    grpc.StatusCode.UNIMPLEMENTED: errors.UnsupportedError,
}


_OTHER_PLANE = (
    "Look at --control and --inference (`batchyard up` prints both), and at `batchyard --version` on both sides."
)


def from_grpc(error: Any, peer: str, hints: dict[type[RpcError], str]) -> RpcError:
    """The exception for a failed call to `peer` (for messages), with `hints` on what to do about some of them."""
    code = error.code()
    kind = _ERRORS.get(code, errors.ServiceError)
    details = _details(error)
    info, bad, retry = _find(details, ErrorInfo()), _find(details, BadRequest()), _find(details, RetryInfo())
    message, hint = error.details() or code.name, hints.get(kind, "")
    if not details:
        message, hint = _from_transport(code, message, peer, hint)
    elif code is grpc.StatusCode.UNAVAILABLE:
        hint = ""  # there is a service, and it says itself what keeps it
    return kind(
        message,
        code=code.name,
        reason=info.reason if info else "",
        metadata=info.metadata if info else None,
        violations=[FieldViolation(v.field, v.description) for v in bad.field_violations] if bad else (),
        retry_delay=retry.retry_delay.ToTimedelta().total_seconds() if retry else None,
        hint=hint,
    )


def _from_transport(code: grpc.StatusCode, message: str, peer: str, hint: str) -> tuple[str, str]:
    """Words and hint for an error that carries no details: as a rule it is the channel's, not the service's."""
    if code is grpc.StatusCode.UNAVAILABLE:
        known = trouble(message)
        return f"{peer} does not answer ({known.words})", known.hint or hint
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{peer} did not answer in time", hint
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{peer} does not know this call ({message}): it is another plane, or of an older version", _OTHER_PLANE
    return f"{peer}: {message}", hint


def _details(error: Any) -> list[Any]:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS:
            try:
                return list(Status.FromString(value).details)
            except DecodeError:
                return []
    return []


def _find(details: list[Any], wanted: M) -> M | None:
    """`wanted`, filled from the first detail of its type; None when there is none."""
    for detail in details:
        if detail.Unpack(wanted):
            return wanted
    return None
