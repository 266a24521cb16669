"""Tries every engine on a version, each in a process of its own, one after the other, and chooses."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from batchyard.serving.engines import timings
from batchyard.serving.engines.catalogue import missing_libraries
from batchyard.serving.engines.choice import choose
from batchyard.serving.engines.timings import Timings, Trial, trial_from_json
from batchyard.serving.engines.trial import Task

TIMING_SECONDS = 5.0
"""For the timing of one version, all engines together."""
TRIAL_SECONDS = 120.0
"""For one engine's process, importing and loading on a busy machine included; then it is given up."""
LAST_WORDS = 300
"""Characters of a process's stderr that its failure's reason quotes."""


async def measured(folder: Path, engines: tuple[str, ...], max_batch: int, nice: int = 0) -> Timings:
    """The table that lies in `folder` if it was made under the present conditions, else a new one, which is kept.

    `nice`: how far the trials yield to others.
    """
    conditions = timings.conditions_here(engines, max_batch)
    known = timings.read(folder, conditions)
    if known is not None:
        return known
    trials: list[Trial] = []
    for engine in engines:
        task = Task(engine=engine, folder=folder, max_batch=max_batch, seconds=TIMING_SECONDS / len(engines), nice=nice)
        trials += await _try(task)
    made = Timings(conditions=conditions, trials=tuple(trials), chosen=choose(trials, max_batch))
    if made.chosen:
        timings.write(folder, made)
    return made


async def _try(task: Task) -> Sequence[Trial]:
    if missing := missing_libraries(task.engine):
        return [_failed(task, f"not installed: {', '.join(missing)}")]
    command = (sys.executable, "-m", "batchyard.serving.engines.trial", *task.arguments())
    # Files, not pipes: nothing to drain while it runs, nothing to close when we are cancelled.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err
        )
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                status = await process.wait()
        except TimeoutError:
            return [_failed(task, f"took longer than {TRIAL_SECONDS:g} s")]
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status:
            return [_failed(task, f"its process {_how_it_ended(status)}: {_last_words(err)}")]
        out.seek(0)
        return [trial_from_json(trial) for trial in json.load(out)]


def _failed(task: Task, reason: str) -> Trial:
    return Trial(engine=task.engine, threads=0, passed=False, reason=reason)


def _how_it_ended(status: int) -> str:
    return f"ended with status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"


def _last_words(err: IO[bytes]) -> str:
    err.seek(0)
    lines = err.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:LAST_WORDS] if lines else "it said nothing"
