"""An engine whose threads run already is opened at low priority; its batches run at normal priority all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchyard.serving.engines.catalogue import open_engine
from batchyard.serving.engines.chosen import open_chosen
from batchyard.serving.engines.interface import Engine
from batchyard.serving.engines.pools import ThreadPools
from batchyard.serving.engines.priority import LOWER_PRIORITY, lower_priority, only_what_is_left
from batchyard.serving.engines.timings import Share
from batchyard.serving.loading import Loader, Wanted
from bench.small_artifact import SmallNetwork, publish
from tests.serving.test_engines import network_in

WIDE = SmallNetwork(seed=1, hidden=(1000, 1000))
"""Its batches are worth a second thread."""


def shares(engine: str, threads: int) -> list[Share]:
    return [Share(up_to=8, engine=engine, threads=threads)]


def test_only_threads_that_belong_to_the_process_and_are_enough_count() -> None:
    pools = ThreadPools()
    assert not pools.suffice_for(shares("openvino", 1))
    pools.started(shares("openvino", 2) + shares("onnxruntime", 2))
    pools.started(shares("openvino", 1))
    assert pools.suffice_for(shares("openvino", 2))
    assert pools.suffice_for(shares("openvino-bf16", 1))
    assert not pools.suffice_for(shares("openvino", 3))
    assert not pools.suffice_for(shares("onnxruntime", 1))
    assert not pools.suffice_for(shares("openvino", 2) + shares("onnxruntime", 1))


@pytest.mark.parametrize("yielding", [lower_priority, only_what_is_left], ids=["lower", "what-is-left"])
def test_openvinos_batches_run_at_the_priority_of_the_first_network_that_was_opened(
    tmp_path: Path, yielding: Callable[[], None]
) -> None:
    network = network_in(tmp_path, WIDE.onnx_model(), WIDE.row_shape)
    rows = WIDE.pixels(256).astype(np.float32)
    first = open_engine("openvino", network, 2)
    first.run(rows)
    first.close()
    with ThreadPoolExecutor(1, initializer=yielding) as elsewhere:
        engine: Engine = elsewhere.submit(open_engine, "openvino", network, 2).result()
        before = nanoseconds_by_thread()
        for _ in range(5):
            engine.run(rows)
        worked = {thread: spent - before.get(thread, 0) for thread, spent in nanoseconds_by_thread().items()}
    engine.close()
    busy = [thread for thread, spent in worked.items() if spent > 1e6 and alive(thread)]
    assert {priority_of(thread) for thread in busy} == {os.nice(0)}
    assert {os.sched_getscheduler(thread) for thread in busy} == {os.SCHED_OTHER}


def test_a_lower_priority_is_lower_than_that_of_a_process_that_was_started_niced() -> None:
    code = (
        "import os; from batchyard.serving.engines.priority import lower_priority as lower; lower(); print(os.nice(0))"
    )
    command = ("nice", "-n", "3", sys.executable, "-c", code)
    told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert int(told) == min(19, os.nice(0) + 3 + LOWER_PRIORITY)


async def test_a_later_version_is_opened_at_low_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_at: list[tuple[int, int]] = []

    def noted(*arguments: Any) -> Engine:
        opened_at.append((os.sched_getscheduler(0), priority_of(threading.get_native_id())))
        return open_chosen(*arguments)

    monkeypatch.setattr("batchyard.serving.loading.open_chosen", noted)
    loader = Loader(tmp_path / "cache", ("openvino",))
    for number in (1, 2, 3):
        uri = tmp_path / str(number)
        sha256 = publish(uri, SmallNetwork(seed=number))
        wanted = Wanted(model="mnist", version=number, artifact_uri=str(uri), manifest_sha256=sha256)
        loaded = await loader.load(wanted, 8)
        if loaded.timings.measuring:
            await loader.improve(wanted, loaded, 8)
        loaded.engine.close()
    loader.close()
    on_a_busy_machine = os.SCHED_OTHER, min(19, os.nice(0) + LOWER_PRIORITY)
    assert all(at in ((os.SCHED_IDLE, os.nice(0)), on_a_busy_machine) for at in opened_at[-2:])


def priority_of(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def alive(thread: int) -> bool:
    return Path(f"/proc/self/task/{thread}").exists()


def nanoseconds_by_thread() -> dict[int, int]:
    """What each thread of this process has spent on a core."""
    spent = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            spent[int(task.name)] = int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:  # it has just ended
            continue
    return spent
