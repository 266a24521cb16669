"""A real Prometheus, with the configuration of deploy/, scrapes real planes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry

from batchyard.client import AsyncClient, RpcError
from batchyard.cluster.attempts import MARK
from batchyard.cluster.processes import marked
from batchyard.control.metrics import Metrics
from batchyard.control.process_watch import command_of
from batchyard.control.states import State
from batchyard.training.events import Layer, LayerStatistics, StepMetrics

from .conftest import ROOT, load

SECONDS = 60


async def eventually(ask: Callable[[], Awaitable[Any]], what: str) -> Any:
    """What `ask` gives as soon as it is something."""
    deadline = time.monotonic() + SECONDS
    while not (answer := await ask()):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)
    return answer


@asynccontextmanager
async def process(*command: str, **more: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is asked to stop at the end, and does."""
    started = await asyncio.create_subprocess_exec(*command, **more)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SECONDS):
            await started.wait()


@asynccontextmanager
async def prometheus(folder: Path, **targets: str) -> AsyncIterator[str]:
    """Prometheus with deploy's configuration, the targets replaced by these; gives its address."""
    configuration = load("deploy/prometheus/prometheus.yml")
    configuration["global"]["scrape_interval"] = "500ms"
    configuration["global"]["evaluation_interval"] = "500ms"
    configuration["rule_files"] = [str(ROOT / "deploy/prometheus/rules.yml")]
    for job in configuration["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"].removeprefix("batchyard-")]]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    flags = (f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}", "--web.listen-address=127.0.0.1:0")
    async with process("prometheus", *flags, stderr=subprocess.PIPE) as started:
        assert started.stderr is not None
        address = ""
        async with asyncio.timeout(SECONDS):
            while not address:
                line = (await started.stderr.readline()).decode()
                assert line, "prometheus ended before it listened"
                found = re.search(r'msg="Listening on" address=(\S+)', line)
                address = found[1] if found else ""
        reading = asyncio.create_task(started.stderr.read())  # so that it never waits for a full pipe
        yield f"http://{address}"
    await reading


async def api(session: aiohttp.ClientSession, url: str, **parameters: str) -> Any:
    async with session.get(url, params=parameters) as response:
        if response.status != 200:
            return {}
        return (await response.json())["data"]


async def health(session: aiohttp.ClientSession, prometheus_url: str) -> dict[str, str]:
    """Target's job -> up, down or unknown; empty until all are up."""
    found = await api(session, f"{prometheus_url}/api/v1/targets")
    told = {one["labels"]["job"]: one["health"] for one in found.get("activeTargets", [])}
    return told if set(told.values()) == {"up"} else {}


SPEC = {
    "model": {"architecture": "mlp", "hidden": [8]},
    "data": {"dataset": "digits"},
    "workers": {"count": 1},
    "checkpoint": {"every_steps": 50},
}


@asynccontextmanager
async def service(data: Path) -> AsyncIterator[dict[str, Any]]:
    """Both planes; gives control.json."""
    free = "127.0.0.1:0"
    flags = ("--grpc", free, "--http", free, "--inference-grpc", free, "--inference-http", free, "--executor", "local")
    announced = data / "control.json"

    async def read() -> Any:
        return json.loads(announced.read_text()) if announced.exists() else None

    async with process(sys.executable, "-m", "batchyard.control", "--data-dir", str(data), *flags) as control:
        yield await eventually(read, "control.json")
    assert control.returncode == 0


def kill_the_worker(data: Path, job: str) -> None:
    """As the kernel does when memory runs out."""
    (attempt,) = data.glob(f"executor/attempts/{job}-*/attempt.json")
    found = marked(MARK, json.loads(attempt.read_text())["mark"])
    (worker,) = (each for each in found if "batchyard.cluster.worker_main" in command_of(each.pid))
    worker.send(signal.SIGKILL)


