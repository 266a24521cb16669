"""A real store, jobs and registry behind a real web site; jobs live through what a script tells of them."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page, async_playwright
from prometheus_client import CollectorRegistry

from batchyard.artifact.manifest import CertificateRecord, Evaluated, FoldEntry, Manifest, Signature
from batchyard.cluster.executor import Capacity
from batchyard.control import lifecycle, names
from batchyard.control.admission import Queue
from batchyard.control.clock import SystemClock
from batchyard.control.explaining import Explaining
from batchyard.control.inference_calls import InferenceCalls
from batchyard.control.inference_plane import Addresses, InferencePlane
from batchyard.control.jobs import Jobs
from batchyard.control.ledger import JobChange, Ledger, Unit
from batchyard.control.metrics import Metrics
from batchyard.control.notices import Notices
from batchyard.control.recalibration import Recalibration
from batchyard.control.records import Failure, Job
from batchyard.control.registry import Registry
from batchyard.control.store import jobs as job_rows
from batchyard.control.store import models as model_rows
from batchyard.control.store.database import Database
from batchyard.control.torch_tasks import TorchTasks
from batchyard.control.traffic.watch import TrafficWatch
from batchyard.control.web import Sources, add_routes
from batchyard.endpoint.security import Security, web_middleware
from batchyard.training.events import Evaluation, Event, Layer, LayerStatistics, LogLine, PhaseChange, StepMetrics

from .browsing import CHROMIUM, FLAGS, Troubles

SPEC: dict[str, Any] = {
    "name": "mnist-mlp",
    "model": {"architecture": "mlp", "hidden": [100, 100, 100]},
    "data": {"dataset": "mnist"},
    "steps": 1000,
    "workers": {"count": 2},
    "publish": {"model": "mnist", "alias": "production"},
}


class Yard:
    """The service's inside, without an executor: tests tell what workers would report."""

    def __init__(self, folder: Path) -> None:
        self.database = Database.open(folder / "batchyard.sqlite3")
        self.notices = Notices()
        self.ledger = Ledger(self.database, self.notices, SystemClock())
        self.jobs = Jobs(self.ledger, lambda: Capacity(workers=8, gpus=0))
        self.registry = Registry(self.ledger)
        self.metrics = Metrics(CollectorRegistry(), version="test")
        self.plane_at: Addresses | None = None
        """Where an inference plane runs, if a test has started one."""
        self.plane = InferencePlane(lambda: self.plane_at, Security())
        self.tasks = TorchTasks(self.ledger, folder / "tasks", f"file://{folder / 'artifacts'}")
        self.traffic = TrafficWatch(self.plane, self.notices, SystemClock(), seconds=0.1)
        self.ledger.listen(self._measure)

    @property
    def sources(self) -> Sources:
        """What the web site is built from."""
        explaining = Explaining(self.ledger, self.jobs, self._queue, SystemClock())
        return Sources(
            jobs=self.jobs, explaining=explaining, registry=self.registry, metrics=self.metrics, traffic=self.traffic,
            inference=InferenceCalls(self.plane), recalibration=Recalibration(self.registry, self.tasks),
        )  # fmt: skip

    async def _queue(self) -> Queue:
        """Of no scheduler, and so of a cluster that nobody can ask."""
        return Queue(places=(), capacity=None, used=Capacity(workers=0, gpus=0), running=())

    def _measure(self, change: JobChange) -> None:
        self.metrics.job_state(change.job.id, change.old_state, change.job.state)
        for event in change.reported:
            self.metrics.job_event(change.job.id, event)

    async def create(self, **changes: Any) -> Job:
        return await self.jobs.create({**SPEC, **changes})

    async def begin(self, job_id: str) -> None:
        await self.ledger.write(lambda unit: unit.save(*_step(unit, job_id, lifecycle.begin)))

    async def report(self, job_id: str, *events: Event) -> None:
        def work(unit: Unit) -> None:
            job = _find(unit, job_id)
            unit.save(job, lifecycle.report(job, events, unit.now), events)

        await self.ledger.write(work)

    async def fail(self, job_id: str, failure: Failure) -> None:
        def work(unit: Unit) -> None:
            job = _find(unit, job_id)
            unit.save(job, lifecycle.fail(job, failure, unit.now))

        await self.ledger.write(work)

    async def succeed(self, job_id: str, manifest: Manifest | None = None) -> None:
        def work(unit: Unit) -> None:
            job = _find(unit, job_id)
            version = None
            if manifest is not None:
                row = model_rows.add_version(
                    unit.connection, manifest, f"file:///data/artifacts/{job_id}", "5e" * 32, unit.now
                )
                version = names.version(row.model, row.number)
                model_rows.set_alias(unit.connection, row.model, "production", row.number)
                unit.models_changed = True
            unit.save(job, lifecycle._succeed(job, unit.now, version))

        await self.ledger.write(work)

    async def close(self) -> None:
        self.notices.close()
        await self.traffic.stop()
        await self.plane.close()
        await self.ledger.close()
        self.database.close()


def _find(unit: Unit, job_id: str) -> Job:
    job = job_rows.find(unit.connection, job_id)
    assert job is not None
    return job


def _step(unit: Unit, job_id: str, act: Callable[[Job, float], lifecycle.Step]) -> tuple[Job, lifecycle.Step]:
    job = _find(unit, job_id)
    return job, act(job, unit.now)


