"""Tries every engine on a version, each in a process of its own, all in turns, and chooses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from batchyard.serving.engines import timings
from batchyard.serving.engines.catalogue import CATALOGUE
from batchyard.serving.engines.choice import batch_sizes, choose
from batchyard.serving.engines.rounds import Contender, take_turns
from batchyard.serving.engines.timings import Timings, Trial
from batchyard.serving.engines.trial import Task
from batchyard.serving.engines.trial_process import TrialError, TrialProcess, trying


async def measured(folder: Path, engines: tuple[str, ...], max_batch: int, nice: int = 0) -> Timings:
    """The table of a verified artifact in `folder`, made now.

    `nice`: how far the trials yield to others.
    """
    async with AsyncExitStack() as running:
        race = Race(running, batch_sizes(max_batch))
        for engine in engines:
            await race.enter(Task(engine=engine, folder=folder, max_batch=max_batch, nice=nice))
        trials = await race.run()
    conditions = timings.conditions_here(engines, max_batch)
    return Timings(conditions=conditions, trials=tuple(trials), chosen=choose(trials, max_batch))


class Race:
    """The trials of one version."""

    def __init__(self, running: AsyncExitStack, sizes: Sequence[int]) -> None:
        """`running` ends the processes."""
        self._running = running
        self._sizes = sizes
        self._trials: dict[tuple[str, int], Trial] = {}
        self._processes: dict[str, TrialProcess] = {}

    async def enter(self, task: Task) -> None:
        """Opens one engine; one that cannot be opened, or is wrong, is in the table with its reason."""
        try:
            process = await self._running.enter_async_context(trying(task))
            opened = await process.opened()
        except TrialError as error:
            precision = CATALOGUE[task.engine].precision
            opened = [Trial(engine=task.engine, threads=0, precision=precision, passed=False, reason=str(error))]
        else:
            self._processes[task.engine] = process
        self._trials.update({(trial.engine, trial.threads): trial for trial in opened})

    async def run(self) -> list[Trial]:
        """Times those that passed; returns all."""
        contenders = [Contender(trial.engine, trial.threads) for trial in self._trials.values() if trial.passed]
        await take_turns(contenders, self._sizes, self._seconds)
        for contender in contenders:
            self._note(contender, seconds=contender.seconds)
        return list(self._trials.values())

    async def _seconds(self, contender: Contender, rows: int) -> float | None:
        try:
            return await self._processes[contender.engine].seconds(contender.threads, rows)
        except TrialError as error:
            self._note(contender, passed=False, reason=str(error))
            return None

    def _note(self, contender: Contender, **changed: object) -> None:
        key = contender.engine, contender.threads
        self._trials[key] = dataclasses.replace(self._trials[key], **changed)  # type: ignore[arg-type]
