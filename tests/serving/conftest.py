"""Every test that asks for `serving` runs on both transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.serving.batch_bench import Bench
from tests.serving.harness import Serving


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are timed in as many rounds as always, but no more once those are done."""
    monkeypatch.setattr("batchyard.serving.engines.rounds.LEAST_SECONDS", 0.0)


@pytest.fixture(params=["native", "grpcio"])
async def serving(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Serving]:
    """Not started; stopped at the end."""
    harness = Serving(tmp_path, request.param)
    yield harness
    if hasattr(harness, "plane"):
        await harness.stop()
    if harness.control.port:
        await harness.control.stop()


@pytest.fixture
async def mnist(serving: Serving) -> Serving:
    """Serves version 1 of mnist under its number, as the latest and as production."""
    await serving.start()
    serving.wish(serving.version(1), aliases={"production": 1})
    await serving.until_version(1)
    return serving


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    with ThreadPoolExecutor(2) as executor:
        bench = Bench(executor)
        yield bench
        bench.engine.let(1000)
        await bench.batcher.drain()
