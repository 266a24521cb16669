"""A version that serves goes on serving while the next one is fetched, measured and warmed up."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer

SLOW = SmallNetwork(seed=2, hidden=(500, 500, 500))
"""Its batches take long enough for all cores to be worth it, so that the engines start threads."""

SLOWEST_ANSWER_SECONDS = 0.5
"""A hundred times what an answer takes beside a load, so that only one that waits for the load is as slow."""

ENGINES = ("onnxruntime", "openvino")


async def test_requests_are_answered_while_engines_are_tried_on_the_next_version(serving: Serving) -> None:
    await serving.start(engines=ENGINES)
    first = SmallNetwork(seed=1)
    versions = [serving.version(1, first), serving.version(2, SLOW)]
    serving.wish(versions[0])
    await serving.until_version(1)
    pixels = first.pixels(1)
    began = time.perf_counter()
    serving.wish(*versions)
    seconds: list[float] = []
    while serving.default_version() == "1":
        asked = time.perf_counter()
        assert_is_answer(await serving.infer(pixels, version="1"), first, pixels)
        seconds.append(time.perf_counter() - asked)
        await asyncio.sleep(0)
    load_seconds = time.perf_counter() - began
    assert len(seconds) > 50 * load_seconds
    assert max(seconds) < SLOWEST_ANSWER_SECONDS
    served = serving.plane.repository.resolve("mnist", "2")
    assert {trial.engine for trial in served.timings.trials} == set(ENGINES)
    assert_is_answer(await serving.infer(SLOW.pixels(2)), SLOW, SLOW.pixels(2))


async def test_only_the_thread_that_loads_yields_the_cores(serving: Serving) -> None:
    """Threads inherit the priority of those that start them: an engine's must not be those of a background task."""
    await serving.start()
    serving.wish(serving.version(1, SLOW))
    await serving.until_version(1)
    await serving.infer(SLOW.pixels(64))
    assert sum(nice > os.nice(0) for nice in niceness()) == 1


def niceness() -> list[int]:
    """Of each thread of this process."""
    stats = (task.joinpath("stat").read_text() for task in Path("/proc/self/task").iterdir())
    return [int(stat.rpartition(")")[2].split()[16]) for stat in stats]
