"""Triton's status codes in place of ours where ours say more, for clients that branch on Triton's.

Triton says UNAVAILABLE when the queue is full and when a request expired in it, where we say RESOURCE_EXHAUSTED and
DEADLINE_EXCEEDED; it says UNAVAILABLE, too, for what an operator has forbidden. Message and details stay as they are:
ErrorInfo still has the reason, and a full queue still says when to come back.

Source: Triton's src/grpc/grpc_utils.cc, which maps its eight error codes.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import grpc

from batchyard.endpoint.errors import DeadlineError, DomainError, ForbiddenError, OverloadedError, UnavailableError
from batchyard.endpoint.status import rewrap
from batchyard.serving.front import Method


class _UnavailableForNowError(UnavailableError, OverloadedError):
    """A full queue: Triton's code, our time to come back."""


def as_triton_says(error: Exception) -> Exception:
    """The error whose code is the one that Triton would give; others than domain errors stay."""
    if isinstance(error, OverloadedError):
        return _UnavailableForNowError(
            error.message, reason=error.reason, retry_after=error.retry_after, metadata=error.metadata
        )
    if isinstance(error, DeadlineError | ForbiddenError):
        return UnavailableError(error.message, reason=error.reason, metadata=error.metadata)
    return error


def triton_method(method: Method) -> Method:
    """The method, called back with Triton's errors."""

    def begin(request: Any, seconds: float | None, metadata: Any, done: Callable[[Any], None]) -> Any:
        def translated(outcome: Any) -> None:
            done(as_triton_says(outcome) if isinstance(outcome, Exception) else outcome)

        return method.begin(request, seconds, metadata, translated)

    @lru_cache(1)  # an overload has one error for many calls
    def translation(refusal: Exception) -> Exception:
        return as_triton_says(refusal)

    def refusal(packed: bytes) -> Exception | None:
        ours = method.refusal(packed)
        return None if ours is None else translation(ours)

    return method._replace(begin=begin, refusal=refusal)


class TritonErrors:
    """A gRPC server whose handlers raise Triton's errors; for add_…_to_server functions, in the server's place."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """For servers that look methods up by name."""
        translated = {name: rewrap(handler, _translated) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, translated)

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """For servers that ask each service for its methods."""
        self._server.add_generic_rpc_handlers([_TranslatedService(handler) for handler in handlers])


class _TranslatedService(grpc.ServiceRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    def __init__(self, service: Any) -> None:
        self._service = service

    def service_name(self) -> str:
        return str(self._service.service_name())

    def service(self, handler_call_details: Any) -> Any:
        handler = self._service.service(handler_call_details)
        return None if handler is None else rewrap(handler, _translated)


def _translated(behaviour: Any) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, context)
        except DomainError as error:
            raise as_triton_says(error) from error

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in behaviour(request, context):
                yield response
        except DomainError as error:
            raise as_triton_says(error) from error

    return stream if inspect.isasyncgenfunction(behaviour) else answer
