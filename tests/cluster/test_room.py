"""What a Ray cluster has place for, by what Ray says of its nodes."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from batchyard.cluster import ray_cluster
from batchyard.cluster.executor import Capacity


def node(*, alive: bool, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


def test_only_nodes_that_are_alive_count(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node(alive=True, CPU=2.0, GPU=1.0), node(alive=True, CPU=1.0), node(alive=False, CPU=8.0)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert ray_cluster.room() == Capacity(workers=3, gpus=1)


def test_a_cluster_whose_last_node_has_died_is_not_one_that_a_job_is_too_large_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [node(alive=False, CPU=8.0)])
    with pytest.raises(ray_cluster.NoNodeError, match="no node of the Ray cluster is alive"):
        ray_cluster.room()
