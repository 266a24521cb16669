"""Which code has trained a model."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from batchyard.training.code_version import code_version, commit_of


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit, which has the file code.py."""
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_a_checkout_has_its_commit_and_says_that_files_were_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    git(checkout, "tag", "v1")
    (checkout / "notes.txt").write_text("nobody imports this\n")
    assert commit_of(checkout / "code.py") == commit
    (checkout / "code.py").write_text("2\n")
    assert commit_of(checkout / "code.py") == f"{commit}.dirty"


def test_a_package_that_lies_in_somebodys_repository_is_no_part_of_it(checkout: Path) -> None:
    installed = checkout / ".venv" / "package.py"
    installed.parent.mkdir()
    installed.write_text("1\n")
    assert commit_of(installed) is None


def test_a_hook_that_runs_this_does_not_mislead_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = commit_of(checkout / "code.py")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert commit_of(checkout / "code.py") == expected


@pytest.mark.parametrize("path", ["", "/nowhere"], ids=["no-repository", "no-git"])
def test_where_git_tells_nothing_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    if path:
        monkeypatch.setenv("PATH", path)
    (tmp_path / "code.py").write_text("1\n")
    assert commit_of(tmp_path / "code.py") is None


def test_the_version_begins_with_the_release() -> None:
    release = re.escape(metadata.version("batchyard"))
    assert re.fullmatch(rf"{release}(\+g[0-9a-f]{{12,}}(\.dirty)?)?", code_version())
