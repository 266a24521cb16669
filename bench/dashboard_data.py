"""A data folder as a busy year leaves it, made without training: the same for the same seed.

1,000 jobs and 10^6 metric points: one job of 100,000 points, 100 more that wait, the others ended with about 1,000
each. Nine in ten succeeded. And beside them one job that has 10^6 points of its own.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert

from batchyard.control.records import Failure, Job, Progress, StateChange
from batchyard.control.states import State
from batchyard.control.store import jobs as job_rows
from batchyard.control.store import landmarks
from batchyard.control.store.database import Database
from batchyard.control.store.payload import dump
from batchyard.control.store.schema import events, jobs
from batchyard.training.events import Evaluation, Event, Layer, LayerStatistics, LogLine, StepMetrics
from batchyard.training.spec import TrainingJobSpec

JOBS, POINTS, LONG, WAITING = 1000, 1_000_000, 100_000, 100
LONG_JOB, LONGEST_JOB = "long-job", "longest-job"
BEGAN = 1_790_000_000.0
ROWS_AT_ONCE = 5000
DATABASE = "batchyard.db"


def make(folder: Path, seed: int = 0) -> None:
    """Writes the database into a data folder that has none."""
    noise = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    database = Database.open(folder / DATABASE)
    each = (POINTS - LONG) // (JOBS - WAITING - 1)
    sizes = [LONG, *[each] * (JOBS - WAITING - 2), POINTS - LONG - each * (JOBS - WAITING - 2), *[0] * WAITING, POINTS]
    asyncio.run(_fill(database, sizes, noise))
    database.close()


async def _fill(database: Database, sizes: list[int], noise: random.Random) -> None:
    for place, points in enumerate(sizes):
        await database.write(partial(_add, place=place, points=points, noise=noise))


def _add(connection: Connection, place: int, points: int, noise: random.Random) -> None:
    name = {0: LONG_JOB, JOBS: LONGEST_JOB}.get(place, f"run-{place:04d}")
    job = _job(name, place, points, noise)
    told = [] if points == 0 else list(_story(points, job.create_time, noise))
    job = job_rows.add(connection, job, None)
    rows: list[dict[str, Any]] = []
    for sequence, event in enumerate([*told, StateChange(time=job.end_time or job.create_time, state=job.state)], 1):
        rows.append({"job_number": job.number, "sequence": sequence, "time": event.time, "attempt": 1})
        rows[-1] |= {"kind": event.kind, "payload": dump(event)}
    for start in range(0, len(rows), ROWS_AT_ONCE):
        connection.execute(insert(events), rows[start : start + ROWS_AT_ONCE])
    connection.execute(jobs.update().where(jobs.c.number == job.number).values(last_event=len(rows)))
    landmarks.extend(connection, job.number, 0, len(rows))


def _job(name: str, place: int, points: int, noise: random.Random) -> Job:
    steps = 20 * max(points, 50)
    order = TrainingJobSpec.from_mapping(
        {
            "name": name,
            "model": {"architecture": "mlp", "hidden": [100, 100, 100]},
            "data": {"dataset": "mnist"},
            "optimizer": {"learning_rate": round(10 ** noise.uniform(-3, 0), 4)},
            "steps": steps,
            "seed": place,
        }
    )
    created = BEGAN + 600.0 * place
    values: dict[str, Any] = {"number": 0, "id": name, "spec": order.to_mapping(), "create_time": created}
    if points == 0:
        return Job(**values, state=State.QUEUED)
    failed = place and noise.random() < 0.1
    failure = Failure(failure_class="user", cause="loss is NaN at step 400", next_step="lower the learning rate")
    progress = Progress(phase="training", step=steps, steps=steps, loss=0.07, accuracy=0.98, evaluation_accuracy=0.97)
    return Job(
        **values,
        state=State.FAILED if failed else State.SUCCEEDED,
        failure=failure if failed else None,
        progress=progress,
        attempt=1,
        start_time=created + 1,
        first_step_time=created + 2,
        end_time=created + 3600,
    )


def _story(points: int, began: float, noise: random.Random) -> Iterator[Event]:
    for point in range(1, points + 1):
        step, at = 20 * point, began + 3600 * point / points
        loss = 0.06 + 2.2 * math.exp(-8 * point / points) + noise.uniform(0, 0.05)
        yield StepMetrics(
            time=at, step=step, steps=20 * points, loss=loss, accuracy=min(1.0, 1 - loss / 3), learning_rate=0.1,
            samples_per_second=3600 + noise.uniform(-90, 90), step_seconds=1 / 60,
            data_seconds=0.001, forward_seconds=0.005, backward_seconds=0.007, collectives_seconds=0.002,
            optimizer_seconds=noise.uniform(0.0005, 0.001),
        )  # fmt: skip
        if point % 20 == 0:
            yield LayerStatistics(time=at, step=step, layers=tuple(_layers(noise)))
        if point % 50 == 0:
            yield Evaluation(time=at, step=step, loss=loss + 0.04, accuracy=min(1.0, 1 - loss / 3), samples=10000)
        if point % 100 == 0:
            yield LogLine(time=at, level="INFO", rank=0, text=f"step {step}: loss {loss:.4f}")


def _layers(noise: random.Random) -> Iterator[Layer]:
    for depth in range(3):
        middle = noise.uniform(-0.1, 0.1)
        yield Layer(
            name=f"layers.{depth}.norm", p15=middle - 1, p50=middle, p85=middle + 1, saturated=0.02, dead=0.01,
            drift=noise.uniform(0, 0.05), worker_spread=0.03,
        )  # fmt: skip
