"""Builds every object of the control plane and puts it together; nothing else does."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry

from batchyard.artifact.reader import read_certified_manifest
from batchyard.cluster.executor import Executor
from batchyard.control.attempts import Attempts
from batchyard.control.clock import Clock, SystemClock
from batchyard.control.data_folder import DataFolder, FolderInUseError
from batchyard.control.exchange import Exchange
from batchyard.control.explaining import Explaining
from batchyard.control.grpc_server import GrpcServer, reachable
from batchyard.control.http_server import HttpServer
from batchyard.control.inference_calls import InferenceCalls
from batchyard.control.inference_child import InferenceChild, InferenceOptions
from batchyard.control.inference_plane import Addresses, InferencePlane
from batchyard.control.jobs import Jobs
from batchyard.control.lease import LOOK_SECONDS, Lease
from batchyard.control.ledger import JobChange, Ledger
from batchyard.control.lineage import Lineages
from batchyard.control.metrics import Metrics
from batchyard.control.notices import Notices
from batchyard.control.recalibration import Recalibration
from batchyard.control.registry import Registry
from batchyard.control.retention import Retention
from batchyard.control.scheduler import Scheduler
from batchyard.control.settings import Settings
from batchyard.control.storage import Storage
from batchyard.control.store import jobs as job_store
from batchyard.control.store.database import Database
from batchyard.control.store.moved import find_again
from batchyard.control.torch_tasks import TorchTasks
from batchyard.control.traffic.watch import TrafficWatch
from batchyard.control.web import Sources
from batchyard.failpoints import failpoint

log = logging.getLogger(__name__)


class ControlPlane:
    """A whole control plane. `start` may raise what is wrong with its settings or its data folder; `stop` always comes
    after, and undoes as much as was done.

    Args:
        settings: how to run.
        executor: runs the attempts instead of what the settings name.
        clock: tells the time that is stored.
    """

    def __init__(self, settings: Settings, executor: Executor | None = None, clock: Clock | None = None) -> None:
        self._settings = settings
        self._executor = executor
        self._clock = clock or SystemClock()
        self._undo = AsyncExitStack()
        self._inference: InferenceChild | None = None
        self._started = time.time()
        self._for_child = ""
        self.lost = asyncio.Event()
        """Set when another control plane has taken the database over: nothing can be written any more."""
        self.grpc_address = ""
        """HOST:PORT once started."""
        self.http_address = ""
        self.jobs: Jobs
        self.registry: Registry
        self.inference_plane: InferencePlane

    async def start(self) -> None:
        """Returns once everything answers.

        Nothing that an earlier control plane left running is touched before every address is bound and the inference
        plane answers: a start that fails costs no job.
        """
        folder = await self._own_folder()
        storage = await Storage.open(self._settings, folder)
        ledger = await self._open(folder)
        folder.withdraw()
        executor = self._executor or make_executor(self._settings, folder)
        datasets = tuple(str(path.absolute()) for path in self._settings.datasets)
        allowed = self._settings.allow_python
        attempts = Attempts(
            ledger,
            artifacts=storage.artifacts,
            checkpoints=storage.checkpoints,
            data_folders=datasets,
            allow_python=allowed,
        )
        scheduler = Scheduler(ledger, attempts, executor, read_certified_manifest, self._settings.quota)
        self.jobs = Jobs(ledger, executor.capacity, allowed, self._settings.quota)
        self.registry = Registry(ledger)
        retention = Retention(ledger, storage.checkpoints, storage.artifacts)
        self._undo.push_async_callback(retention.stop)
        tasks = TorchTasks(ledger, folder.tasks, storage.artifacts, allowed)
        explaining = Explaining(ledger, self.jobs, scheduler.queue, self._clock)
        traffic = await self._watch_traffic(ledger.notices)
        metrics, lineages = await self._measure(ledger), Lineages(ledger)
        server = await self._serve(metrics, tasks, explaining, traffic, lineages)
        if self._settings.inference:
            await self._start_inference(folder)
        traffic.start()
        self._undo.push_async_callback(self._end_jobs, scheduler, executor)
        await scheduler.start()
        retention.start()
        await server.health.set(True)
        self._undo.push_async_callback(self._refuse, ledger.notices, server)
        self._undo.callback(folder.withdraw)
        failpoint("announce.before_file")
        self._announce(folder)
        log.info("gRPC %s, HTTP %s, data in %s", self.grpc_address, self.http_address, folder.path)

    async def stop(self) -> None:
        """Stops everything that was started, in the opposite order: watches end, then ports, jobs, children, files."""
        await self._undo.aclose()

    async def _own_folder(self) -> DataFolder:
        said = False
        while True:
            try:
                folder = DataFolder.own(self._settings.data_dir, self._clock.now())
            except FolderInUseError as error:
                if not self._settings.standby:
                    raise
                if not said:
                    log.info("standing by: %s", error)
                said = True
                await asyncio.sleep(LOOK_SECONDS)
            else:
                self._undo.callback(folder.release)
                return folder

    async def _end_jobs(self, scheduler: Scheduler, executor: Executor) -> None:
        """Stops what runs; what runs when the lease is lost belongs to another control plane and is left alone."""
        if self.lost.is_set():
            return await scheduler.let_go()
        await scheduler.stop()
        await asyncio.to_thread(executor.close)
        return None

    async def _open(self, folder: DataFolder) -> Ledger:
        where = self._settings.database_url or folder.database
        database = await asyncio.to_thread(Database.open, where)
        self._undo.push_async_callback(asyncio.to_thread, database.close)
        lease = Lease(database, folder.holder, str(where))
        await lease.acquire(standby=self._settings.standby)
        self.lost = lease.lost
        self._undo.push_async_callback(lease.stop)
        ledger = Ledger(database, Notices(), self._clock, lease.check)
        self._undo.push_async_callback(ledger.close)
        if moved := await ledger.write(lambda unit: find_again(unit.connection, folder.path)):
            log.info(
                "the data folder was elsewhere before: %d artifacts and checkpoints found in %s", moved, folder.path
            )
        return ledger

    async def _measure(self, ledger: Ledger) -> Metrics:
        metrics = Metrics(CollectorRegistry(), version=version("batchyard"))
        for job_id, state in await ledger.read(job_store.states):
            metrics.job_found(job_id, state)
        ledger.listen(_feed(metrics))
        return metrics

    async def _watch_traffic(self, notices: Notices) -> TrafficWatch:
        self.inference_plane = InferencePlane(self._inference_addresses, self._settings.security)
        self._undo.push_async_callback(self.inference_plane.close)
        traffic = TrafficWatch(self.inference_plane, notices, self._clock)
        self._undo.push_async_callback(traffic.stop)
        return traffic

    def _inference_addresses(self) -> Addresses | None:
        if self._inference is None:
            return None
        return Addresses(grpc=reachable(self._inference.grpc), http=reachable(self._inference.http))

    async def _serve(
        self, metrics: Metrics, tasks: TorchTasks, explaining: Explaining, traffic: TrafficWatch, lineages: Lineages
    ) -> GrpcServer:
        exchange = Exchange(self.registry, tasks)
        recalibration = Recalibration(self.registry, tasks)
        security = self._settings.security
        server = GrpcServer(self.jobs, explaining, self.registry, exchange, recalibration, lineages, security)
        self._undo.push_async_callback(server.stop)
        self.grpc_address = server.bind(self._settings.grpc)
        self._for_child = server.bind_for_child(self.grpc_address)
        sources = Sources(
            jobs=self.jobs,
            explaining=explaining,
            registry=self.registry,
            metrics=metrics,
            traffic=traffic,
            inference=InferenceCalls(self.inference_plane),
            recalibration=recalibration,
        )
        http = HttpServer(sources, security)
        self._undo.push_async_callback(http.stop)
        self.http_address = await http.start(self._settings.http)
        await server.start()
        return server

    async def _start_inference(self, folder: DataFolder) -> None:
        options = InferenceOptions(
            control=self._for_child,
            control_token_file=self._settings.security.token_file,
            cache=folder.inference,
            ready_file=folder.inference_ready,
            pid_file=folder.inference_pid,
            log=folder.inference_log,
            grpc=self._settings.inference_grpc,
            http=self._settings.inference_http,
            security=self._settings.security,
            flags=self._settings.inference_flags,
        )
        self._inference = InferenceChild(options, changed=lambda: self._announce(folder))
        self._undo.push_async_callback(self._inference.stop)
        await self._inference.start()

    async def _refuse(self, notices: Notices, server: GrpcServer) -> None:
        """Says that we are going, ends every watch, and takes no more calls."""
        await server.health.set(False)
        notices.close()
        await server.stop()

    def _announce(self, folder: DataFolder) -> None:
        security, inference = self._settings.security, self._inference
        facts: dict[str, Any] = {
            "pid": os.getpid(),
            "started": self._started,
            "grpc": reachable(self.grpc_address),
            "http": reachable(self.http_address),
            "inference_grpc": inference and reachable(inference.grpc),
            "inference_http": inference and reachable(inference.http),
            "inference_pid": inference and inference.pid,
            "tls": security.tls_cert is not None,
            "token_file": security.token_file and str(security.token_file.absolute()),
        }
        folder.announce(facts)


def make_executor(settings: Settings, folder: DataFolder) -> Executor:
    """The executor that the settings name; only its own library is loaded."""
    if settings.executor == "local":
        from batchyard.cluster.fork_client import ForkServer
        from batchyard.cluster.local import LocalExecutor

        fork_server = ForkServer() if settings.warm_workers else None
        return LocalExecutor(folder.executor, settings.workers, fork_server=fork_server)
    from batchyard.cluster.ray_executor import RayExecutor

    return RayExecutor(folder.executor, settings.ray_address, settings.workers, warm=settings.warm_workers)


def _feed(metrics: Metrics) -> Callable[[JobChange], None]:
    def take(change: JobChange) -> None:
        for event in change.reported:
            metrics.job_event(change.job.id, event)
        metrics.job_state(change.job.id, change.old_state, change.job.state)

    return take
