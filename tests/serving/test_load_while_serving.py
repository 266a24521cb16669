"""A version that serves goes on serving while the next one is fetched, measured and warmed up."""

from __future__ import annotations

import asyncio
import contextlib
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


async def test_requests_are_answered_while_engines_are_tried_and_exchanged(serving: Serving) -> None:
    await serving.start(engines=ENGINES)
    networks = {"1": SmallNetwork(seed=1), "2": SLOW}
    serving.wish(*(serving.version(int(number), network) for number, network in networks.items()))
    await serving.until_version(2)
    served = [serving.plane.repository.resolve("mnist", number) for number in networks]
    assert any(version.timings.measuring for version in served)
    began = time.perf_counter()
    seconds: list[float] = []
    while any(version.timings.measuring for version in served):
        for number, network in networks.items():
            asked = time.perf_counter()
            assert_is_answer(await serving.infer(network.pixels(1), version=number), network, network.pixels(1))
            seconds.append(time.perf_counter() - asked)
            await asyncio.sleep(0)
    assert len(seconds) > 20 * (time.perf_counter() - began)
    assert max(seconds) < SLOWEST_ANSWER_SECONDS
    for version in served:
        assert {trial.engine for trial in version.timings.trials} == set(ENGINES)
        assert version.timings.measured_on == version.wanted.label
        network = networks[version.version]
        assert_is_answer(await serving.infer(network.pixels(2), version=version.version), network, network.pixels(2))


async def test_only_the_thread_that_loads_yields_the_cores(serving: Serving) -> None:
    """Threads inherit the priority of those that start them: an engine's must not be those of a background task."""
    before = niceness()  # of an earlier test a thread may still be ending
    await serving.start()
    serving.wish(serving.version(1, SLOW))
    await serving.until_version(1)
    await serving.infer(SLOW.pixels(64))
    assert sum(nice > os.nice(0) for thread, nice in niceness().items() if thread not in before) == 1


def niceness() -> dict[str, int]:
    """Of each thread of this process."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            found[task.name] = int(task.joinpath("stat").read_text().rpartition(")")[2].split()[16])
    return found
