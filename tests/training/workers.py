"""One worker process of the tests: python workers.py RANK.

Each line of standard input is a part to take in, as JSON: its name, the number of workers, the folder they meet in, and
arguments. What the part returns is a line of standard output.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, HashStore, PrefixStore, Store

from batchyard import data
from batchyard.training import loading, worker
from batchyard.training.checkpoint import CheckpointFolder
from batchyard.training.context import StoppedError, WorkerContext
from batchyard.training.events import Checkpointed, Evaluation, Event, Resumed, StepMetrics, TrainingError
from batchyard.training.group import joined
from batchyard.training.loop import train
from batchyard.training.mesh import Mesh, PeerLostError
from batchyard.training.spec import TrainingJobSpec


class PowerCutError(BaseException):
    """Training ends here, without another word."""


class Worker:
    """This process's place, and what it has emitted."""

    def __init__(self, rank: int, world_size: int, folder: Path) -> None:
        self.rank, self.world_size, self.folder = rank, world_size, folder
        self.events: list[Event] = []

    def context(
        self,
        spec: dict[str, Any],
        number: int = 0,
        stop_at: int | None = None,
        cut_at: int | None = None,
        **changes: Any,
    ) -> WorkerContext:
        asked = iter(range(1, 1 << 62))

        def stop_requested() -> bool:
            step = next(asked)
            if step == cut_at:
                raise PowerCutError
            return stop_at is not None and step >= stop_at

        return WorkerContext(
            job="job",
            attempt=max(1, number),
            spec=TrainingJobSpec.from_mapping(spec),
            rank=self.rank,
            world_size=self.world_size,
            connect=lambda: FileStore(str(self.folder / f"store-{number}"), self.world_size),
            emit=self.events.append,
            stop_requested=stop_requested,
            artifact_uri=str(self.folder / "artifact"),
            **changes,
        )


def trajectories(place: Worker, specs: list[dict[str, Any]], double: bool) -> list[dict[str, Any]]:
    """Trains each spec and returns its weights, in fp64, and the losses reported."""
    results = []
    dataset = data.load("digits", [])
    for number, spec in enumerate(specs):
        place.events.clear()
        context = place.context(spec, number)
        with joined(context) as group:
            parts = worker.prepare(context, group, dataset)
            if double:
                parts.model.double()
            train(context, group, parts)
        state = {name: value.double().flatten().tolist() for name, value in parts.model.state_dict().items()}
        digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()
        events = [event.to_json() for event in place.events]
        results.append({"state": state if place.rank == 0 else {}, "digest": digest, "events": events})
    return results


