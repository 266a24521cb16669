from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from batchyard import data
from batchyard.artifact.manifest import ONNX_MODEL, PROBE, WEIGHTS
from batchyard.artifact.reader import read_samples, verify
from batchyard.nn import Certificate, population_statistics
from batchyard.training import worker
from batchyard.training.context import WorkerContext
from batchyard.training.events import Event, Published, TrainingError
from batchyard.training.fold_record import certified

Job = Callable[..., dict[str, Any]]
Context = Callable[..., tuple[WorkerContext, list[Event]]]


@pytest.fixture(scope="module", params=["mlp", "lenet"])
def published(request: pytest.FixtureRequest, a_job: Job, a_context: Context) -> tuple[WorkerContext, Path, str]:
    """A published model: its job's context, its folder and its manifest's digest."""
    context, events = a_context(a_job(model__architecture=request.param, publish__model="digits", steps=100))
    worker.run(context)
    event = events[-1]
    assert isinstance(event, Published)
    assert event.artifact_uri == context.artifact_uri
    return context, Path(context.artifact_uri), event.manifest_sha256


def test_a_published_model_is_whole_certified_and_served_by_onnx_runtime_as_the_oracle_says(
    published: tuple[WorkerContext, Path, str],
) -> None:
    context, folder, digest = published
    manifest = verify(folder, digest)
    dataset = data.load("digits", [])

    assert manifest.certificate.passed
    assert manifest.certificate.samples == 359
    assert {entry.status for entry in manifest.fold_report} == {"folded"}
    assert manifest.fold_report[0].layer == "norm1"
    assert len(manifest.fold_report[0].beta) == len(manifest.fold_report[0].gamma) > 0
    assert manifest.dataset_sha256 == dataset.sha256
    assert manifest.population_statistics == "alg2"
    assert manifest.spec == context.spec.to_mapping()
    assert manifest.inputs[0].shape == (-1, 1, 8, 8)
    assert manifest.outputs[0].shape == (-1, 10)
    assert manifest.libraries["torch"] == importlib.metadata.version("torch")

    samples = read_samples(folder)
    session = onnxruntime.InferenceSession(folder / ONNX_MODEL, providers=["CPUExecutionProvider"])
    for part in (slice(None), slice(0, 1), slice(3, 20)):
        (logits,) = session.run(["logits"], {"pixels": samples.inputs[part]})
        assert np.abs(logits - samples.outputs[part]).max() <= manifest.certificate.bound
        assert np.array_equal(logits.argmax(1), samples.outputs[part].argmax(1))

    (logits,) = session.run(["logits"], {"pixels": dataset.test.images.astype(np.float32)})
    accuracy = (logits.argmax(1) == dataset.test.labels).mean()
    assert accuracy == pytest.approx(manifest.evaluated.accuracy, abs=1e-9)


def test_the_graph_has_no_normalisation_left_and_no_trace_of_the_machine(
    published: tuple[WorkerContext, Path, str],
) -> None:
    graph = (published[1] / ONNX_MODEL).read_bytes()
    nodes = [node.op_type for node in onnx.load_from_string(graph).graph.node]
    assert not {"BatchNormalization", "Sub", "Div", "Mul"} & set(nodes)
    assert os.fsencode(Path(worker.__file__).parents[2]) not in graph
    assert os.fsencode(Path(torch.__file__).parent) not in graph


def test_the_published_weights_rebuild_the_unfolded_network(published: tuple[WorkerContext, Path, str]) -> None:
    context, folder, _ = published
    model = worker.build_model(context.spec, data.load("digits", [])).eval()
    model.load_state_dict(load_file(folder / WEIGHTS))
    samples = read_samples(folder)
    with torch.no_grad():
        logits = model(torch.tensor(samples.inputs)).numpy()
    assert np.abs(logits - samples.outputs).max() < 1e-4


