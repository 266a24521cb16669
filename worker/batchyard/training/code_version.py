"""Which code this is: the release and, where it runs from a git checkout, the commit."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from importlib import metadata
from pathlib import Path

DESCRIBED = re.compile(r"[0-9a-f]{12,}(\.dirty)?")
DIGITS = 12
"""Of the commit's hash."""
PATIENCE_S = 10.0


@functools.cache
def code_version() -> str:
    """The release, as 0.1.0. From a checkout with the commit, and whether a tracked file differs from it, as a local
    version of PEP 440: 0.1.0+g1a2b3c4d5e6f.dirty. What it said first stays: later the checkout may be another.
    """
    release = metadata.version("batchyard")
    commit = commit_of(Path(__file__))
    return f"{release}+g{commit}" if commit else release


def commit_of(file: Path) -> str | None:
    """The commit of the checkout that has `file`, with .dirty where it has changed; None where git tells none: an
    installed package is no part of the repository that its environment may lie in.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    said = _git(file.parent, "describe", "--always", "--exclude=*", f"--abbrev={DIGITS}", "--dirty=.dirty")
    return said if said and DESCRIBED.fullmatch(said) else None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where there is no git, or it refuses."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            env=settings,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