def story(steps: int, until: int, every: int = 20, rate: float = 60.0, drifting: bool = False) -> list[Event]:
    """What two workers would report of `until` of `steps` steps, ending now: falling loss, rising accuracy."""
    noise = random.Random(7)
    now = time.time()
    told: list[Event] = []
    for step in [1, *range(every, until + 1, every)]:
        at = now - (until - step) / rate
        loss = 0.06 + 2.2 * math.exp(-step / 160) + noise.uniform(0, 0.05)
        accuracy = min(1.0, 0.985 - 0.85 * math.exp(-step / 140) + noise.uniform(-0.01, 0.01))
        told.append(
            StepMetrics(
                time=at, step=step, steps=steps, loss=loss, accuracy=accuracy, learning_rate=0.1,
                samples_per_second=60 * rate + noise.uniform(-90, 90), step_seconds=1 / rate,
                **step_parts(step, 1 / rate),
            )
        )  # fmt: skip
        told.append(LayerStatistics(time=at, step=step, layers=layers(step, noise, drifting)))
        if step % 200 == 0:
            told.append(
                Evaluation(time=at, step=step, loss=loss + 0.04, accuracy=min(1.0, accuracy - 0.008), samples=10000)
            )
    return told


def step_parts(step: int, seconds: float) -> dict[str, float]:
    """Where the time of a step goes; the first one is not measured."""
    shares = {"data": 0.04, "forward": 0.3, "backward": 0.4, "collectives": 0.15, "optimizer": 0.06}
    return {} if step == 1 else {f"{part}_seconds": share * seconds for part, share in shares.items()}


def layers(step: int, noise: random.Random, drifting: bool = False) -> tuple[Layer, ...]:
    """Three normalised layers; or three that drift, as those of a plain network do."""
    told = []
    for depth in range(3):
        shift = (depth - 1) * 2.5 * (1 - math.exp(-step / 300)) if drifting else 0.15 * depth
        width = (0.6 + 2.0 * (1 - math.exp(-step / 250))) if drifting else 1.0 + 0.2 * math.exp(-step / 200)
        jitter = noise.uniform(-0.05, 0.05)
        told.append(
            Layer(
                name=f"layers.{depth}.norm", p15=shift - width + jitter, p50=shift + jitter, p85=shift + width + jitter,
                saturated=0.02 + 0.3 * drifting * (1 - math.exp(-step / 300)), dead=0.01 * depth,
                drift=0.004 + 0.3 * math.exp(-step / 60), worker_spread=0.03 + 0.01 * depth,
            )
        )  # fmt: skip
    return tuple(told)


def manifest(job: Job) -> Manifest:
    """Of a published model with two folded layers and one that could not be."""
    return Manifest(
        model="mnist", job=job.id, attempt=1, created=time.time(), spec=dict(job.spec), seed=0,
        libraries={"torch": "2.13.0", "batchyard": "0.1.0"}, dataset="mnist", dataset_sha256="ab" * 32,
        classes=tuple("0123456789"), parameter_count=99_710,
        inputs=(Signature(name="pixels", datatype="FP32", shape=(-1, 1, 28, 28)),),
        outputs=(Signature(name="logits", datatype="FP32", shape=(-1, 10)),),
        population_statistics="alg2",
        fold_report=(
            FoldEntry(layer="input", status="folded", into="layers.0.linear"),
            FoldEntry(layer="layers.0.norm", status="folded", into="layers.0.linear"),
            FoldEntry(layer="layers.1.norm", status="affine", reason="two layers read what comes before it"),
            FoldEntry(layer="layers.2.norm", status="folded", into="layers.2.linear"),
        ),
        certificate=CertificateRecord(passed=True, max_error=3.1e-6, bound=8.4e-5, samples=64, digest="c0ffee" * 10),
        evaluated=Evaluated(accuracy=0.9781, loss=0.071, samples=10000),
        files={},
    )  # fmt: skip


async def begin_training(yard: Yard, job: Job, events: Iterable[Event] = ()) -> None:
    """Takes a queued job to RUNNING, loading over, with `events` reported."""
    await yard.begin(job.id)
    await yard.report(job.id, PhaseChange(phase="loading"), LogLine(level="INFO", rank=0, text="mnist: 60000 samples"))
    await yard.report(job.id, PhaseChange(phase="training"), *events)


@dataclasses.dataclass(frozen=True)
class Site:
    """The web site of a yard."""

    url: str
    yard: Yard
    session: aiohttp.ClientSession

    async def json(self, path: str, status: int = 200) -> Any:
        async with self.session.get(self.url + path) as response:
            assert response.status == status, await response.text()
            return await response.json()


@asynccontextmanager
async def serve(folder: Path, security: Security | None = None, port: int = 0) -> AsyncIterator[Site]:
    """The dashboard on 127.0.0.1, by default on a free port, as the control plane serves it."""
    yard = Yard(folder)
    security = security or Security()
    app = web.Application(middlewares=[web_middleware(security)])
    add_routes(app, yard.sources, security)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession() as session:
            yield Site(f"http://127.0.0.1:{port}", yard, session)
    finally:
        yard.notices.close()
        await runner.cleanup()
        await yard.close()


@pytest_asyncio.fixture(loop_scope="module")
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serve(tmp_path) as served:
        yield served


@pytest.fixture
def yard(site: Site) -> Yard:
    return site.yard


Tell = Callable[..., Awaitable[Job]]


@pytest.fixture
def running(yard: Yard) -> Tell:
    """Makes a job that has done `until` steps."""

    async def make(until: int = 400, **changes: Any) -> Job:
        job = await yard.create(**changes)
        await begin_training(yard, job, story(int(job.spec["steps"]), until))
        return job

    return make


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, site: Site) -> AsyncIterator[Page]:
    """A page that must raise no error and ask nobody but the site."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    opened = await context.new_page()
    troubles = Troubles(opened, site.url)
    yield opened
    await context.close()
    assert troubles.seen == []
