"""Follows the control plane: what should be served comes as a stream; losing it changes nothing that is served."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from batchyard.endpoint.security import read_token
from batchyard.serving.metrics import Metrics
from batchyard.serving.naming import WantedModel
from batchyard.serving.repository import Repository
from batchyard.serving.settings import Control
from batchyard.serving.state import State, StateFile, from_control
from batchyard.v1 import models_pb2, models_pb2_grpc

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 5.0
FIRST_RETRY_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 120.0
"""A load that failed is tried again: its storage may have been away for a while."""

log = logging.getLogger(__name__)


class Follower:
    """Keeps a repository at what the control plane says should be served."""

    def __init__(
        self,
        control: Control,
        repository: Repository,
        state: StateFile,
        metrics: Metrics,
        apply: Callable[[Sequence[WantedModel]], Awaitable[None]],
    ) -> None:
        """`apply` makes the repository serve what is wanted."""
        self._control = control
        self._repository = repository
        self._state = state
        self._metrics = metrics
        self._apply_models = apply
        self._wanted: tuple[WantedModel, ...] | None = None
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Serves what the disk remembers, then follows until cancelled."""
        await self._restore()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._keep_applying())

    async def _restore(self) -> None:
        state = await asyncio.to_thread(self._state.read)
        if state is None:
            return
        log.info(
            "starting from what was served last: %s", ", ".join(model.name for model in state.serving) or "nothing"
        )
        await self._apply_models(state.serving)
        self._wanted = state.wanted
        self._told.set()

    async def _keep_applying(self) -> None:
        """Applies the newest wish; failed loads again after a while, at growing distances."""
        retry_after = FIRST_RETRY_SECONDS
        while True:
            timeout = retry_after if self._repository.failures else None
            try:
                # Not wait_for: before Python 3.12 it can swallow a cancellation that comes with the event.
                async with asyncio.timeout(timeout):
                    await self._told.wait()
                retry_after = FIRST_RETRY_SECONDS
            except TimeoutError:
                retry_after = min(2 * retry_after, LONGEST_RETRY_SECONDS)
            self._told.clear()
            await self._apply(self._wanted or ())

    async def _apply(self, wanted: tuple[WantedModel, ...]) -> None:
        await self._apply_models(wanted)
        try:
            await asyncio.to_thread(self._state.write, State(serving=tuple(self._repository.serving), wanted=wanted))
        except OSError as error:
            log.error("a restart without the control plane would serve what was served before: %s", error)

    async def _watch(self) -> None:
        """Reads the stream; connects again for ever, at growing distances, each jittered so that planes spread out."""
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            try:
                async with self._channel() as channel:
                    stub: Any = models_pb2_grpc.ModelServiceStub(channel)
                    call = stub.WatchServedModels(models_pb2.WatchServedModelsRequest(), metadata=self._metadata())
                    async for response in call:
                        self._hear(response)
                        backoff = FIRST_BACKOFF_SECONDS
                log.info("the control plane ended the stream")
            except grpc.aio.AioRpcError as error:
                if self._metrics.control_connected or backoff >= LONGEST_BACKOFF_SECONDS:
                    log.warning("control plane %s: %s: %s", self._control.address, error.code().name, error.details())
            except (OSError, ValueError) as error:
                log.error("control plane %s: %s", self._control.address, error)
            self._metrics.control_connected = False
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    def _hear(self, response: models_pb2.WatchServedModelsResponse) -> None:
        if not self._metrics.control_connected:
            log.info("following the control plane at %s", self._control.address)
        self._metrics.control_connected = True
        self._wanted = from_control(response)
        self._told.set()

    def _channel(self) -> grpc.aio.Channel:
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.keepalive_time_ms", 300_000),
            ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the back-off of the one before
            ("grpc.enable_retries", 0),  # they lose a stream that begins just when the control plane stops
        ]
        if self._control.ca is None:
            return grpc.aio.insecure_channel(self._control.address, options)
        credentials = grpc.ssl_channel_credentials(self._control.ca.read_bytes())
        return grpc.aio.secure_channel(self._control.address, credentials, options)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Read each time: a token may be renewed while we run."""
        if self._control.token_file is None:
            return ()
        return (("authorization", f"Bearer {read_token(self._control.token_file).decode()}"),)
