"""A control plane that dies while it starts an attempt: the next one finds what it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from batchyard.cluster.attempts import MARK
from batchyard.cluster.local import LocalExecutor
from batchyard.cluster.processes import marked
from tests.cluster.harness import WORKERS, Bench, Run

STARTER = """
import json, sys
from pathlib import Path
from batchyard.cluster.executor import Attempt, AttemptId
from batchyard.cluster.local import LocalExecutor
values = json.loads(sys.argv[3])
attempt = Attempt(id=AttemptId(job=sys.argv[2], number=1), **values)
LocalExecutor(Path(sys.argv[1]), 3, 0.5, "tests.cluster.entries:until_stopped").start(attempt)
"""


@pytest.mark.parametrize("where", ["supervisor.before_spawn", "supervisor.before_note"])
def test_an_attempt_whose_starter_died_has_one_supervisor_all_the_same(
    local: Bench, tmp_path: Path, where: str
) -> None:
    attempt = local.attempt(steps=5)
    values = json.dumps({"spec": attempt.spec, "artifact_uri": attempt.artifact_uri})
    variables = {"BATCHYARD_FAILPOINTS": f"{where}=kill", "BATCHYARD_FAILPOINTS_STATE": str(tmp_path / "state")}
    command = [sys.executable, "-c", STARTER, str(local.folder), attempt.id.job, values]
    starter = subprocess.run(command, env={**os.environ, **variables}, timeout=60, check=False)
    assert starter.returncode == -signal.SIGKILL
    executor = LocalExecutor(local.folder, WORKERS, 0.5, "tests.cluster.entries:until_stopped")
    executor.start(attempt)
    run = Run(local, executor, attempt)
    run.pids()  # by now every worker is there
    leaders = [each for each in marked(MARK, run.folder().orders().mark) if os.getsid(each.pid) == each.pid]
    assert leaders == [run.supervisor()]
    executor.cancel(attempt.id)
    assert run.ended().outcome == "cancelled"
