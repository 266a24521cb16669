"""What a shell is offered: words of the command, and names that the service knows."""

from typing import Any

import pytest
from click.shell_completion import BashComplete

from batchyard.cli.main import batchyard


def offered(*words: str) -> list[str]:
    """What completes the last of `words`."""
    found = BashComplete(batchyard, {}, "batchyard", "_BATCHYARD_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [each.value for each in found]


@pytest.fixture
def scene(run: Any, digit_model: str) -> None:
    for name in ("try", "other"):
        run("submit", "job.yaml", "--set", f"name={name}")


def test_commands_and_options_are_completed() -> None:
    assert offered("jo") == ["jobs", "job"]
    assert offered("submit", "--fo") == ["--follow"]
    assert offered("jobs", "--state", "run") == ["running"]


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("command", ["show", "watch", "cancel", "logs", "metrics", "pause", "resume", "rerun", "wait"])
def test_a_job_s_id_is_completed(command: str) -> None:
    assert offered("job", command, "") == ["other-2", "try-1"]
    assert offered("job", command, "tr") == ["try-1"]


@pytest.mark.usefixtures("scene")
def test_a_model_is_completed_and_its_aliases_where_versions_are_meant() -> None:
    assert offered("model", "show", "t") == offered("predict", "t") == ["tiny", "tiny@production"]
    assert offered("model", "set", "t") == offered("alias", "t") == ["tiny"]


def test_where_no_service_is_nothing_is_offered_and_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert offered("job", "show", "--control", "127.0.0.1:1", "") == []
    assert capfd.readouterr() == ("", "")
