"""The parts of examples/quickstart.py that a run without trouble does not show; tests/e2e runs it whole."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from batchyard.cli.failures import Failure
from batchyard.v1.models_pb2 import Certificate, ModelVersion
from tests.children import running

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example as a module of a project without data beside it."""
    monkeypatch.delenv("BATCHYARD_DATA", raising=False)
    monkeypatch.delenv("QUICKSTART_JSON", raising=False)
    shutil.copytree(EXAMPLES, tmp_path / "project" / "examples")
    place = importlib.util.spec_from_file_location("quickstart", tmp_path / "project" / "examples" / "quickstart.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    monkeypatch.setitem(sys.modules, "quickstart", module)
    place.loader.exec_module(module)
    return module


def test_without_data_files_it_takes_the_digits(quickstart: ModuleType) -> None:
    plan = quickstart.choose()
    assert (plan.dataset, plan.folders, plan.least_accuracy) == ("digits", (), 0.95)


@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
def test_mnist_is_found_where_the_environment_says(
    quickstart: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "data" / place).mkdir(parents=True)
    (tmp_path / "data" / place / "t10k-labels-idx1-ubyte.gz").touch()
    monkeypatch.setenv("BATCHYARD_DATA", str(tmp_path / "data"))
    plan = quickstart.choose()
    assert (plan.dataset, plan.folders, plan.least_accuracy) == ("mnist", (tmp_path / "data",), 0.975)


def test_mnist_is_found_beside_the_project(quickstart: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "shared" / "data" / "train-images-idx3-ubyte").touch()
    assert quickstart.choose().dataset == "mnist"


def test_incomplete_mnist_is_a_failure_and_not_a_reason_to_take_other_data(
    quickstart: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train-images-idx3-ubyte").touch()
    monkeypatch.setenv("BATCHYARD_DATA", str(tmp_path))
    assert quickstart.main() == 1
    assert "not found in" in capsys.readouterr().err
    assert not (tmp_path / "project" / "quickstart-data").exists()


def version(accuracy: float, bound: float) -> ModelVersion:
    return ModelVersion(accuracy_unfolded=accuracy, certificate=Certificate(bound=bound))


LOGITS = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5], [0.5, 0.0, 0.5001]], np.float32)
LABELS = np.array([1, 0, 0])


def test_the_served_network_must_have_as_many_right_as_the_unfolded_one(quickstart: ModuleType) -> None:
    quickstart.check_folding(LOGITS, LABELS, version(2 / 3, bound=1e-6))
    with pytest.raises(Failure, match="has 2 of 3 right, the unfolded one 3; the certificate allows a difference of 0"):
        quickstart.check_folding(LOGITS, LABELS, version(1.0, bound=1e-6))


def test_classes_within_the_certificates_bound_may_change_places(quickstart: ModuleType) -> None:
    quickstart.check_folding(LOGITS, LABELS, version(1.0, bound=1e-4))


def test_too_low_an_accuracy_fails_after_the_json_is_written(
    quickstart: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKSTART_JSON", str(tmp_path / "summary.json"))
    numbers: dict[str, Any] = dict.fromkeys(quickstart.Summary.__dataclass_fields__, 1.0)
    summary = quickstart.Summary(**{**numbers, "dataset": "digits", "accuracy_served": 0.9})
    with pytest.raises(Failure, match=r"accuracy 90\.00% on digits; expected 95\.0% or more"):
        quickstart.check(summary, quickstart.choose())
    assert json.loads((tmp_path / "summary.json").read_text())["accuracy_served"] == 0.9


@pytest.mark.ray
@pytest.mark.parametrize("moment", ["Service", "STARTING"])
def test_interrupted_it_stops_everything_it_started(quickstart: ModuleType, tmp_path: Path, moment: str) -> None:
    project = tmp_path / "project"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHYARD_")}
    command = [sys.executable, "-u", "examples/quickstart.py"]
    with running(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        reached = any(line.startswith(moment) for line in run.stdout)
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=120)
    assert reached, told
    assert run.returncode == 130
    assert told.strip() == "quickstart: interrupted; everything it started is stopped"
    assert [line for line in _command_lines() if str(project) in line] == []


def _command_lines() -> list[str]:
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it ended meanwhile
            continue
    return lines
