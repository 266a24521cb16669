"""Nothing is left of an engine's process, whenever the trial is given up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from pathlib import Path

import pytest

from batchyard.serving.engines.trial import Task
from batchyard.serving.engines.trial_process import trying
from bench.small_artifact import SmallNetwork, publish


def children() -> set[int]:
    """Processes that this one has started and that are not gone."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found |= {int(child) for child in (thread / "children").read_text().split()}
    return found


@pytest.fixture
def task(tmp_path: Path) -> Task:
    publish(tmp_path / "artifact", SmallNetwork())
    return Task(engine="onnxruntime", folder=tmp_path / "artifact", max_batch=2, nice=0)


@pytest.mark.parametrize("moment", ["starts", "ends"])
async def test_a_trial_given_up_while_its_process_starts_or_ends_leaves_nothing(task: Task, moment: str) -> None:
    async def run() -> None:
        async with trying(task):
            reached.set()
            if moment == "starts":
                await asyncio.Event().wait()

    before = children()
    for turns in range(8):
        reached = asyncio.Event()
        running = asyncio.create_task(run())
        if moment == "ends":
            await reached.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):  # it may have ended
            await running
        assert children() == before, f"given up {turns} turns of the loop after it {moment}"
    gc.collect()  # a transport that nobody closed warns when it is collected
