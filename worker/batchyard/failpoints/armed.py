"""Failpoints that do something. In no wheel: only processes that run from the source tree can be armed.

FOLDER/NAME.count      a byte for each time that the failpoint was reached while it was armed, by whatever process
FOLDER/fired.jsonl     a line for each one that fired, written before it does what it does

A failpoint fires when its count is the one asked for, and never again: a process that is restarted counts on.
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from batchyard.failpoints import STATE_VARIABLE, VARIABLE
from batchyard.failpoints.catalogue import CATALOGUE

ACTIONS = ("kill", "error")
RULE = re.compile(r"(?P<name>[a-z_.]+)=(?P<action>[a-z]+)(@(?P<time>[1-9][0-9]{0,8}))?")


class FailpointsError(ValueError):
    """What the environment says of failpoints cannot be carried out."""


class FailpointError(OSError):
    """What the action `error` raises: to the code around it a failure of the machine."""

    def __init__(self, name: str) -> None:
        super().__init__(errno.EIO, f"failpoint {name}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What happens at one failpoint."""

    action: str
    """kill: this process ends at once, by SIGKILL; error: FailpointError is raised."""
    time: int = 1
    """The how many-th time, over all processes."""


class Armed:
    """Failpoints of which some do something.

    Args:
        rules: tells, whenever a failpoint is reached, which are armed.
        folder: where they are counted.
    """

    def __init__(self, rules: Callable[[], Mapping[str, Rule]], folder: Path) -> None:
        self._rules = rules
        self._folder = folder

    def reach(self, name: str) -> None:
        """Called at each failpoint. Raises FailpointError, or does not return, where that is asked for."""
        rule = self._rules().get(name)
        if rule is None or self._count(name) != rule.time:
            return
        said = {"time": time.time(), "pid": os.getpid(), "name": name, "action": rule.action}
        with (self._folder / "fired.jsonl").open("a") as fired:
            fired.write(json.dumps(said) + "\n")
        if rule.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise FailpointError(name)

    def _count(self, name: str) -> int:
        """Counts this time, too."""
        with (self._folder / f"{name}.count").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(b".")
            file.flush()
            return os.fstat(file.fileno()).st_size


def read(text: str, folder: str) -> Armed:
    """What the environment asks for, said loudly on standard error. Raises FailpointsError."""
    if not text or not folder:
        missing, given = (STATE_VARIABLE, VARIABLE) if text else (VARIABLE, STATE_VARIABLE)
        raise FailpointsError(f"{given} is set and {missing} is not: set both, for a test, or neither")
    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    if text.startswith("@"):
        file = Path(text[1:])
        rules: Callable[[], Mapping[str, Rule]] = lambda: parse(file.read_text()) if file.exists() else {}  # noqa: E731
    else:
        fixed = parse(text)
        rules = lambda: fixed  # noqa: E731
    sys.stderr.write(f"batchyard: FAILPOINTS ARE ARMED in process {os.getpid()}, which may die of them: {text}\n")
    return Armed(rules, where)


def parse(text: str) -> dict[str, Rule]:
    """Rules by name from NAME=ACTION@TIME,... or one a line. Raises FailpointsError."""
    rules: dict[str, Rule] = {}
    for part in filter(None, (each.strip() for each in re.split(r"[,\n]", text))):
        match = RULE.fullmatch(part)
        if match is None or match["action"] not in ACTIONS:
            forms = " or ".join(f"NAME={action}@TIME" for action in ACTIONS)
            raise FailpointsError(f"{VARIABLE}: {part!r} given; expected {forms}, TIME a number from 1")
        if match["name"] not in CATALOGUE:
            near = difflib.get_close_matches(match["name"], CATALOGUE, n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise FailpointsError(f"{VARIABLE}: there is no failpoint {match['name']!r}{hint}: see docs/chaos.md")
        rules[match["name"]] = Rule(action=match["action"], time=int(match["time"] or 1))
    return rules
