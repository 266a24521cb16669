"""The Dockerfiles, read as a builder would: what they copy and name exists, and the images are safe to run."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy/docker").glob("*.Dockerfile"))
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL", "USER",
                "VOLUME", "WORKDIR"}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    word: str
    rest: str
    stage: int


def parse(path: Path) -> list[Instruction]:
    """Instructions in order; comments gone, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    parsed, stage = [], -1
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        parsed.append(Instruction(word, " ".join(rest.split()), stage))
    return parsed


def last(instructions: list[Instruction], word: str) -> str:
    final = max(one.stage for one in instructions)
    return [one.rest for one in instructions if one.word == word and one.stage == final][-1]


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def file(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_there_is_one_image_for_each_plane() -> None:
    assert [path.name for path in FILES] == ["control.Dockerfile", "inference.Dockerfile"]


def test_every_instruction_is_one_that_docker_knows(file: Path) -> None:
    assert {one.word for one in parse(file)} <= INSTRUCTIONS
    assert file.read_text().startswith("# syntax=docker/dockerfile:1\n")


def test_base_images_are_pinned_to_a_release(file: Path) -> None:
    bases = [one.rest.split()[0] for one in parse(file) if one.word == "FROM"]

    assert len(set(bases)) == 1
    python = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-[a-z]+", bases[0])
    assert python is not None
    assert (int(python[1]), int(python[2])) >= (3, 11)


def test_everything_copied_exists_and_is_not_ignored(file: Path) -> None:
    ignore = file.with_name(f"{file.name}.dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignore if line.startswith("!")]
    assert ignore[1] == "*", "the context holds only what is named"
    sources = set()
    for one in parse(file):
        if one.word == "COPY" and "--from=" not in one.rest:
            sources |= {Path(source).as_posix() for source in shlex.split(one.rest)[:-1]}

    assert sources
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert {source for source in sources if not any(fnmatch.fnmatch(source, keep) for keep in kept)} == set()
    assert {keep for keep in kept if not (ROOT / keep).exists()} == set()


def test_the_package_is_complete_in_the_build_stage(file: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], "requirements.lock"}
    needed |= {Path(folder).parts[0] for folder in wheel["only-include"]}
    copied: set[str] = set()
    for one in parse(file):
        if one.word == "COPY" and one.stage == 0:
            copied |= {Path(source).as_posix() for source in shlex.split(one.rest)[:-1]}

    assert needed <= copied


def test_what_pip_is_asked_for_exists_and_is_pinned(file: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lock = (ROOT / "requirements.lock").read_text()
    asked = [one.rest for one in parse(file) if one.word == "RUN" and "pip install" in one.rest and "[" in one.rest]
    assert len(asked) == 1
    assert "--constraint requirements.lock" in asked[0]
    named = re.search(r'"\.\[([\w,]+)\]"(.*)$', asked[0])
    assert named is not None
    assert set(named[1].split(",")) <= extras.keys()
    for package in named[2].split():
        assert re.search(rf"^{package}==", lock, re.MULTILINE), package
    if "torch" in file.read_text() and file.name.startswith("control"):
        assert re.search(r"^torch==", lock, re.MULTILINE), "grep finds the line that the RUN command looks for"


def test_images_run_as_a_user_without_rights_and_say_when_they_are_well(file: Path) -> None:
    instructions = parse(file)

    assert last(instructions, "USER") == "10001:10001"
    assert "/opt/batchyard/healthcheck.py" in last(instructions, "HEALTHCHECK")
    assert last(instructions, "STOPSIGNAL") == "SIGTERM"
    copied = [one.rest for one in instructions if one.word == "COPY" and "healthcheck.py" in one.rest]
    assert copied == ["deploy/docker/healthcheck.py /opt/batchyard/healthcheck.py"]


def command_line(file: Path) -> list[str]:
    instructions = parse(file)
    entrypoint: list[str] = json.loads(last(instructions, "ENTRYPOINT"))
    return entrypoint


def accepts(module: str, arguments: list[str]) -> Any:
    """What the process's own parser makes of the arguments; SystemExit if it refuses them."""
    imported = importlib.import_module(f"{module}.__main__")
    return imported._parser().parse_args(arguments)


def test_the_entrypoints_are_processes_of_ours_and_bind_loopback_unless_told_otherwise(file: Path) -> None:
    python, flag, module, *arguments = command_line(file)
    command: list[str] = json.loads(last(parse(file), "CMD"))

    assert (python, flag) == ("python", "-m")
    assert importlib.util.find_spec(f"{module}.__main__") is not None
    if command == ["--help"]:
        with pytest.raises(SystemExit) as ended:
            accepts(module, [*arguments, *command])
        assert ended.value.code == 0
    else:
        given = accepts(module, [*arguments, *command])
        assert {given.grpc.partition(":")[0], given.http.partition(":")[0]} == {"127.0.0.1"}
        assert not given.insecure


def test_the_health_check_fails_with_a_reason_where_nothing_answers() -> None:
    checked = subprocess.run(
        [sys.executable, "deploy/docker/healthcheck.py", "127.0.0.1:1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert checked.returncode == 1
    assert "http://127.0.0.1:1/healthz" in checked.stderr
