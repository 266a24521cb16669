"""Builds one inference plane and runs it. The only place that makes objects."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from batchyard.endpoint.services import add_standard_services
from batchyard.endpoint.status import Guarded
from batchyard.oip import add_servicer
from batchyard.oip.contract import FILES
from batchyard.serving import transport
from batchyard.serving.follower import Follower
from batchyard.serving.loading import Loader
from batchyard.serving.log_settings import LogSettings
from batchyard.serving.metrics import Metrics
from batchyard.serving.model_control import ModelControl
from batchyard.serving.oip import OpenInference, extensions_of
from batchyard.serving.oip.config import Configuration
from batchyard.serving.oip.discovery import Discovery
from batchyard.serving.oip.infer import Inference
from batchyard.serving.oip.logs import Logging
from batchyard.serving.oip.model_control import RepositoryControl
from batchyard.serving.oip.shared_memory import CudaSharedMemory, SystemSharedMemory
from batchyard.serving.oip.statistics import Statistics
from batchyard.serving.oip.stream import StreamInference
from batchyard.serving.oip.trace import TraceSettings
from batchyard.serving.repository import Repository
from batchyard.serving.settings import Settings
from batchyard.serving.shadow_service import ShadowServicer
from batchyard.serving.shadow_watch import ShadowWatch
from batchyard.serving.shared_memory import SharedMemory
from batchyard.serving.shift_service import ShiftServicer
from batchyard.serving.shift_watch import ShiftWatch
from batchyard.serving.state import StateFile
from batchyard.serving.telemetry import Telemetry
from batchyard.serving.tracing import Tracing
from batchyard.serving.triton_errors import TritonErrors, triton_method
from batchyard.serving.web import Web
from batchyard.v1 import shadow_pb2, shadow_pb2_grpc, shift_pb2, shift_pb2_grpc

log = logging.getLogger(__name__)


class InferencePlane:
    """One inference plane. Belongs to the event loop that makes it."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError."""
        self._settings = settings
        self.metrics = Metrics()
        cores = len(os.sched_getaffinity(0))
        loader = Loader(settings.cache, settings.engines)
        self._shift = ShiftWatch(settings.shift_sample_rate, settings.shift_keep_rows, settings.cache)
        self._shadows = ShadowWatch(settings.cache)
        self.repository = Repository(loader, settings.limits, self.metrics, cores, self._shift, self._shadows)
        self._model_control = ModelControl(self.repository, self._tell_health)
        self.shared_memory = SharedMemory(settings.shared_memory)
        telemetry = Telemetry(settings.otlp_endpoint, settings.otlp_sample_rate) if settings.otlp_endpoint else None
        self._tracing = Tracing(settings.trace_dir, telemetry)
        self._log_settings = LogSettings(logging.getLogger())
        self.transport = transport.choose(settings.transport, settings.security)
        inference = Inference(self.repository, self.metrics, self.shared_memory, self._tracing)
        method = triton_method(inference.as_method) if settings.triton_error_codes else inference.as_method
        self._server = transport.make_server(self.transport, settings.security, settings.max_message_bytes, method)
        guarded: Any = Guarded(self._server)
        if settings.triton_error_codes:
            guarded = TritonErrors(guarded)
        add_servicer(OpenInference(self._parts(inference)), guarded)
        shift_pb2_grpc.add_ShiftServiceServicer_to_server(ShiftServicer(self.repository), guarded)
        shadow_pb2_grpc.add_ShadowServiceServicer_to_server(ShadowServicer(self.repository), guarded)
        self._health = add_standard_services(guarded, (*FILES, shift_pb2.DESCRIPTOR, shadow_pb2.DESCRIPTOR))
        self._web = Web(self.metrics, self.repository, settings.security)
        state = StateFile(settings.cache)
        self._follower = Follower(settings.control, self.repository, state, self.metrics, self._model_control.apply)
        self._following: asyncio.Task[None] | None = None
        self.grpc_address = ""
        """HOST:PORT once started."""
        self.http_address = ""
        """HOST:PORT once started."""

    async def start(self) -> None:
        """Binds, answers and begins to follow. Raises SettingsError when an address is taken."""
        settings = self._settings
        await self._health.set(False)
        self.grpc_address = transport.bind(self._server, settings.grpc, settings.security)
        await self._server.start()
        self.http_address = await self._web.start(settings.http)
        self._following = asyncio.create_task(self._follower.run())
        if settings.ready_file is not None:
            addresses = {"pid": os.getpid(), "grpc": self.grpc_address, "http": self.http_address}
            _write_whole(settings.ready_file, json.dumps(addresses))
        log.info("gRPC %s (%s), HTTP %s", self.grpc_address, self.transport, self.http_address)

    async def run_until(self, asked_to_stop: asyncio.Event) -> bool:
        """Returns when asked to stop, or True when following failed: better a restart than falling behind unseen."""
        assert self._following is not None, "start() comes first"
        stop = asyncio.create_task(asked_to_stop.wait())
        await asyncio.wait([stop, self._following], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not self._following.done():
            return False
        log.critical("the follower of the control plane failed", exc_info=self._following.exception())
        return True

    async def stop(self) -> None:
        """Answers what is in flight, refuses the rest, and frees everything."""
        if self._settings.ready_file is not None:
            self._settings.ready_file.unlink(missing_ok=True)
        await self._health.close()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._server.stop(self._settings.drain_seconds)
        await self._web.stop()
        await self.repository.close()
        self.shared_memory.unregister("")
        await asyncio.to_thread(self._tracing.close)
        self._log_settings.close()
        await asyncio.to_thread(self._shift.close)
        await asyncio.to_thread(self._shadows.close)

    def _parts(self, inference: Inference) -> Iterable[object]:
        """What answers the protocol's methods."""
        settings, repository = self._settings, self.repository
        yield inference
        yield StreamInference(inference.ModelInfer)
        yield Discovery(repository, metadata.version("batchyard"), extensions_of(settings))
        yield SystemSharedMemory(self.shared_memory)
        yield CudaSharedMemory()
        yield Configuration(repository)
        yield Statistics(repository)
        yield RepositoryControl(self._model_control, settings.model_control)
        yield TraceSettings(self._tracing, repository)
        yield Logging(self._log_settings)

    async def _tell_health(self) -> None:
        await self._health.set(self.repository.informed)


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
