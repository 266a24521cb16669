"""docs/client.md: its examples, run in their order against a real service."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from json import loads
from pathlib import Path
from typing import Any

import pytest

import batchyard.client
from batchyard.client import AsyncClient, Client

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "client.md").read_text(), re.DOTALL)


@pytest.fixture
def facts(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Where a service of this test's own answers. Its workers are plain processes."""
    command = [sys.executable, "-m", "batchyard.cli"]
    free = [f"--{plane}=127.0.0.1:0" for plane in ("grpc", "http", "inference-grpc", "inference-http")]
    up = [*command, "up", "--json", "--data-dir", str(tmp_path), "--executor", "local", "--workers", "3", *free]
    yield loads(subprocess.run(up, capture_output=True, text=True, timeout=100, check=True).stdout)
    subprocess.run([*command, "down", "--data-dir", str(tmp_path)], capture_output=True, timeout=100, check=True)


def test_every_example_works_as_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], facts: dict[str, Any]
) -> None:
    for kind in (Client, AsyncClient):
        monkeypatch.setattr(batchyard.client, kind.__name__, partial(kind, facts["grpc"], facts["inference_grpc"]))
    names: dict[str, Any] = {}
    for example in EXAMPLES:
        exec(example, names)
    lines = capsys.readouterr().out.splitlines()
    states, steps = lines[: lines.index("SUCCEEDED") + 1], [line for line in lines if line.startswith("step ")]
    assert [line for line in states if not line.startswith("step ")] == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
    assert steps[-1].startswith("step 100: loss ")
    version, versions, labels, *errors = lines[len(states) :]
    assert version == "models/digits/versions/1"
    assert versions == str([f"models/digits/versions/{number}" for number in (2, 3)])
    assert re.fullmatch(r"\[(\d) \1\]", labels)
    assert errors == ["NOT_FOUND", "steps: 0 given; expected a whole number, 1 or more"]
