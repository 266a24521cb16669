"""ModelStreamInfer: inferences over one stream, answered in the order in which they came.

The requests of a stream are under way together, so that they fill batches as those of many callers would. One that
fails is told by its answer's error_message and ends nothing; a client that sends the metadata `triton_grpc_error: true`
has the stream end with the error's status instead, as in Triton.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from batchyard.endpoint.status import describe
from batchyard.oip import messages

MOST_UNDER_WAY = 128
"""Requests of one stream that are read before the first of them is answered; then the client has to wait."""
METHOD = "ModelStreamInfer"

Infer = Callable[[messages.ModelInferRequest, Any], Coroutine[Any, Any, messages.ModelInferResponse]]
Pending = tuple[str, asyncio.Task[messages.ModelInferResponse]]
"""A request's id, and its answer to be."""


class StreamInference:
    """Streams over ModelInfer."""

    def __init__(self, infer: Infer) -> None:
        self._infer = infer

    async def ModelStreamInfer(
        self, requests: AsyncIterator[messages.ModelInferRequest], context: Any
    ) -> AsyncIterator[messages.ModelStreamInferResponse]:
        """One answer for each request. Raises, after the answers before it, where the stream breaks off."""
        stream = _Stream(self._infer, requests, context)
        end_at_error = dict(context.invocation_metadata() or ()).get("triton_grpc_error") == "true"
        try:
            while (pending := await stream.next()) is not None:
                request_id, answer = pending
                try:
                    yield _final(await answer)
                except Exception as error:
                    if end_at_error:
                        raise
                    yield _failed(request_id, error)
                stream.answered()
        finally:
            stream.close()


class _Stream:
    """Reads requests and begins them; gives their answers in order."""

    def __init__(self, infer: Infer, requests: AsyncIterator[messages.ModelInferRequest], context: Any) -> None:
        self._infer = infer
        self._context = context
        self._room = asyncio.Semaphore(MOST_UNDER_WAY)
        self._under_way: asyncio.Queue[Pending | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[messages.ModelInferResponse]] = set()
        self._reader = asyncio.get_running_loop().create_task(self._read(requests))
        self._reader.add_done_callback(lambda _: self._under_way.put_nowait(None))

    async def next(self) -> Pending | None:
        """The next request that waits for its answer; None: there are no more. Raises what reading raised."""
        pending = await self._under_way.get()
        if pending is None:
            await self._reader
        return pending

    def answered(self) -> None:
        """The last one that `next` gave needs no room any more."""
        self._room.release()

    def close(self) -> None:
        """Nobody waits for the rest: it leaves the batcher's queue."""
        for task in (self._reader, *self._tasks):
            task.cancel()

    async def _read(self, requests: AsyncIterator[messages.ModelInferRequest]) -> None:
        async for request in requests:
            await self._room.acquire()
            task = asyncio.get_running_loop().create_task(self._infer(request, self._context))
            self._tasks.add(task)
            task.add_done_callback(self._forget)
            self._under_way.put_nowait((request.id, task))

    def _forget(self, task: asyncio.Task[messages.ModelInferResponse]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever awaits it; if that is nobody any more, it is no news


def _final(response: messages.ModelInferResponse) -> messages.ModelStreamInferResponse:
    """Each request has one answer, which is its last: clients of models with several look for this parameter."""
    response.parameters["triton_final_response"].bool_param = True
    return messages.ModelStreamInferResponse(infer_response=response)


def _failed(request_id: str, error: Exception) -> messages.ModelStreamInferResponse:
    _, status = describe(error, METHOD)
    answer = messages.ModelInferResponse(id=request_id)
    return messages.ModelStreamInferResponse(error_message=status.message, infer_response=answer)
