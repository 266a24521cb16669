"""Tasks: processes that end with their callers, one at a time, and whose faults are told apart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from batchyard.control.torch_tasks import MOST_WAITING, TaskCrashedError, TorchTasks
from batchyard.endpoint.errors import InvalidInputError, OverloadedError, PreconditionError, UnavailableError
from tests.control.harness import until
from tests.control.processes import alive

TASK = """
import os, sys, threading
from batchyard.artifact.errors import ArtifactError
from batchyard.artifact.storage import StorageError
from batchyard.training import task
from batchyard.training.events import TrainingError

def work(order, folder):
    match order["do"]:
        case "answer":
            return {"sum": sum(order["numbers"])}
        case "wait":
            (folder / "pid.part").write_text(str(os.getpid()))
            (folder / "pid.part").rename(folder / "pid")
            threading.Event().wait()
        case "refuse":
            raise task.violation("weights", "not whole")
        case "fail":
            raise TrainingError("it cannot be", "try another")
        case "away":
            raise ArtifactError.of("s3://models cannot be written", StorageError("no answer", passing=True))
        case "crash":
            sys.exit("the machine is on fire")

sys.exit(task.main(work, sys.argv[1:]))
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TorchTasks:
    """Tasks that can run the module `a_task`; they publish nothing."""
    (tmp_path / "a_task.py").write_text(TASK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return TorchTasks(cast(Any, None), tmp_path / "tasks", "memory://nowhere")


async def run(tasks: TorchTasks, do: str, **order: Any) -> dict[str, Any]:
    async with tasks.folder() as folder:
        return await tasks.run("a_task", {"do": do, **order}, folder)


async def test_a_task_answers_and_leaves_nothing_behind(tasks: TorchTasks, tmp_path: Path) -> None:
    assert await run(tasks, "answer", numbers=[1, 2, 3]) == {"sum": 6}
    assert not list((tmp_path / "tasks").iterdir())


async def test_what_the_caller_can_mend_is_told_apart_from_faults(tasks: TorchTasks) -> None:
    with pytest.raises(InvalidInputError, match="weights: not whole"):
        await run(tasks, "refuse")
    with pytest.raises(PreconditionError, match="it cannot be: try another"):
        await run(tasks, "fail")
    with pytest.raises(UnavailableError, match="s3://models cannot be written; nothing has changed: try again"):
        await run(tasks, "away")
    with pytest.raises(TaskCrashedError, match="status 1 and no result; it printed:\nthe machine is on fire"):
        await run(tasks, "crash")


async def test_a_task_ends_with_its_caller_and_the_next_one_runs(tasks: TorchTasks, tmp_path: Path) -> None:
    first = asyncio.create_task(run(tasks, "wait"))
    await until(lambda: bool(list((tmp_path / "tasks").glob("*/pid"))))
    pid = int(next((tmp_path / "tasks").glob("*/pid")).read_text())
    second = asyncio.create_task(run(tasks, "answer", numbers=[4]))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not alive(pid)
    assert await second == {"sum": 4}


async def test_a_line_that_is_too_long_is_refused_at_once(tasks: TorchTasks, tmp_path: Path) -> None:
    waiting = [asyncio.create_task(run(tasks, "wait")) for _ in range(1 + MOST_WAITING)]
    await until(lambda: bool(list((tmp_path / "tasks").glob("*/pid"))))
    with pytest.raises(OverloadedError, match="at most 4 may wait"):
        await run(tasks, "answer", numbers=[])
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
