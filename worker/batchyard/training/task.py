"""The torch side of a task that the control plane runs (control/torch_tasks.py): order.json in, result.json out."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from batchyard.artifact.errors import ArtifactError
from batchyard.training.events import TrainingError
from batchyard.training.spec import SpecError, Violation

Work = Callable[[Mapping[str, Any], Path], Mapping[str, Any]]
"""From the order and the task's folder to the answer, both JSON-ready."""

NICENESS = 10
"""Training and serving on the same machine go first."""


def main(work: Work, arguments: list[str]) -> int:
    """Does `work` in the folder that is the only argument, and writes its answer, or what the caller can mend.

    SpecError names the fields that are wrong; TrainingError and ArtifactError say why it cannot be done. Anything else
    is a fault of ours: it is printed, and there is no result.
    """
    (folder,) = map(Path, arguments)
    os.nice(NICENESS)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    result: dict[str, Any]
    try:
        result = {"answer": work(json.loads((folder / "order.json").read_text()), folder)}
    except SpecError as error:
        result = {"error": {"violations": [vars(violation) for violation in error.violations]}}
    except TrainingError as error:
        result = {"error": {"cause": error.cause, "next_step": error.next_step}}
    except ArtifactError as error:
        advice = "look at the artifacts' storage, then try again"
        result = {"error": {"cause": str(error), "next_step": advice, "passing": error.passing}}
    partial = folder / "result.json.part"
    partial.write_text(json.dumps(result))
    partial.rename(folder / "result.json")
    return 0


def violation(field: str, description: str) -> SpecError:
    """The error for one field that is wrong."""
    return SpecError([Violation(field, description)])


def _end_with_parent() -> None:
    """The control plane holds the other end of standard input: when that closes, nobody waits for the answer."""
    while os.read(0, 1):  # not sys.stdin: its lock, held by a daemon thread, aborts the interpreter's end
        pass
    os._exit(1)