async def test_a_real_prometheus_records_and_alerts_on_a_running_service(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with (
        service(data) as facts,
        AsyncClient(facts["grpc"], facts["inference_grpc"]) as client,
        aiohttp.ClientSession() as session,
        prometheus(tmp_path, control=facts["http"], inference=facts["inference_http"]) as url,
    ):
        publish = {"name": "short", "steps": 20, "publish": {"model": "digits", "alias": "production"}, **SPEC}
        short = await client.submit(publish)
        told = await eventually(lambda: health(session, url), "both targets up")
        assert told == {"batchyard-control": "up", "batchyard-inference": "up"}
        assert (await client.wait(short.name, timeout=SECONDS)).model_version == "models/digits/versions/1"
        long = await client.submit({"name": "long", "steps": 1_000_000, **SPEC})
        identity = long.name.removeprefix("trainingJobs/")
        await eventually(lambda: ready(client), "digits is served")

        async def positive(query: str) -> Any:
            await client.predict("digits", np.zeros((1, 1, 8, 8), np.uint8))  # rates are of what goes on
            series = await api(session, f"{url}/api/v1/query", query=f"{query} > 0")
            return series and series["result"]

        for rule in load("deploy/prometheus/rules.yml")["groups"]:
            for recorded in (each["record"] for each in rule["rules"] if "record" in each):
                if "failures" not in recorded:
                    assert await eventually(partial(positive, recorded), recorded)
        (progress,) = await positive("job:batchyard_job_progress:ratio")
        assert (progress["metric"]["job"], float(progress["value"][1]) < 1) == (identity, True)
        states = await api(session, f"{url}/api/v1/query", query="batchyard_jobs")
        assert {one["metric"]["state"] for one in states["result"]} == set(State)

        kill_the_worker(data, identity)
        firing = 'ALERTS{alertname="BatchyardInfrastructureFailures", alertstate="firing"}'
        (alert,) = await eventually(partial(positive, firing), "the alert about a lost worker")
        assert alert["metric"]["failure_class"] == "infrastructure"
        rules = await api(session, f"{url}/api/v1/rules")
        assert {rule["health"] for group in rules["groups"] for rule in group["rules"]} == {"ok"}
        await client.cancel(identity)
        for plane in ("http", "inference_http"):
            healthy = await asyncio.create_subprocess_exec(
                sys.executable, str(ROOT / "deploy/docker/healthcheck.py"), facts[plane]
            )
            assert await healthy.wait() == 0


async def ready(client: AsyncClient) -> bool:
    """Whether digits answers; a model that nobody has told the plane of is an error."""
    try:
        return await client.inference.model_ready("digits")
    except RpcError:
        return False


async def test_a_jobs_own_label_reaches_prometheus_unrenamed_and_its_series_end_with_it(
    tmp_path: Path,
) -> None:
    metrics = Metrics(CollectorRegistry(), version="test")
    metrics.job_state("mnist-1", None, State.QUEUED)
    metrics.job_state("mnist-1", State.QUEUED, State.STARTING)
    metrics.job_state("mnist-1", State.STARTING, State.RUNNING)
    metrics.job_event(
        "mnist-1",
        StepMetrics(step=5, steps=9, loss=0.5, accuracy=0.5, learning_rate=0.1, samples_per_second=9, step_seconds=0.1),
    )
    layer = Layer(name="norm", p15=-1.5, p50=0, p85=1, saturated=0, dead=0)
    metrics.job_event("mnist-1", LayerStatistics(step=5, layers=(layer,)))

    async def render(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.router.add_get("/metrics", render)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with (
            prometheus(tmp_path, control=target, inference=target) as url,
            aiohttp.ClientSession() as session,
        ):
            query = 'batchyard_job_layer_activation{job="mnist-1", layer="norm", percentile="p15"}'

            async def found() -> Any:
                series = await api(session, f"{url}/api/v1/query", query=query)
                return series and series["result"]

            series = await eventually(found, "the layer's series")
            assert float(series[0]["value"][1]) == -1.5

            metrics.job_state("mnist-1", State.RUNNING, State.SUCCEEDED)

            async def gone() -> bool:
                return not await found()

            assert await eventually(gone, "the series to end")
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _prometheus_is_there() -> None:
    for program in ("prometheus", "promtool"):
        assert Path(f"/usr/bin/{program}").exists(), f"{program} is missing: make system-packages installs it"
