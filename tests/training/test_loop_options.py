"""The options of the training loop, through whole runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from batchyard import data
from batchyard.nn import SyncBatchNorm
from batchyard.training import worker
from batchyard.training.context import WorkerContext
from batchyard.training.evaluate import evaluate
from batchyard.training.events import Evaluation, Event, LayerStatistics, LogLine, StepMetrics, TrainingError
from batchyard.training.group import joined
from batchyard.training.loop import train
from batchyard.training.losses import loss_sum

Job = Callable[..., dict[str, Any]]
Context = Callable[..., tuple[WorkerContext, list[Event]]]
InWorkers = Callable[..., list[Any]]

EVERYTHING: dict[str, Any] = {
    "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
    "schedule": {"name": "cosine", "warmup_steps": 4},
    "label_smoothing": 0.1,
    "clip_norm": 0.05,
}


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", [])


@pytest.fixture(scope="module")
def trained(a_context: Context, digits: data.Dataset) -> Callable[..., tuple[nn.Module, list[Event]]]:
    """The model, in fp64 if wanted, that a job leaves, and its events."""

    def trained(job: dict[str, Any], *, double: bool = False) -> tuple[nn.Module, list[Event]]:
        context, events = a_context(job)
        with joined(context) as group:
            parts = worker.prepare(context, group, digits)
            if double:
                parts.model.double()
            train(context, group, parts)
        return parts.model, events

    return trained


Trained = Callable[..., tuple[nn.Module, list[Event]]]


def of(kind: type[Event], events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)


def test_the_loop_with_its_options_is_the_loop_that_one_writes_by_hand(
    a_job: Job, a_context: Context, digits: data.Dataset, trained: Trained
) -> None:
    job = a_job(steps=20, **EVERYTHING)
    model, events = trained(job, double=True)
    context, _ = a_context(job)
    reference = worker.build_model(context.spec, digits).double().train()
    decay = [parameter for parameter in reference.parameters() if parameter.ndim >= 2]
    plain = [parameter for parameter in reference.parameters() if parameter.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 4, total_iters=3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 16)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [4])
    order = data.Order(seed=7, samples=len(digits.train), batch_size=61)
    rates = []
    for step in range(1, 21):
        rows = order.batch(step)
        images, labels = torch.tensor(digits.train.images[rows]).double(), torch.tensor(digits.train.labels[rows])
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(reference(images), labels, label_smoothing=0.1))
        nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert difference(model, reference) < 1e-9
    assert [event.learning_rate for event in of(StepMetrics, events)] == pytest.approx([rates[0], rates[9], rates[19]])


def test_micro_batches_add_up_to_the_step_of_the_whole_batch(a_job: Job, trained: Trained) -> None:
    whole, events = trained(a_job(model__norm="none", steps=12), double=True)
    parts, part_events = trained(a_job(model__norm="none", steps=12, accumulate=4), double=True)
    assert difference(whole, parts) < 1e-12
    losses, part_losses = ([event.loss for event in of(StepMetrics, each)] for each in (events, part_events))
    assert part_losses == pytest.approx(losses, rel=1e-12)
    assert all(
        event.samples_per_second * event.step_seconds == pytest.approx(61) for event in of(StepMetrics, part_events)
    )


def test_each_micro_batch_is_normalised_by_itself(a_job: Job, trained: Trained) -> None:
    whole, _ = trained(a_job(steps=12), double=True)
    parts, _ = trained(a_job(steps=12, accumulate=4), double=True)
    assert difference(whole, parts) > 1e-4
    counted = [buffer.item() for name, buffer in parts.named_buffers() if name.endswith("num_batches_tracked")]
    assert counted == [48, 48]


def test_any_number_of_workers_follows_the_trajectory_of_one_with_every_option(
    in_workers: InWorkers, a_job: Job
) -> None:
    job = a_job(steps=12, accumulate=3, ema_decay=0.8, **EVERYTHING)
    lars = a_job(steps=12, optimizer={"name": "lars", "learning_rate": 2.0, "momentum": 0.9}, loss="mse")
    one = in_workers("trajectories", 1, specs=[job, lars], double=True)[0]
    for count in (2, 3):
        several = in_workers("trajectories", count, specs=[job, lars], double=True)
        for i in range(2):
            state, expected = several[0][i]["state"], one[i]["state"]
            assert max(float(np.abs(np.subtract(state[name], expected[name])).max()) for name in state) < 1e-8
            assert len({result[i]["digest"] for result in several}) == 1, "the workers' weights and buffers differ"


@pytest.mark.parametrize(("count", "sync"), [(1, "world"), (2, "none")])
def test_a_job_with_every_option_that_is_cut_off_ends_with_the_same_bits(
    in_workers: InWorkers, a_job: Job, count: int, sync: str
) -> None:
    job = a_job(
        steps=16,
        accumulate=2,
        ema_decay=0.8,
        checkpoint={"every_steps": 4},
        evaluate={"every_steps": 4},
        workers__sync_batch_norm=sync,
        **EVERYTHING,
    )
    never = in_workers("interrupted", count, spec=job, cuts=[])[0]
    assert in_workers("interrupted", count, spec=job, cuts=[6, 5])[0] == never


def test_the_average_of_the_weights_is_evaluated_and_left_and_does_not_change_training(
    a_job: Job, a_context: Context, digits: data.Dataset, trained: Trained
) -> None:
    plain, plain_events = trained(a_job(evaluate__every_steps=10))
    averaged, events = trained(a_job(evaluate__every_steps=10, ema_decay=0.9))
    losses, plain_losses = ([event.loss for event in of(StepMetrics, each)] for each in (events, plain_events))
    assert losses == plain_losses
    assert difference(plain, averaged) > 1e-3
    context, _ = a_context(a_job())
    with joined(context) as group:
        parts = worker.prepare(context, group, digits)
        score = evaluate(averaged, parts.test, group, loss_sum("cross_entropy"))
    last = of(Evaluation, events)[-1]
    assert (score.loss, score.accuracy) == (last.loss, last.accuracy)


def test_training_ends_at_the_first_evaluation_that_reaches_the_target(a_job: Job, trained: Trained) -> None:
    job = a_job(steps=400, evaluate__every_steps=7, metrics__every_steps=10, stop_at={"accuracy": 0.8})
    _, events = trained(job)
    evaluations = of(Evaluation, events)
    assert all(event.accuracy < 0.8 for event in evaluations[:-1])
    assert evaluations[-1].accuracy >= 0.8
    assert evaluations[-1].step < 400
    assert of(StepMetrics, events)[-1].step == evaluations[-1].step
    assert "has reached stop_at.accuracy" in of(LogLine, events)[-1].text


def test_epochs_are_as_many_steps_as_the_data_has_whole_batches(a_job: Job, trained: Trained) -> None:
    _, events = trained(a_job(steps=None, epochs=2))
    last = of(StepMetrics, events)[-1]
    assert last.step == last.steps == 2 * (1438 // 61)


def test_bf16_learns_as_fp32_does_and_keeps_fp32_weights(a_job: Job, trained: Trained) -> None:
    job = a_job(model={"architecture": "lenet", "activation": "relu"}, steps=60, optimizer={"learning_rate": 0.1})
    _, full = trained(job)
    model, half = trained({**job, "precision": "bf16"})
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert 0 < abs(of(StepMetrics, half)[-1].loss - of(StepMetrics, full)[-1].loss) < 0.1
    assert of(Evaluation, half)[-1].accuracy > 0.9


def test_channels_last_lays_weights_out_so_and_gives_the_same_numbers(a_job: Job, trained: Trained) -> None:
    job = a_job(model={"architecture": "lenet", "activation": "relu"}, steps=6)
    contiguous, _ = trained(job, double=True)
    last, _ = trained({**job, "channels_last": True}, double=True)
    assert difference(contiguous, last) < 1e-10
    convolutions = [module for module in last.modules() if isinstance(module, nn.Conv2d) and module.in_channels > 1]
    assert convolutions
    for convolution in convolutions:
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
        assert not convolution.weight.is_contiguous()


def test_warm_up_that_takes_every_step_of_the_epochs_is_refused(a_job: Job, trained: Trained) -> None:
    with pytest.raises(TrainingError, match=r"schedule\.warmup_steps: 46 given; expected less than the job's 46 steps"):
        trained(a_job(steps=None, epochs=2, schedule={"warmup_steps": 46}))


def test_ghost_batches_normalise_parts_of_each_batch(a_job: Job, trained: Trained) -> None:
    job = a_job(data={"dataset": "digits", "batch_size": 60}, steps=6)
    whole, _ = trained(job, double=True)
    ghosts, _ = trained({**job, "model": {**job["model"], "ghost_size": 12}}, double=True)
    assert [m.ghost_size for m in ghosts.modules() if isinstance(m, SyncBatchNorm)] == [12, 12]
    assert difference(whole, ghosts) > 1e-4


def test_the_loss_of_the_job_is_the_one_that_is_evaluated(a_job: Job, trained: Trained, digits: data.Dataset) -> None:
    model, events = trained(a_job(loss="mse", optimizer={"learning_rate": 0.5}))
    with torch.no_grad():
        logits = model.eval()(torch.tensor(digits.test.images).float())
    expected = F.mse_loss(logits, F.one_hot(torch.tensor(digits.test.labels), 10).float()).item()
    assert of(Evaluation, events)[-1].loss == pytest.approx(expected, rel=1e-5)


def test_bf16_on_two_workers_is_close_to_one(in_workers: InWorkers, a_job: Job) -> None:
    lenet = {"architecture": "lenet", "activation": "relu"}
    job = a_job(model=lenet, steps=4, metrics__every_steps=1, optimizer={"learning_rate": 0.05}, precision="bf16")
    one, two = (in_workers("trajectories", count, specs=[job], double=False) for count in (1, 2))
    assert two[0][0]["digest"] == two[1][0]["digest"]
    losses, expected = (
        [event["loss"] for event in result[0][0]["events"] if event["kind"] == "step_metrics"] for result in (two, one)
    )
    assert losses == pytest.approx(expected, rel=0.02)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of torch's own modules, as they are imported
def test_a_compiled_network_trains_as_it_does_uncompiled(
    a_job: Job, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes to leave behind
    job = a_job(steps=12, metrics__every_steps=5, model__hidden=[32])
    plain, plain_events = trained(job, double=True)
    compiled, events = trained({**job, "compile": True}, double=True)
    assert 0 < difference(plain, compiled) < 1e-9
    buffers = zip(plain.buffers(), compiled.buffers(), strict=True)
    assert all(torch.allclose(a.double(), b.double(), rtol=1e-9) for a, b in buffers)
    losses, plain_losses = ([event.loss for event in of(StepMetrics, each)] for each in (events, plain_events))
    assert losses == pytest.approx(plain_losses, rel=1e-9)
    assert "which samples/s leaves out" in of(LogLine, events)[-1].text
    assert len(of(LayerStatistics, events)) == len(of(StepMetrics, events))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_network_that_cannot_be_compiled_is_the_users_to_mend(
    a_job: Job, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    torch.compiler.reset()
    with pytest.raises(TrainingError, match=r"compile: true given; torch\.compile fails"):
        trained(a_job(compile=True, model__hidden=[19]))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_fp16_learns_with_scaled_losses(a_job: Job, a_context: Context, optimizer: str) -> None:
    job = a_job(
        model={"architecture": "lenet", "activation": "relu"},
        steps=60,
        optimizer={"name": optimizer, "learning_rate": {"sgd": 0.1, "adamw": 0.003, "lars": 10.0}[optimizer]},
        precision="fp16",
        workers={"gpus_per_worker": 1},
    )
    context, events = a_context(job, device="cuda")
    worker.run(context)
    assert of(Evaluation, events)[-1].accuracy > 0.9
