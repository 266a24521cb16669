"""`make quickstart`, as a new user runs it: from a folder of its own, on the data that the machine has."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KEYS = {
    "dataset",
    "accuracy_unfolded",
    "accuracy_served",
    "certificate_error",
    "certificate_bound",
    "bn_layers_folded",
    "requests_per_second",
    "submit_to_first_step_s",
    "seconds",
}


def mnist_folder() -> Path | None:
    """The folder with MNIST that the quickstart would find, if there is one."""
    given = [Path(os.environ["BATCHYARD_DATA"])] if "BATCHYARD_DATA" in os.environ else []
    places = [place for folder in (*given, ROOT.parent / "shared" / "data") for place in (folder, folder / "mnist")]
    return next((place for place in places if list(place.glob("train-images-idx3-ubyte*"))), None)


def quickstart(folder: Path, data: Path | None) -> tuple[str, dict[str, Any]]:
    """What it prints and writes, run where no data lies beside the project but `data`."""
    project = folder / "project"
    shutil.copytree(ROOT / "examples", project / "examples")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHYARD_")}
    environment["QUICKSTART_JSON"] = str(folder / "summary.json")
    if data is not None:
        environment["BATCHYARD_DATA"] = str(data)
    command = [sys.executable, "examples/quickstart.py"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not processes_that_name(project)
    return done.stdout, json.loads((folder / "summary.json").read_text())


def processes_that_name(folder: Path) -> list[str]:
    """Command lines of living processes with `folder` in them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(folder) in line:
            found.append(line)
    return found


def check(summary: dict[str, Any], least_accuracy: float) -> None:
    assert set(summary) == KEYS
    assert summary["accuracy_served"] >= least_accuracy
    assert abs(summary["accuracy_served"] - summary["accuracy_unfolded"]) < 0.001
    assert summary["bn_layers_folded"] == 3
    assert 0 < summary["certificate_error"] <= summary["certificate_bound"]
    assert summary["requests_per_second"] > 0
    assert 0 < summary["submit_to_first_step_s"] < summary["seconds"]


@pytest.mark.ray
def test_without_data_it_trains_on_the_digits_that_ship_with_scikit_learn(tmp_path: Path) -> None:
    printed, summary = quickstart(tmp_path, None)
    assert summary["dataset"] == "digits"
    assert "digits" in printed
    check(summary, 0.95)


@pytest.mark.ray
@pytest.mark.skipif(mnist_folder() is None, reason="MNIST is neither in $BATCHYARD_DATA nor in ../shared/data")
def test_on_mnist_the_papers_network_reaches_97_5_percent(tmp_path: Path) -> None:
    printed, summary = quickstart(tmp_path, mnist_folder())
    assert summary["dataset"] == "mnist"
    assert "60,000 training and 10,000 held-out images" in printed
    check(summary, 0.975)
