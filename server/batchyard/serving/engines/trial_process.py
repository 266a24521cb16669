"""The server's side of a trial: a process that was started, is asked, and ends."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import IO, Any

from batchyard.serving.engines.catalogue import why_not_here
from batchyard.serving.engines.timings import Trial, trial_from_json
from batchyard.serving.engines.trial import Task

OPENING_SECONDS = 120.0
"""For one engine's process, importing, loading and checking on a busy machine included; then it is given up."""
ANSWER_SECONDS = 60.0
"""For one batch."""
LAST_WORDS = 300
"""Characters of a process's stderr that its failure's reason quotes."""


class TrialError(Exception):
    """The engine's process cannot go on; the message says why."""


class TrialProcess:
    """One engine in a process of its own, at first opened with each number of threads."""

    def __init__(self, task: Task, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._task = task
        self._process = process
        self._errors = errors

    async def opened(self) -> Sequence[Trial]:
        """Without times. Raises TrialError."""
        trials: list[dict[str, Any]] = await self._answer(OPENING_SECONDS)
        return [trial_from_json(trial) for trial in trials]

    async def seconds(self, threads: int, rows: int) -> float:
        """Of one batch. Raises TrialError."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps([threads, rows])}\n".encode())
        return float(await self._answer(ANSWER_SECONDS))

    async def _answer(self, patience: float) -> Any:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(patience):
                line = await self._process.stdout.readline()
                if line:
                    return json.loads(line)
                status = await self._process.wait()
        except TimeoutError as error:
            raise TrialError(f"took longer than {patience:g} s") from error
        raise TrialError(f"its process {_how_it_ended(status)}: {_last_words(self._errors)}")


@asynccontextmanager
async def trying(task: Task) -> AsyncIterator[TrialProcess]:
    """Starts the process; nothing of it is left at the end. Raises TrialError."""
    if reason := why_not_here(task.engine):
        raise TrialError(reason)
    command = (sys.executable, "-m", "batchyard.serving.engines.trial", *task.arguments())
    with tempfile.TemporaryFile() as errors:  # a file, not a pipe: nobody has to drain it
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors
        )
        try:
            yield TrialProcess(task, process, errors)
        finally:
            if process.returncode is None:
                process.kill()
            await _though_given_up(_ended(process))


async def _though_given_up(work: Coroutine[Any, Any, None]) -> None:
    """Waits for it even when it is cancelled: a loop that closes before a process has ended loses it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Waits for the process and closes what led to it."""
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()


def _how_it_ended(status: int) -> str:
    return f"ended with status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"


def _last_words(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:LAST_WORDS] if lines else "it said nothing"
