"""The README's commands and code, run in its order against a service of this test's own."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from json import loads
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SCRIPTS = Path(sys.executable).parent
FREE_PORTS = "--grpc 127.0.0.1:0 --http 127.0.0.1:0 --inference-grpc 127.0.0.1:0 --inference-http 127.0.0.1:0"
EXAMPLE_ID = "endless-3f2a"
SUBMIT = "batchyard submit examples/digits-mlp.yaml --set steps=1000000 --set name=endless"
"""Prints the id that stands for EXAMPLE_ID."""
RUN_BY_HAND = {"make quickstart", "make test"}
"""The first has a test of its own (test_quickstart.py), the second is what runs this."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    return [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with the examples in it; whatever was left running there is stopped at the end."""
    path = tmp_path_factory.mktemp("readme")
    (path / "examples").symlink_to(ROOT / "examples")
    yield path
    run("batchyard down", path, check=False)


def run(command: str, folder: Path, *, check: bool = True) -> str:
    words = shlex.split(command)
    if words[:2] == ["batchyard", "up"]:
        words += FREE_PORTS.split()
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert done.returncode == 0 or not check, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def addressed(code: str, folder: Path) -> str:
    """README code with the addresses of the service under test in place of the default ones."""
    service = loads((folder / "batchyard-data" / "control.json").read_text())
    code = code.replace("127.0.0.1:8001", service["inference_grpc"])
    return code.replace("Client()", f"Client({service['grpc']!r}, {service['inference_grpc']!r})")


@pytest.mark.ray
def test_the_tour_works_as_written(folder: Path) -> None:
    snippets = blocks("python")
    said: dict[str, str] = {}
    for command in commands():
        if command == "batchyard down":  # the service is up and has a model: now the code
            outputs = [
                subprocess.run(
                    [sys.executable, "-W", "error", "-c", addressed(code, folder)],
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=True,
                ).stdout
                for code in snippets
            ]
        said[command] = run(command.replace(EXAMPLE_ID, said.get(SUBMIT, "").strip() or EXAMPLE_ID), folder)
    assert "SUCCEEDED" in said["batchyard submit examples/digits-mlp.yaml --follow"] + said["batchyard jobs"]
    assert "production" in said["batchyard models"]
    assert "folded" in said["batchyard model show digits"]
    assert re.search(r"\b7\b", said["batchyard predict digits examples/seven.png"].splitlines()[0])
    assert said[f"batchyard job cancel {EXAMPLE_ID}"].startswith("CANCELL")
    assert re.fullmatch(r"\[\d\]\n", outputs[0])
    assert "trainingJobs/" in outputs[1]
    assert not (folder / "batchyard-data" / "control.json").exists()


def test_every_indented_command_is_run_somewhere() -> None:
    shown = re.findall(r"^    (make \w+)", README, re.MULTILINE)
    assert set(shown) <= RUN_BY_HAND


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_the_job_shown_is_legal() -> None:
    from batchyard.client import read_job

    for block in blocks("yaml"):
        assert read_job(block).name == "mnist-mlp"
