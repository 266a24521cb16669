"""Following a job's events over reconnections, without losing or repeating any."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc.aio

from batchyard.client.aio.calls import AsyncCaller
from batchyard.client.aio.waiting import sleep
from batchyard.client.events import Event
from batchyard.client.watching import Watching, WatchOptions

if TYPE_CHECKING:
    from batchyard.v1.training_pb2_grpc import TrainingServiceAsyncStub


async def watch(
    service: TrainingServiceAsyncStub, caller: AsyncCaller, options: WatchOptions
) -> AsyncGenerator[Event, None]:
    """The events of one job. After a broken connection it asks on from the last cursor received."""
    watching = Watching(options)
    while True:
        async with aclosing(_one_stream(service, caller, watching)) as events:
            async for event in events:
                yield event
        if watching.done:
            return
        request, patience = watching.look_up()
        job = await caller(service.GetTrainingJob, request, timeout=patience, retry_for=patience)
        await sleep(watching.pause_before_next(job))


async def _one_stream(
    service: TrainingServiceAsyncStub, caller: AsyncCaller, watching: Watching
) -> AsyncGenerator[Event, None]:
    """Events until the stream ends or breaks."""
    request, timeout = watching.open()
    stream: Any = service.WatchTrainingJob(request, timeout=timeout, metadata=caller.metadata)
    try:
        async for response in stream:
            if (event := watching.take(response)) is not None:
                yield event
            if watching.done:
                return
        watching.ended()
    except grpc.RpcError as error:
        watching.broke(caller.failure(error))
    finally:
        stream.cancel()
