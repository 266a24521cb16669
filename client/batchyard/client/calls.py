"""One unary call: token, deadline, retries with back-off, errors as this client's exceptions."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import grpc

from batchyard.client import errors, status

Request = TypeVar("Request")
Response = TypeVar("Response")

FIRST_DELAY = 0.05
LONGEST_DELAY = 2.0
PASSING = {"LOADING", "STARTING"}
"""Reasons of a service that is at work on becoming available."""


def delays() -> Iterator[float]:
    """Seconds to wait before each next try: doubling, with jitter so that many clients do not come back at once."""
    delay = FIRST_DELAY
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, LONGEST_DELAY)


class Caller:
    """Makes calls to one service. Every call it makes must be idempotent: it is repeated while UNAVAILABLE."""

    def __init__(
        self,
        peer: str,
        *,
        token: str | None,
        timeout: float,
        retry_for: float,
        hints: dict[type[errors.RpcError], str],
        user: str = "",
    ) -> None:
        """`user` is who the service is told that the caller is; empty: nobody."""
        named = {"authorization": f"Bearer {token}" if token else "", "batchyard-user": user}
        self.metadata = tuple((key, value) for key, value in named.items() if value)
        self.timeout = timeout
        self._peer = peer
        self._retry_for = retry_for
        self._hints = hints

    def __call__(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
        retry_for: float | None = None,
    ) -> Response:
        """`method(request)`. `timeout` spans all tries; for `retry_for` an UNAVAILABLE service is tried again (seconds,
        default the client's; 0: never), and until the timeout where it is about to be available. Raises RpcError.
        """
        began = time.monotonic()
        deadline = began + (self.timeout if timeout is None else timeout)
        patience = self._retry_for if retry_for is None else retry_for
        for delay in delays():
            try:
                return method(request, timeout=max(0.001, deadline - time.monotonic()), metadata=self.metadata)
            except grpc.RpcError as error:
                failure = self.failure(error)
            delay = max(delay, failure.retry_delay or 0.0)
            give_up = deadline if failure.reason in PASSING and patience else min(deadline, began + patience)
            if not isinstance(failure, errors.UnavailableError) or time.monotonic() + delay > give_up:
                raise failure from None
            time.sleep(delay)
        raise AssertionError("delays() never ends")

    def failure(self, error: Any) -> errors.RpcError:
        """The exception for a failed call."""
        return status.from_grpc(error, self._peer, self._hints)
