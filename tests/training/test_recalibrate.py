"""The recalibration task: a published version and unlabelled inputs in, a certified version of new statistics out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from batchyard import data
from batchyard.artifact.manifest import ONNX_MODEL, PROBE
from batchyard.artifact.reader import verify
from batchyard.nn import adapt_statistics
from batchyard.training import recalibrate, worker
from batchyard.training.context import WorkerContext
from batchyard.training.events import Event, Published, TrainingError
from batchyard.training.network import rebuild
from batchyard.training.spec import SpecError

Job = Callable[..., dict[str, Any]]
Context = Callable[..., tuple[WorkerContext, list[Event]]]
DIGITS = data.load("digits", [])


def darker(images: NDArray[Any]) -> NDArray[np.float32]:
    """A fifth of the contrast, on grey."""
    return (100 + 0.2 * images.astype(np.float32)).astype(np.float32)


@pytest.fixture(scope="module", params=["mlp", "lenet"])
def source(request: pytest.FixtureRequest, a_job: Job, a_context: Context) -> tuple[Path, str]:
    """A published version's folder and its manifest's digest."""
    context, events = a_context(a_job(model__architecture=request.param, publish__model="digits", steps=150))
    worker.run(context)
    assert isinstance(events[-1], Published)
    return Path(context.artifact_uri), events[-1].manifest_sha256


def task_folder(source: tuple[Path, str], tmp_path: Path, prior: float = 0.0, **arrays: Any) -> tuple[Path, Any]:
    folder = tmp_path / "task"
    shutil.copytree(source[0], folder / "source")
    with (folder / "inputs").open("wb") as file:
        np.savez(file, **(arrays or {"inputs": darker(DIGITS.train.images[:400])}))
    order = {
        "model": "digits",
        "source": "models/digits/versions/3",
        "manifest_sha256": source[1],
        "prior": prior,
        "artifact_uri": str(tmp_path / "artifact"),
    }
    return folder, order


def accuracy(folder: Path, images: NDArray[np.float32]) -> float:
    session = onnxruntime.InferenceSession(folder / ONNX_MODEL, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixels": images})
    return float((logits.argmax(1) == DIGITS.test.labels).mean())


@pytest.fixture(scope="module")
def recalibrated(source: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same version for darker digits, with a prior of 8 samples: folder and digest."""
    folder, order = task_folder(source, tmp_path_factory.mktemp("recalibrated"), prior=8.0)
    return folder.parent / "artifact", recalibrate.work(order, folder)["manifest_sha256"]


def test_a_recalibrated_version_knows_its_source_and_is_right_where_the_source_was_wrong(
    source: tuple[Path, str], recalibrated: tuple[Path, str]
) -> None:
    new, old = verify(*recalibrated), verify(*source)
    assert new.origin == "recalibrated"
    assert new.sources == ("models/digits/versions/3",)
    assert new.recalibration is not None
    assert (new.recalibration.prior, new.recalibration.samples) == (8.0, 400)
    assert new.certificate.passed
    assert {entry.status for entry in new.fold_report} == {"folded"}
    assert new.probe == old.probe
    assert (new.model, new.spec, new.classes, new.inputs) == (old.model, old.spec, old.classes, old.inputs)
    assert new.evaluated.samples == 0  # nobody has labels

    clean, dark = DIGITS.test.images.astype(np.float32), darker(DIGITS.test.images)
    assert accuracy(source[0], clean) > 0.9
    assert accuracy(source[0], dark) < 0.5
    assert accuracy(recalibrated[0], dark) > 0.85


def test_its_statistics_are_the_weighted_mean_of_old_and_new(
    source: tuple[Path, str], recalibrated: tuple[Path, str]
) -> None:
    expected, found = rebuild(source[0], verify(*source)), rebuild(recalibrated[0], verify(*recalibrated))
    adapt_statistics(expected, torch.from_numpy(darker(DIGITS.train.images[:400])), 8.0)
    for name, value in found.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_its_probe_finds_no_shift_in_inputs_like_those_it_was_made_from(
    source: tuple[Path, str], recalibrated: tuple[Path, str]
) -> None:
    inputs = darker(DIGITS.train.images[:400])
    for artifact, shifted in ((source[0], True), (recalibrated[0], False)):
        session = onnxruntime.InferenceSession(artifact / PROBE, providers=["CPUExecutionProvider"])
        (moments,) = session.run(["moments"], {"pixels": inputs})
        mean = moments.mean(0)
        assert (np.abs(mean[0]).max() > 0.5) == shifted
        assert (np.abs(mean[1] - mean[0] ** 2 - 1).max() > 0.5) == shifted


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"inputs": np.zeros((40, 1, 9, 9), np.uint8)}, r"\[40, 1, 9, 9\]; expected numbers of shape"),
        ({"inputs": np.full((40, 1, 8, 8), np.nan, np.float32)}, "not finite"),
        ({"inputs": np.zeros((1, 1, 8, 8), np.uint8)}, "1 input given"),
        ({"pixels": np.zeros((40, 1, 8, 8), np.uint8)}, "'pixels'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(
    source: tuple[Path, str], tmp_path: Path, arrays: dict[str, Any], said: str
) -> None:
    folder, order = task_folder(source, tmp_path, **arrays)
    with pytest.raises(SpecError, match=said) as caught:
        recalibrate.work(order, folder)
    assert [wrong.field for wrong in caught.value.violations] == ["inputs"]
    assert not (tmp_path / "artifact").exists()


def test_a_network_without_normalisation_cannot_be_recalibrated(a_job: Job, a_context: Context, tmp_path: Path) -> None:
    context, events = a_context(a_job(model__norm="none", publish__model="digits"))
    worker.run(context)
    assert isinstance(events[-1], Published)
    folder, order = task_folder((Path(context.artifact_uri), events[-1].manifest_sha256), tmp_path)
    with pytest.raises(TrainingError, match="no batch normalisation"):
        recalibrate.work(order, folder)


def test_more_inputs_than_fit_into_memory_are_thinned_evenly(
    source: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = rebuild(source[0], verify(*source))
    one = torch.zeros(1, 1, 8, 8)
    largest = max(64, 6 * 6 * 6 if any(isinstance(m, torch.nn.Conv2d) for m in network.modules()) else 0)
    assert recalibrate.rows_that_fit(network, one) == recalibrate.MOST_BYTES // (4 * 4 * largest)
    monkeypatch.setattr(recalibrate, "MOST_BYTES", 4 * 4 * largest * 100)
    assert recalibrate.rows_that_fit(network, one) == 100
    thinned = recalibrate.spread(torch.arange(1000), 11)
    assert thinned.tolist() == [0, 99, 199, 299, 399, 499, 599, 699, 799, 899, 999]


def test_it_runs_as_a_task_of_its_own(source: tuple[Path, str], tmp_path: Path) -> None:
    folder, order = task_folder(source, tmp_path, inputs=np.zeros((40, 1, 9, 9), np.uint8))
    (folder / "order.json").write_text(json.dumps(order))
    command = [sys.executable, "-m", "batchyard.training.recalibrate", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        assert child.wait(timeout=120) == 0
    (wrong,) = json.loads((folder / "result.json").read_text())["error"]["violations"]
    assert wrong["field"] == "inputs"
