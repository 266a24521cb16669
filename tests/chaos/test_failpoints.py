"""Failpoints: the catalogue is what the code has, armed ones fire once, and an installed service has none."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.failpoints import armed
from batchyard.failpoints.catalogue import CATALOGUE
from tests.house.test_imports import ROOT, module_of, modules

REACH = "from batchyard.failpoints import failpoint; failpoint('{}'); print('on it went')"


def calls(node: ast.AST, within: str) -> Iterator[tuple[str, str]]:
    """Every failpoint below `node`, with the function around it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from calls(child, f"{within}.{child.name}" if within else child.name)
            continue
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Name) and child.func.id == "failpoint":
            (name,) = child.args
            assert isinstance(name, ast.Constant), f"{within}: a failpoint's name is written out"
            yield str(name.value), within
        yield from calls(child, within)


def in_the_code() -> list[tuple[str, str]]:
    return [
        (name, f"{module_of(path)}:{within}")
        for path in modules()
        for name, within in calls(ast.parse(path.read_text()), "")
    ]


def test_every_failpoint_is_in_the_catalogue_with_its_places_and_the_other_way_round() -> None:
    listed = [(name, place) for name, point in CATALOGUE.items() for place in point.places]
    assert sorted(in_the_code()) == sorted(listed)


def reached(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own that comes to the failpoint."""
    command = [sys.executable, "-c", REACH.format(name)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def variables(rules: str, folder: Path) -> dict[str, str]:
    return {"BATCHYARD_FAILPOINTS": rules, "BATCHYARD_FAILPOINTS_STATE": str(folder)}


def test_one_that_is_not_armed_does_nothing() -> None:
    assert reached("create.before_commit").stdout == "on it went\n"


def test_kill_ends_the_process_at_the_time_asked_for_and_never_again(tmp_path: Path) -> None:
    rules = variables("create.before_commit=kill@2", tmp_path)
    codes = [reached("create.before_commit", **rules).returncode for _ in range(4)]
    assert codes == [0, -signal.SIGKILL, 0, 0]
    (fired,) = (tmp_path / "fired.jsonl").read_text().splitlines()
    assert json.loads(fired)["name"] == "create.before_commit"


def test_others_are_not_counted_and_do_nothing(tmp_path: Path) -> None:
    assert reached("create.after_commit", **variables("create.before_commit=kill", tmp_path)).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_armed_says_so(tmp_path: Path) -> None:
    said = reached("create.after_commit", **variables("create.before_commit=kill", tmp_path)).stderr
    assert "FAILPOINTS ARE ARMED" in said


def test_error_raises_what_a_failing_machine_raises(tmp_path: Path) -> None:
    points = armed.read("folder.before_fsync=error", str(tmp_path))
    with pytest.raises(OSError, match=r"failpoint folder\.before_fsync"):
        points.reach("folder.before_fsync")
    points.reach("folder.before_fsync")


def test_a_file_of_rules_is_read_at_every_failpoint(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    points = armed.read(f"@{file}", str(tmp_path / "state"))
    points.reach("folder.before_fsync")
    file.write_text("folder.before_fsync=error\n")
    with pytest.raises(OSError, match="failpoint"):
        points.reach("folder.before_fsync")


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        pytest.param("create.befor_commit=kill", "the nearest is create.before_commit", id="unknown-name"),
        pytest.param("create.before_commit=sleep", "expected NAME=kill@TIME", id="unknown-action"),
        pytest.param("create.before_commit=kill@0", "TIME a number from 1", id="time-zero"),
    ],
)
def test_rules_that_cannot_be_followed_end_the_process_and_say_why(tmp_path: Path, rules: str, says: str) -> None:
    done = reached("create.before_commit", **variables(rules, tmp_path))
    assert done.returncode == 1
    assert says in done.stderr


def test_one_variable_without_the_other_ends_the_process() -> None:
    done = reached("create.before_commit", BATCHYARD_FAILPOINTS="create.before_commit=kill")
    assert done.returncode == 1
    assert "BATCHYARD_FAILPOINTS_STATE is not" in done.stderr


def test_an_installed_service_has_no_failpoints_and_does_not_start_with_them(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = [name for name in files.namelist() if name.startswith("batchyard/failpoints/")]
        files.extractall(tmp_path / "installed", names)
    assert "batchyard/failpoints/armed.py" not in names
    paths = {"PYTHONPATH": str(tmp_path / "installed")}
    # -S: the editable install of these tests must not be found.
    command = [sys.executable, "-S", "-c", REACH.format("create.before_commit")]
    for rules, code in (({}, 0), (variables("create.before_commit=kill", tmp_path), 1)):
        done = subprocess.run(
            command, env={**os.environ, **paths, **rules}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stderr
    assert "installed batchyard" in done.stderr
