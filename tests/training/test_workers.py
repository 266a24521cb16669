"""Several worker processes over gloo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

InWorkers = Callable[..., list[Any]]
Job = Callable[..., dict[str, Any]]


def largest_difference(a: dict[str, list[float]], b: dict[str, list[float]]) -> float:
    return max(float(np.abs(np.subtract(a[name], b[name])).max()) for name in a)


def losses(result: dict[str, Any]) -> list[float]:
    return [event["loss"] for event in result["events"] if event["kind"] == "step_metrics"]


def test_any_number_of_workers_follows_the_trajectory_of_one(in_workers: InWorkers, a_job: Job) -> None:
    jobs = [a_job(), a_job(model__architecture="lenet", model__activation="relu", steps=15, optimizer__momentum=0.5)]
    one = in_workers("trajectories", 1, specs=jobs, double=True)[0]
    for count in (2, 3):
        several = in_workers("trajectories", count, specs=jobs, double=True)
        for i in range(len(jobs)):
            assert losses(several[0][i]) == pytest.approx(losses(one[i]), rel=1e-9)
            assert largest_difference(several[0][i]["state"], one[i]["state"]) < 1e-8
            assert len({result[i]["digest"] for result in several}) == 1, "the workers' weights and buffers differ"


def test_the_same_spec_gives_the_same_bits_on_two_workers(in_workers: InWorkers, a_job: Job) -> None:
    job = a_job()
    first, again, other_seed = in_workers("trajectories", 2, specs=[job, job, {**job, "seed": 8}], double=False)[0]
    assert first["digest"] == again["digest"] != other_seed["digest"]


def test_without_synchronisation_workers_differ_from_one_and_still_end_alike(in_workers: InWorkers, a_job: Job) -> None:
    job = a_job(workers__sync_batch_norm="none")
    one = in_workers("trajectories", 1, specs=[job], double=True)[0][0]
    first, second = (result[0] for result in in_workers("trajectories", 2, specs=[job], double=True))
    assert first["digest"] == second["digest"]
    assert largest_difference(first["state"], one["state"]) > 1e-4


def test_all_workers_stop_at_the_step_at_which_one_is_asked_to(in_workers: InWorkers, a_job: Job) -> None:
    ends = in_workers("stopping", 2, spec=a_job(steps=10**6), rank=1, at_step=25)
    assert ends == ["stopped after step 25"] * 2


def test_a_loss_that_is_not_finite_ends_every_worker_with_the_same_advice(in_workers: InWorkers, a_job: Job) -> None:
    job = a_job(optimizer__learning_rate=1e30, model__norm="none", model__activation="relu", steps=10**6)
    (cause, advice), other = in_workers("diverging", 2, spec=job)
    assert other == [cause, advice]
    assert "the loss is nan by step" in cause or "the loss is inf by step" in cause
    assert "learning rate 1e+30" in cause
    assert "lower optimizer.learning_rate" in advice


def test_workers_with_unlike_data_are_told_so(in_workers: InWorkers) -> None:
    first, second = in_workers("unlike_data", 2)
    assert first == "no error"
    assert "dataset unlike: worker 1 has 5 training and 5 test samples of 1 classes, their mean" in second
    assert "worker 0 has 4 training" in second


def test_only_rank_0_reports_and_statistics_span_the_workers(in_workers: InWorkers, a_job: Job) -> None:
    first, second = in_workers("whole", 2, spec=a_job())
    assert second == []
    kinds = [event["kind"] for event in first]
    assert "2 workers add up through shared memory" in [event.get("text") for event in first]
    assert kinds.count("step_metrics") == kinds.count("layer_statistics") == 4
    layers = next(event["layers"] for event in first if event["kind"] == "layer_statistics")
    assert [layer["name"] for layer in layers] == ["norm1", "norm2"]
    assert all(layer["worker_spread"] > 0 for layer in layers)


@pytest.mark.parametrize("count", [2, 3])
def test_the_mesh_adds_up_and_gathers_as_gloo_does_and_alike_on_every_worker(in_workers: InWorkers, count: int) -> None:
    results = in_workers("mesh_sums", count, sizes=[0, 1, 7, 1000, 200_001, 4_500_000])
    assert all(result["worst"] < 1e-3 for result in results)
    assert len({result["digest"] for result in results}) == 1
    assert results[0]["scalar"] == sum(range(count))
    assert all(result["gathered_alike"] for result in results)


def test_a_worker_that_dies_is_noticed_by_the_others_at_once(mortals: InWorkers) -> None:
    first, dead, third = mortals("lost_peer", 3)
    assert dead is None
    assert "another worker" in first
    assert "another worker" in third


@pytest.mark.parametrize("why", ["another machine", "long name"])
def test_workers_that_cannot_reach_each_others_sockets_go_through_gloo(in_workers: InWorkers, why: str) -> None:
    assert in_workers("without_mesh", 2, why=why) == [{"direct": False, "total": 3.0}] * 2