def whole(place: Worker, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs a whole worker."""
    worker.run(place.context(spec))
    return [event.to_json() for event in place.events]


def stopping(place: Worker, spec: dict[str, Any], rank: int, at_step: int) -> str:
    """Runs a worker of which one is asked to stop, at one step; returns how it ended."""
    try:
        worker.run(place.context(spec, stop_at=at_step if place.rank == rank else None))
    except StoppedError as error:
        return str(error)
    return "not stopped"


def diverging(place: Worker, spec: dict[str, Any]) -> list[str]:
    """Runs a worker whose loss will not stay finite; returns its error."""
    try:
        worker.run(place.context(spec))
    except TrainingError as error:
        return [error.cause, error.next_step]
    return ["no error", ""]


def interrupted(place: Worker, spec: dict[str, Any], cuts: list[int]) -> dict[str, Any]:
    """Runs a job whose attempts are all cut off, after so many steps each; returns its last checkpoint and points."""
    uri, points = f"file://{place.folder}/checkpoints", dict[tuple[str, int], tuple[float, float]]()
    for attempt, cut in enumerate([*cuts, None], 1):
        newest = [event.uri for event in place.events if isinstance(event, Checkpointed)]
        resume_from = newest[-1] if newest else None
        context = place.context(spec, attempt, cut_at=cut, checkpoint_uri=uri, resume_from=resume_from)
        with contextlib.suppress(PowerCutError):
            worker.run(context)
    for event in place.events:
        if isinstance(event, Resumed):
            points = {key: value for key, value in points.items() if key[1] <= event.step}
        elif isinstance(event, StepMetrics | Evaluation):
            points[event.kind, event.step] = (event.loss, event.accuracy)
    folder = CheckpointFolder(uri)
    files = folder.read(folder.names()[0], "job", place.world_size)
    return {"tensors": hashlib.sha256(files.tensors).hexdigest(), "points": sorted(map(str, points.items()))}


def unlike_data(place: Worker) -> str:
    """Each worker has as many samples more as its rank; returns what it is told."""
    labels = np.zeros(4 + place.rank, np.int64)
    images = np.arange(4 * (4 + place.rank), dtype=np.uint8).reshape(-1, 1, 2, 2)
    split = data.Split(images=images, labels=labels)
    dataset = data.Dataset(name="unlike", train=split, test=split, classes=("a",))
    with joined(place.context(SMALL)) as group:
        try:
            loading.require_same_data(dataset, group)
        except data.DataError as error:
            return str(error)
    return "no error"


def mesh_sums(place: Worker, sizes: list[int]) -> dict[str, Any]:
    """Adds up and gathers tensors of several dtypes and sizes over the mesh and over gloo; returns how they differ."""
    with joined(place.context(SMALL)) as group:
        mesh = group.process_group
        assert isinstance(mesh, Mesh)
        assert mesh.direct
        worst, digest = 0.0, hashlib.sha256()
        gathered_alike = True
        generator = torch.Generator().manual_seed(place.rank)
        for size in sizes:
            for dtype in (torch.float32, torch.float64, torch.int64):
                values = (torch.randn(size, generator=generator) * 1000).to(dtype)
                expected, actual = values.clone(), values.clone()
                dist.all_reduce(expected)
                dist.all_reduce(actual, group=mesh)
                worst = max(worst, float((expected - actual).abs().double().sum()) / max(size, 1))
                digest.update(actual.numpy().tobytes())
                by_gloo, by_mesh = ([torch.zeros_like(values) for _ in range(group.world_size)] for _ in range(2))
                dist.all_gather(by_gloo, values)
                dist.all_gather(by_mesh, values, group=mesh)
                gathered_alike &= all(torch.equal(one, other) for one, other in zip(by_gloo, by_mesh, strict=True))
        scalar = torch.tensor(float(place.rank))
        dist.all_reduce(scalar, group=mesh)
        return {
            "worst": worst,
            "digest": digest.hexdigest(),
            "scalar": scalar.item(),
            "gathered_alike": gathered_alike,
        }


def lost_peer(place: Worker) -> str:
    """Rank 1 dies without a word; the others return what their next all-reduce says."""
    with joined(place.context(SMALL)) as group:
        if place.rank == 1:
            os._exit(0)
        try:
            while True:
                group.sum_(torch.ones(10))
        except PeerLostError as error:
            return str(error)


def without_mesh(place: Worker, why: str) -> dict[str, Any]:
    """Rank 1 cannot reach the socket of rank 0; returns whether the mesh is direct, and what it adds up."""
    store = FileStore(str(place.folder / "store"), place.world_size)
    dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.world_size)
    meeting: Store = PrefixStore("mesh", store)
    if why == "another machine" and place.rank == 1:
        meeting = HashStore()
        meeting.set("0", "/no/such/socket")
    if why == "long name" and place.rank == 0:
        tempfile.tempdir = str(place.folder / ("long" * 50))
        Path(tempfile.tempdir).mkdir()
    mesh = Mesh.connect(meeting, place.rank, place.world_size, timedelta(seconds=60))
    tempfile.tempdir = None
    total = torch.tensor(place.rank + 1.0)
    dist.all_reduce(total, group=mesh)
    dist.destroy_process_group()
    return {"direct": mesh.direct, "total": total.item()}


SMALL = {"name": "small", "model": {"architecture": "mlp"}, "data": {"dataset": "digits"}, "steps": 1}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        place = Worker(int(sys.argv[1]), order["count"], Path(order["folder"]))
        sys.stdout.write(json.dumps(globals()[order["part"]](place, **order["arguments"])) + "\n")
        sys.stdout.flush()
