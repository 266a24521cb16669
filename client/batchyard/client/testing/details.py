"""Building what a failing fake service answers."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

T = TypeVar("T")


def bad_request(**violations: str) -> BadRequest:
    """The google.rpc detail of an INVALID_ARGUMENT: field to description, two underscores for a dot."""
    fields = {field.replace("__", "."): text for field, text in violations.items()}
    return BadRequest(field_violations=[BadRequest.FieldViolation(field=f, description=t) for f, t in fields.items()])


def find(table: dict[str, T], name: str, context: Any) -> T:
    """The entry, or NOT_FOUND."""
    if name not in table:
        abort(context, grpc.StatusCode.NOT_FOUND, f"{name} does not exist", reason="NOT_FOUND")
    return table[name]


def page_of(items: list[T], request: Any) -> tuple[list[T], str]:
    """The page that a list request asks for, and the token of the next."""
    begin, size = int(request.page_token or 0), request.page_size or 50
    return items[begin : begin + size], str(begin + size) if begin + size < len(items) else ""


def abort(context: Any, code: grpc.StatusCode, message: str, reason: str = "") -> NoReturn:
    """Ends the call with a google.rpc.Status."""
    status = Status(code=code.value[0], message=message)
    if reason:
        status.details.add().Pack(ErrorInfo(reason=reason, domain="batchyard"))
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status never returns")
