from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import torch

from batchyard.training.context import WorkerContext
from batchyard.training.events import Event
from batchyard.training.spec import TrainingJobSpec

DEADLINE = 120
"""Seconds that all processes of one test together may take."""


@pytest.fixture(scope="session")
def a_job() -> Callable[..., dict[str, Any]]:
    """A small job on digits; keys with dots go into the nested mappings."""

    def a_job(**changes: Any) -> dict[str, Any]:
        job: dict[str, Any] = {
            "name": "digits-mlp",
            "model": {"architecture": "mlp", "hidden": [32, 32]},
            "data": {"dataset": "digits", "batch_size": 61},
            "optimizer": {"learning_rate": 0.3, "momentum": 0.9},
            "metrics": {"every_steps": 10},
            "evaluate": {"every_steps": 0},
            "steps": 30,
            "seed": 7,
        }
        for key, value in changes.items():
            section, _, name = key.rpartition("__")
            (job.setdefault(section, {}) if section else job)[name] = value
        return job

    return a_job


@pytest.fixture(scope="session")
def a_context(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[WorkerContext, list[Event]]]:
    """The context of a single worker in this process, and the list that its events go to."""

    def a_context(spec: dict[str, Any], **changes: Any) -> tuple[WorkerContext, list[Event]]:
        events: list[Event] = []
        values: dict[str, Any] = {
            "job": "digits-mlp-1",
            "attempt": 1,
            "spec": TrainingJobSpec.from_mapping(spec),
            "rank": 0,
            "world_size": 1,
            "connect": lambda: pytest.fail("a single worker has nobody to meet"),
            "emit": events.append,
            "stop_requested": lambda: False,
            "artifact_uri": str(tmp_path_factory.mktemp("job") / "artifact"),
        }
        return WorkerContext(**{**values, **changes}), events

    return a_context


class Crew:
    """Worker processes that take parts of workers.py together, one part after another."""

    def __init__(self, most: int) -> None:
        script = str(Path(__file__).with_name("workers.py"))
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", script, str(rank)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(most)
        ]

    def __call__(self, part: str, count: int, **arguments: Any) -> list[Any]:
        """What each of `count` workers returned; None for one that died."""
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(count) as pool:
            order = json.dumps({"part": part, "count": count, "folder": folder, "arguments": arguments})
            watchdog = Timer(DEADLINE, self.kill)  # a worker that hangs becomes one that died
            watchdog.start()
            try:
                return list(pool.map(lambda process: _told(process, order), self._processes[:count]))
            finally:
                watchdog.cancel()

    def kill(self) -> None:
        """Ends every process."""
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """Ends every process and takes its leavings."""
        self.kill()
        for process in self._processes:
            process.communicate()


def _told(process: subprocess.Popen[str], order: str) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(order + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    return json.loads(answer) if answer else None


@pytest.fixture(scope="module")
def in_workers() -> Iterator[Crew]:
    """Runs a part of workers.py in up to three processes and returns what each gave."""
    crew = Crew(3)
    yield crew
    crew.close()


@pytest.fixture
def mortals() -> Iterator[Crew]:
    """Workers of a test's own, to lose."""
    crew = Crew(3)
    yield crew
    crew.close()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
