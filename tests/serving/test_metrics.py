"""What Prometheus sees: true numbers, clean names, and no series of versions that are gone."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, refusal, until

PIXELS = SmallNetwork().pixels(3)
VERSION_1 = {"model": "mnist", "version": "1"}


async def scrape(serving: Serving, path: str = "/metrics") -> str:
    def read() -> str:
        with urllib.request.urlopen(f"http://{serving.plane.http_address}{path}", timeout=10) as response:
            return str(response.read().decode())

    return await asyncio.to_thread(read)


async def value(serving: Serving, name: str, labels: dict[str, str]) -> float | None:
    """One sample; None: there is no such series."""
    for family in text_string_to_metric_families(await scrape(serving)):
        for sample in family.samples:
            if sample.name == f"batchyard_inference_{name}" and sample.labels == labels:
                return float(sample.value)
    return None


async def test_requests_rows_and_batches_are_counted_and_timed(mnist: Serving) -> None:
    for _ in range(4):
        await mnist.infer(PIXELS)
    assert await value(mnist, "requests_total", VERSION_1) == 4
    assert await value(mnist, "rows_total", VERSION_1) == 12
    for histogram in ("request_duration_seconds", "queue_duration_seconds", "engine_duration_seconds", "batch_rows"):
        assert await value(mnist, f"{histogram}_count", VERSION_1) == 4
        assert await value(mnist, f"{histogram}_bucket", {**VERSION_1, "le": "+Inf"}) == 4
    assert await value(mnist, "batch_rows_bucket", {**VERSION_1, "le": "2.0"}) == 0
    assert await value(mnist, "batch_rows_bucket", {**VERSION_1, "le": "4.0"}) == 4
    assert await value(mnist, "batch_rows_sum", VERSION_1) == 12
    total, queued, engine = [
        await value(mnist, f"{part}_duration_seconds_sum", VERSION_1) for part in ("request", "queue", "engine")
    ]
    assert total
    assert queued
    assert engine
    assert 0 < queued + engine < total < 10


async def test_failures_are_counted_by_code_and_strangers_make_no_series(mnist: Serving) -> None:
    await refusal(mnist.infer(PIXELS.reshape(3, 28, 28)))
    for name in ("nonsense-1", "nonsense-2"):
        await refusal(mnist.infer(PIXELS, name))
    assert await value(mnist, "failures_total", {**VERSION_1, "code": "INVALID_ARGUMENT"}) == 1
    assert await value(mnist, "failures_total", {"model": "", "version": "", "code": "NOT_FOUND"}) == 2
    assert "nonsense" not in await scrape(mnist)


async def test_the_served_version_and_refused_loads_are_told(mnist: Serving) -> None:
    assert await value(mnist, "model_version", {"model": "mnist"}) == 1
    assert await value(mnist, "control_connected", {}) == 1
    mnist.wish(mnist.control.wish.models[0].versions[0], mnist.version(2, passed=False), aliases={"production": 2})
    await until(lambda: mnist.plane.repository.failures, "version 2 is refused")
    assert await value(mnist, "model_version", {"model": "mnist"}) == 1
    loads = await value(mnist, "load_failures_total", {"model": "mnist"})
    assert loads
    assert loads >= 1


async def test_series_of_versions_that_are_gone_are_gone(mnist: Serving) -> None:
    await mnist.infer(PIXELS)
    mnist.wish(mnist.version(2), aliases={"production": 2})
    await until(lambda: mnist.plane.repository.versions_of("mnist") == ["2"], "version 1 is gone")
    await until(lambda: 'version="1"' not in mnist.plane.metrics.render().decode(), "its series are gone")
    assert await value(mnist, "model_version", {"model": "mnist"}) == 2
    mnist.control.tell()
    await until(lambda: b"mnist" not in mnist.plane.metrics.render(), "the model's series are gone")


async def test_promtool_finds_nothing_to_complain_about(mnist: Serving) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "make system-packages installs promtool"
    await mnist.infer(PIXELS)
    await refusal(mnist.infer(PIXELS, "nonsense"))
    text = await scrape(mnist)
    checked = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    words = (checked.stdout + checked.stderr).splitlines()
    assert [line for line in words if not line.startswith("nv_inference_")] == []  # those names are not ours to choose


async def test_dashboards_made_for_triton_find_its_names(mnist: Serving) -> None:
    for _ in range(4):
        await mnist.infer(PIXELS)
    await refusal(mnist.infer(PIXELS.reshape(3, 28, 28)))
    series = dict(line.rsplit(" ", 1) for line in (await scrape(mnist)).splitlines() if line.startswith("nv_"))
    of_version = '{model="mnist",version="1"}'
    assert series[f"nv_inference_request_success{of_version}"] == "4"
    assert series[f"nv_inference_count{of_version}"] == "12"
    assert series[f"nv_inference_exec_count{of_version}"] == "4"
    assert series[f"nv_inference_pending_request_count{of_version}"] == "0"
    assert series['nv_inference_request_failure{model="mnist",version="1",reason="OTHER"}'] == "1"
    assert series['nv_inference_request_failure{model="mnist",version="1",reason="REJECTED"}'] == "0"
    whole, queue, infer = (
        float(series[f"nv_inference_{part}_duration_us{of_version}"]) for part in ("request", "queue", "compute_infer")
    )
    assert 0 < queue + infer < whole < 10e6
    assert {f"nv_inference_compute_{part}_duration_us{of_version}" for part in ("input", "output")} <= set(series)


async def test_a_full_queue_counts_for_triton_as_rejected(mnist: Serving) -> None:
    metrics = mnist.plane.repository.resolve("mnist", "").metrics
    for code in ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL"):
        metrics.failed(code)
    text = await scrape(mnist)
    failures = {reason: f'failure{{model="mnist",version="1",reason="{reason}"}}' for reason in
                ("REJECTED", "CANCELED", "BACKEND", "OTHER")}  # fmt: skip
    counts = {reason: text.split(series)[1].split()[0] for reason, series in failures.items()}
    assert counts == {"REJECTED": "2", "CANCELED": "1", "BACKEND": "1", "OTHER": "0"}


async def test_healthz_tells_by_its_status_whether_models_are_served(serving: Serving) -> None:
    await serving.control.start()
    await serving.control.stop()
    await serving.start()
    with pytest.raises(urllib.error.HTTPError) as caught:
        await scrape(serving, "/healthz")
    assert caught.value.code == 503
    caught.value.close()
    await serving.control.start()
    await until(lambda: serving.plane.repository.informed, "the wish was tried")
    assert await scrape(serving, "/healthz") == '{"serving": true, "all_models_ready": true}'
    serving.wish(serving.version(1, passed=False))
    await until(lambda: serving.plane.repository.failures, "the version is refused")
    assert await scrape(serving, "/healthz") == '{"serving": true, "all_models_ready": false}'
