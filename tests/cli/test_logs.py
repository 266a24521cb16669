"""job logs: which lines are printed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batchyard.cli.logs import Since
from batchyard.client import LogLine
from batchyard.client.testing import FakeService

LINES = (
    LogLine(level="DEBUG", text="loading"),
    LogLine(level="INFO", text="epoch 1", rank=0),
    LogLine(level="INFO", text="epoch 1", rank=1),
    LogLine(level="WARNING", text="a slow disk", rank=1),
    LogLine(level="ERROR", text="the loss is nan", rank=0),
)


@pytest.fixture
def job(run: Any, service: FakeService) -> str:
    run("submit", "job.yaml")
    service.emit("trainingJobs/try-1", *LINES)
    return "try-1"


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        ((), ["loading", "epoch 1", "epoch 1", "a slow disk", "the loss is nan"]),
        (("--level", "warning"), ["a slow disk", "the loss is nan"]),
        (("--worker", "0"), ["epoch 1", "the loss is nan"]),
        (("--grep", "loss|disk"), ["a slow disk", "the loss is nan"]),
        (("--grep", "loss|disk", "--worker", "1"), ["a slow disk"]),
        (("--since", "1h"), ["loading", "epoch 1", "epoch 1", "a slow disk", "the loss is nan"]),
        (("--since", "2999-01-01"), []),
    ],
    ids=["all", "level", "worker", "text", "text and worker", "young", "none"],
)
def test_the_lines_that_are_asked_for(run: Any, job: str, flags: tuple[str, ...], texts: list[str]) -> None:
    lines = run("job", "logs", job, *flags).stdout.splitlines()
    assert [line.split("\t")[3] for line in lines] == texts


@pytest.mark.parametrize("given", ["90s", "1.5m", "2 h", "1d"])
def test_how_long_ago_counts_from_now(given: str) -> None:
    ago = {"90s": 90, "1.5m": 90, "2 h": 7200, "1d": 86400}[given]
    expected = datetime.now(UTC) - timedelta(seconds=ago)
    assert abs(Since().convert(given, None, None) - expected) < timedelta(seconds=5)


@pytest.mark.parametrize(("flag", "given"), [("--since", "yesterday"), ("--grep", "("), ("--worker", "-1")])
def test_what_cannot_be_meant_is_wrong_usage(run: Any, job: str, flag: str, given: str) -> None:
    result = run("job", "logs", job, flag, given)
    assert result.exit_code == 2
    assert given in result.stderr
