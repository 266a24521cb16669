"""One unary call: token, deadline, retries with back-off, errors as this client's exceptions."""

from __future__ import annotations

from typing import Any, TypeVar

import grpc.aio

from batchyard.client import errors, status
from batchyard.client.aio.waiting import sleep
from batchyard.client.retry import Patience

Request = TypeVar("Request")
Response = TypeVar("Response")


class AsyncCaller:
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

    async def __call__(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
        retry_for: float | None = None,
    ) -> Response:
        """`method(request)`. `timeout` spans all tries; for `retry_for` an UNAVAILABLE service is tried again (seconds,
        default the client's; 0: never), and until the timeout where it is about to be available. Raises RpcError.
        """
        patience = Patience(
            timeout=self.timeout if timeout is None else timeout,
            retry_for=self._retry_for if retry_for is None else retry_for,
        )
        while True:
            try:
                return await method(request, timeout=patience.left, metadata=self.metadata)
            except grpc.RpcError as error:
                failure = self.failure(error)
            await sleep(patience.pause_after(failure))

    def failure(self, error: Any) -> errors.RpcError:
        """The exception for a failed call."""
        return status.from_grpc(error, self._peer, self._hints)
