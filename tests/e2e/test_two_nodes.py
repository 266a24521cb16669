"""`batchyard up --ray-address` on somebody else's cluster of several nodes: where workers are placed, how jobs share
it, and what a node that dies costs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchyard.cli import local
from batchyard.client import Checkpointed, Client, Resumed, StepMetrics, TrainingJob
from batchyard.cluster.ray_settings import temporary_folder

pytestmark = pytest.mark.ray

PATIENCE_S = 60.0
STEPS = 1000
SPEC: dict[str, Any] = {
    "name": "nodes",
    "model": {"architecture": "mlp", "hidden": [32]},
    "data": {"dataset": "digits", "batch_size": 61},
    "metrics": {"every_steps": 50, "activation_statistics": False},
    "evaluate": {"every_steps": 0},
    "checkpoint": {"every_steps": 100, "keep": 1},
    "steps": STEPS,
}
KEEPER = '''
import json, os, sys
import ray
from ray.cluster_utils import Cluster

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Ray prints
small = {"object_store_memory": 78 << 20}
head = {**small, "num_cpus": 0, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
ray.init(address=cluster.address, log_to_driver=False)
nodes = {}

def answer(value):
    print(json.dumps(value), file=answers, flush=True)

def add():
    node = cluster.add_node(**small, num_cpus=2)
    nodes[node.node_id] = node

def placed():
    """The nodes of each placement group's workers."""
    groups = ray.util.placement_group_table().values()
    return [list(group["bundles_to_node_id"].values()) for group in groups if group["state"] == "CREATED"]

def kill(node):
    cluster.remove_node(nodes.pop(node), allow_graceful=False)

add(), add()
answer(cluster.address)
for line in sys.stdin:
    name, *arguments = json.loads(line)
    answer({"placed": placed, "kill": kill}[name](*arguments))
ray.shutdown()
cluster.shutdown()
'''


class Nodes:
    """A cluster of a head without CPUs and two nodes with two each, in a process of its own."""

    def __init__(self, keeper: subprocess.Popen[str]) -> None:
        self._keeper = keeper
        self.address: str = self._answer()

    def ask(self, *request: str) -> Any:
        """One of the keeper's functions."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(json.dumps(request) + "\n")
        self._keeper.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        assert line, "the cluster's keeper has ended: see cluster.log"
        return json.loads(line)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the cluster and those who use it have in common."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "token").write_text("7" * 64)
    files = temporary_folder(folder / "a-path-that-is-too-long-for-a-socket")
    yield {name: value for name, value in os.environ.items() if not name.startswith("BATCHYARD_")} | {
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_TMPDIR": str(files),
        "RAY_USAGE_STATS_ENABLED": "0",
        "TMPDIR": str(folder),
    }
    shutil.rmtree(files)


@pytest.fixture(scope="module")
def nodes(environment: dict[str, str]) -> Iterator[Nodes]:
    command = [sys.executable, "-c", KEEPER]
    with (Path(environment["TMPDIR"]) / "cluster.log").open("w") as log:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        with subprocess.Popen(command, text=True, env=environment, **pipes) as keeper:
            yield Nodes(keeper)


def call(environment: dict[str, str], folder: Path, *arguments: str) -> None:
    """`batchyard ARGUMENTS` in `folder`."""
    command = [sys.executable, "-m", "batchyard.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def client(nodes: Nodes, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a service that `batchyard up --ray-address` has started."""
    folder = tmp_path_factory.mktemp("service")
    free = [f"--{plane}=127.0.0.1:0" for plane in ("grpc", "http", "inference-grpc", "inference-http")]
    call(environment, folder, "up", *free, "--ray-address", nodes.address)
    running = local.find(folder / "batchyard-data")
    assert running is not None
    try:
        with Client(running.facts["grpc"]) as client:
            yield client
    finally:
        call(environment, folder, "down", "--force")
    assert not running.process.alive
    assert nodes.ask("placed") == []


def submit(client: Client, **changes: Any) -> str:
    workers = {"count": 2, **changes.pop("workers", {})}
    return client.submit({**SPEC, **changes, "workers": workers}).name


def until(client: Client, job: str, kind: type[Any]) -> Any:
    """The first event of this kind."""
    return next(client.watch(job, kinds=(kind,), timeout=PATIENCE_S)).detail


def told(client: Client, job: str, kind: type[Any]) -> list[Any]:
    """What is stored of this kind."""
    return [event.detail for event in client.watch(job, kinds=(kind,), history_only=True)]


def succeed(client: Client, job: str) -> tuple[str, list[tuple[int, float]]]:
    """The digest of everything in the job's last checkpoint, and its losses, once it has succeeded."""
    ended = client.wait(job, timeout=120)
    assert ended.state == TrainingJob.SUCCEEDED, ended.failure
    last = told(client, job, Checkpointed)[-1]
    assert last.step == STEPS
    return last.tensors_sha256, [(point.step, point.loss) for point in told(client, job, StepMetrics)]


@pytest.mark.parametrize(("placement", "used"), [("pack", 1), ("spread", 2)])
def test_workers_are_packed_or_spread_as_the_spec_says(client: Client, nodes: Nodes, placement: str, used: int) -> None:
    job = submit(client, workers={"placement": placement}, steps=1_000_000)
    until(client, job, StepMetrics)
    (group,) = nodes.ask("placed")
    assert (len(group), len(set(group))) == (2, used)
    client.cancel(job)
    assert client.wait(job, timeout=PATIENCE_S).state == TrainingJob.CANCELLED


def test_two_jobs_train_side_by_side_and_a_third_waits_for_room(client: Client, nodes: Nodes) -> None:
    first, second = (submit(client, steps=1_000_000) for _ in range(2))
    for job in (first, second):
        until(client, job, StepMetrics)
    assert sorted(len(set(group)) for group in nodes.ask("placed")) == [1, 1]
    third = submit(client, workers={"count": 1})
    assert client.explain(third).queueing.cluster.workers == 4
    assert client.job(third).state == TrainingJob.QUEUED
    for job in (first, second):
        reached = client.job(job).progress.step
        points: Any = (event.detail for event in client.watch(job, kinds=(StepMetrics,), timeout=PATIENCE_S))
        next(point for point in points if point.step > reached)
    client.cancel(first)
    assert client.wait(third, timeout=PATIENCE_S).state == TrainingJob.SUCCEEDED
    assert client.job(second).state == TrainingJob.RUNNING
    client.cancel(second)
    client.wait(second, timeout=PATIENCE_S)


def test_a_node_that_dies_in_the_middle_costs_a_job_nothing_but_the_way_back_to_its_checkpoint(
    client: Client, nodes: Nodes
) -> None:
    undisturbed = succeed(client, submit(client, workers={"placement": "spread"}))
    job = submit(client, workers={"placement": "spread"})
    until(client, job, Checkpointed)
    (group,) = nodes.ask("placed")
    nodes.ask("kill", group[1])
    assert until(client, job, Resumed).step >= 100
    assert succeed(client, job) == undisturbed
    assert client.job(job).attempt == 2
