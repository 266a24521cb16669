"""One worker in this process, from its data to its last event."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from batchyard import data
from batchyard.training import worker
from batchyard.training.context import StoppedError, WorkerContext
from batchyard.training.events import Evaluation, Event, LayerStatistics, PhaseChange, StepMetrics, TrainingError
from batchyard.training.group import joined
from batchyard.training.loop import train
from batchyard.training.spec import NORMS

Job = Callable[..., dict[str, Any]]
Context = Callable[..., tuple[WorkerContext, list[Event]]]


def test_metrics_come_at_the_first_step_at_every_point_and_at_the_last(a_job: Job, a_context: Context) -> None:
    context, events = a_context(a_job(steps=25, evaluate__every_steps=12))
    worker.run(context)
    metrics = [event for event in events if isinstance(event, StepMetrics)]
    assert [event.step for event in metrics] == [1, 10, 20, 25]
    assert [event.step for event in events if isinstance(event, LayerStatistics)] == [1, 10, 20, 25]
    assert [event.step for event in events if isinstance(event, Evaluation)] == [12, 24, 25]
    assert all(event.steps == 25 and event.learning_rate == 0.3 for event in metrics)
    assert all(event.samples_per_second * event.step_seconds == pytest.approx(61) for event in metrics)


def test_a_job_that_does_not_publish_loads_and_trains_and_writes_nothing(a_job: Job, a_context: Context) -> None:
    context, events = a_context(a_job())
    worker.run(context)
    assert [event.phase for event in events if isinstance(event, PhaseChange)] == ["loading", "training"]
    assert not Path(context.artifact_uri).exists()


def test_reported_loss_and_accuracy_are_means_over_the_steps_since_the_point_before(
    a_job: Job, a_context: Context
) -> None:
    every, every_events = a_context(a_job(steps=10, metrics__every_steps=1))
    worker.run(every)
    single = [event for event in every_events if isinstance(event, StepMetrics)]
    rare, rare_events = a_context(a_job(steps=10, metrics__every_steps=10))
    worker.run(rare)
    first, rest = (event for event in rare_events if isinstance(event, StepMetrics))
    assert first.loss == single[0].loss
    assert rest.loss == pytest.approx(sum(event.loss for event in single[1:]) / 9, rel=1e-12)
    assert rest.accuracy == pytest.approx(sum(event.accuracy for event in single[1:]) / 9, rel=1e-12)


def test_the_first_loss_is_that_of_the_untrained_network_on_the_first_batch(a_job: Job, a_context: Context) -> None:
    context, events = a_context(a_job(steps=1))
    dataset = data.load("digits", [])
    model = worker.build_model(context.spec, dataset)
    batch = data.Order(seed=7, samples=len(dataset.train), batch_size=61).batch(1)
    logits = model(torch.tensor(dataset.train.images[batch]).float())
    expected = F.cross_entropy(logits, torch.tensor(dataset.train.labels[batch])).item()
    worker.run(context)
    assert next(event.loss for event in events if isinstance(event, StepMetrics)) == pytest.approx(expected, rel=1e-6)


def test_the_last_evaluation_is_that_of_the_trained_model_on_every_test_sample(a_job: Job, a_context: Context) -> None:
    context, events = a_context(a_job())
    dataset = data.load("digits", [])
    with joined(context) as group:
        parts = worker.prepare(context, group, dataset)
        train(context, group, parts)
    with torch.no_grad():
        logits = parts.model.eval()(torch.tensor(dataset.test.images))
    labels = torch.tensor(dataset.test.labels)
    evaluation = [event for event in events if isinstance(event, Evaluation)][-1]
    assert evaluation.samples == 359
    assert evaluation.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert evaluation.accuracy == (logits.argmax(1) == labels).double().mean().item()


def test_digits_are_learned(a_job: Job, a_context: Context) -> None:
    context, events = a_context(a_job(steps=300))
    worker.run(context)
    losses = [event.loss for event in events if isinstance(event, StepMetrics)]
    assert losses[0] == pytest.approx(math.log(10), abs=0.4)
    assert losses[-1] < 0.05
    assert [event.accuracy for event in events if isinstance(event, Evaluation)][-1] > 0.95


def test_measuring_activations_does_not_change_the_training(a_job: Job, a_context: Context) -> None:
    def weights(*, measured: bool) -> dict[str, torch.Tensor]:
        context, events = a_context(a_job(metrics__activation_statistics=measured))
        with joined(context) as group:
            parts = worker.prepare(context, group, data.load("digits", []))
            train(context, group, parts)
        assert any(isinstance(event, LayerStatistics) for event in events) == measured
        return parts.model.state_dict()

    with_statistics, without = weights(measured=True), weights(measured=False)
    assert all(torch.equal(with_statistics[name], without[name]) for name in without)


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "none"])
def test_every_normalisation_that_a_job_may_name_learns_digits(a_job: Job, a_context: Context, norm: str) -> None:
    context, events = a_context(a_job(model__norm=norm, steps=60))
    worker.run(context)
    (score,) = [event for event in events if isinstance(event, Evaluation)]
    assert score.accuracy > 0.5, norm


def test_a_network_without_normalisation_reports_its_activations(a_job: Job, a_context: Context) -> None:
    context, events = a_context(a_job(model__norm="none"))
    worker.run(context)
    layers = [event for event in events if isinstance(event, LayerStatistics)][-1].layers
    assert [layer.name for layer in layers] == ["sigmoid1", "sigmoid2"]
    assert all(layer.drift is None and layer.worker_spread is None for layer in layers)


def test_a_worker_stops_between_steps_when_it_is_asked_to(a_job: Job, a_context: Context) -> None:
    stop = threading.Event()
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepMetrics) and event.step == 20:
            stop.set()

    context, _ = a_context(a_job(steps=10**6), emit=emit, stop_requested=stop.is_set)
    with pytest.raises(StoppedError, match="after step 21"):
        worker.run(context)


def test_a_loss_that_is_not_finite_names_step_loss_and_learning_rate(a_job: Job, a_context: Context) -> None:
    job = a_job(optimizer__learning_rate=1e30, model__norm="none", model__activation="relu", steps=100)
    context, _ = a_context(job)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) by step 10, at learning rate 1e\+30") as caught:
        worker.run(context)
    assert "lower optimizer.learning_rate" in caught.value.next_step


def test_a_batch_larger_than_the_training_set_is_the_users_to_mend(a_job: Job, a_context: Context) -> None:
    context, _ = a_context(a_job(data__batch_size=1439))
    with pytest.raises(TrainingError, match=r"data\.batch_size: 1439 given; the training set has 1438 samples"):
        worker.run(context)


def test_missing_data_is_the_users_to_mend(a_job: Job, a_context: Context, tmp_path: Path) -> None:
    context, _ = a_context(a_job(data__dataset="mnist"), data_folders=(str(tmp_path),))
    with pytest.raises(TrainingError, match=f"not found; looked in {tmp_path}") as caught:
        worker.run(context)
    assert "digits" in caught.value.next_step


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named(a_job: Job, a_context: Context) -> None:
    context, _ = a_context(a_job(workers__gpus_per_worker=1), device="cuda")
    with pytest.raises(TrainingError, match=r"workers\.gpus_per_worker: 1 given; torch finds no CUDA device"):
        worker.run(context)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_as_the_cpu_does_and_repeats_itself(a_job: Job, a_context: Context) -> None:
    def losses(device: str) -> list[float]:
        context, events = a_context(a_job(), device=device)
        worker.run(context)
        return [event.loss for event in events if isinstance(event, StepMetrics)]

    assert losses("cuda") == pytest.approx(losses("cpu"), rel=1e-3)
    assert losses("cuda") == losses("cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_between_metric_points_the_host_waits_for_nothing(a_job: Job, a_context: Context) -> None:
    asked = itertools.count(1)

    def stop_requested() -> bool:  # as each step begins
        torch.cuda.set_sync_debug_mode("error" if next(asked) % 10 in range(2, 10) else "default")
        return False

    job = a_job(steps=20, workers__gpus_per_worker=1, metrics__every_steps=10)  # within the first epoch
    context, events = a_context(job, device="cuda", stop_requested=stop_requested)
    try:
        worker.run(context)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [event.step for event in events if isinstance(event, StepMetrics)] == [1, 10, 20]