def test_population_statistics_are_those_of_algorithm_2_over_training_batches(
    published: tuple[WorkerContext, Path, str],
) -> None:
    context, folder, _ = published
    dataset = data.load("digits", [])
    state = load_file(folder / WEIGHTS)
    model = worker.build_model(context.spec, dataset)
    model.load_state_dict(state)
    order = data.Order(seed=7, samples=len(dataset.train), batch_size=61)
    batches = [torch.tensor(dataset.train.images[order.batch(step)]) for step in range(1, order.batches_per_epoch + 1)]
    population_statistics(model, batches, "alg2")
    for name, value in model.state_dict().items():
        assert torch.allclose(value, state[name], rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("statistics", ["population", "cumulative", "ema"])
def test_other_population_statistics_are_published_and_recorded(
    a_job: Job, a_context: Context, statistics: str
) -> None:
    context, events = a_context(a_job(publish__model="digits", publish__statistics=statistics))
    worker.run(context)
    assert isinstance(events[-1], Published)
    manifest = verify(Path(context.artifact_uri), events[-1].manifest_sha256)
    assert manifest.population_statistics == statistics


def test_a_network_without_normalisation_is_published_too(a_job: Job, a_context: Context) -> None:
    context, events = a_context(a_job(model__norm="none", publish__model="digits"))
    worker.run(context)
    assert isinstance(events[-1], Published)
    assert verify(Path(context.artifact_uri), events[-1].manifest_sha256).fold_report == ()


@pytest.mark.parametrize("norm", ["detached", "standardize_detached", "standardize_post", "renorm"])
def test_what_batch_normalisation_is_compared_with_is_folded_and_published_too(
    a_job: Job, a_context: Context, norm: str
) -> None:
    context, events = a_context(a_job(model__norm=norm, publish__model="digits"))
    worker.run(context)
    assert isinstance(events[-1], Published)
    report = verify(Path(context.artifact_uri), events[-1].manifest_sha256).fold_report
    assert [entry.status for entry in report] == ["folded"] * 2


def test_an_artifact_that_cannot_be_written_is_the_users_to_mend(
    a_job: Job, a_context: Context, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    context, _ = a_context(a_job(publish__model="digits"), artifact_uri=str(tmp_path / "file" / "artifact"))
    with pytest.raises(TrainingError, match="file/artifact cannot be written"):
        worker.run(context)


def a_certificate(**changes: Any) -> Certificate:
    expected = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    sound = Certificate(passed=True, max_error=1e-6, bound=1e-5, digest="d", expected=expected, layers=(), reasons=())
    return dataclasses.replace(sound, **changes)


SERVED = np.array([[0.0, 1.000002], [1.0, 0.0]], np.float32)


def test_the_recorded_error_is_the_larger_of_folded_and_served() -> None:
    assert certified(a_certificate(), SERVED).max_error == pytest.approx(2e-6, rel=0.2)
    assert certified(a_certificate(max_error=5e-6), SERVED).max_error == 5e-6


@pytest.mark.parametrize(
    ("certificate", "served", "reason"),
    [
        (a_certificate(passed=False, reasons=("layer norm1: gamma differs",)), SERVED, "layer norm1: gamma differs"),
        (a_certificate(), SERVED + np.float32(1e-3), "served graph's largest error is 0.001"),
        (a_certificate(bound=10.0), SERVED[:, ::-1], "puts 2 of 2 samples into another class"),
        (a_certificate(), SERVED * np.float32("nan"), "served graph's largest error is nan"),
    ],
)
def test_what_is_not_equal_is_not_published(certificate: Certificate, served: Any, reason: str) -> None:
    with pytest.raises(TrainingError, match=reason) as caught:
        certified(certificate, served)
    assert "nothing was published" in caught.value.next_step


def test_one_process_trains_and_publishes_without_any_service(a_job: Job, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text(json.dumps(a_job(publish__model="digits")))
    command = [sys.executable, "-m", "batchyard.training", str(job), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    kinds = [json.loads(line)["kind"] for line in done.stdout.splitlines()]  # and not a word from any library
    assert kinds[-1] == "published"
    last = json.loads(done.stdout.splitlines()[-1])
    verify(tmp_path / "out" / "artifact", last["manifest_sha256"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nsteps: 0\nmodel: {architecture: mlp}\ndata: {dataset: digits}\n", "steps: 0 given"),
        ("name: [", "job.yaml cannot be read"),
        ("just text", "expected a mapping"),
        (None, "job.yaml cannot be read"),
    ],
)
def test_a_job_file_that_is_wrong_is_refused_in_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    from batchyard.training.__main__ import main

    if text is not None:
        (tmp_path / "job.yaml").write_text(text)
    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", errors)
        assert main([str(tmp_path / "job.yaml"), "--out", str(tmp_path / "out")]) == 1
    assert said in errors.getvalue()
    assert "Traceback" not in errors.getvalue()


def test_the_probe_graph_tells_what_the_unfolded_layers_output(published: tuple[WorkerContext, Path, str]) -> None:
    context, folder, digest = published
    manifest = verify(folder, digest)
    assert manifest.probe is not None
    assert [layer.layer for layer in manifest.probe.layers] == [entry.layer for entry in manifest.fold_report]
    assert manifest.probe.left_out == {}

    dataset = data.load("digits", [])
    model = worker.build_model(context.spec, dataset).double()
    model.load_state_dict(load_file(folder / WEIGHTS))
    outputs: dict[str, torch.Tensor] = {}
    for name, layer in model.eval().named_modules():
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: outputs.update({name: output}))
    pixels = torch.tensor(dataset.train.images)
    with torch.no_grad():
        model(pixels.double())
    session = onnxruntime.InferenceSession(folder / PROBE, providers=["CPUExecutionProvider"])
    (moments,) = session.run(["moments"], {"pixels": pixels.float().numpy()})
    start = 0
    for layer, entry in zip(manifest.probe.layers, manifest.fold_report, strict=True):
        beta, gamma = (torch.tensor(v, dtype=torch.float64)[list(layer.channels)] for v in (entry.beta, entry.gamma))
        y = outputs[layer.layer].transpose(0, 1).flatten(1)[list(layer.channels)]
        part = moments[:, :, start : start + len(layer.channels)].mean(axis=0)
        assert np.allclose(part[0], (y.mean(1) - beta) / gamma.abs(), atol=1e-4)
        assert np.allclose(part[1] - part[0] ** 2, y.var(1, correction=0) / gamma**2, atol=1e-3)
        # and on training data these are what normalisation promises
        assert np.abs(part[0]).max() < 0.05
        assert np.abs(part[1] - part[0] ** 2 - 1).max() < 0.15
        start += len(layer.channels)
