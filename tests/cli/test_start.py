"""How the command starts and how it fails."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import Result
from google.rpc.error_details_pb2 import ErrorInfo

from batchyard.client.testing import FakeService, bad_request
from batchyard.v1.spec_pb2 import TrainingJobSpec
from batchyard.v1.training_pb2 import CreateTrainingJobRequest

HEAVY = ("torch", "ray", "rich", "numpy", "grpc", "google.protobuf", "PIL", "yaml")


@pytest.mark.parametrize("arguments", [["--help"], ["submit", "--help"], ["predict", "--help"], ["--version"]])
def test_help_loads_nothing_but_click(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom batchyard.cli.main import batchyard\n"
        f"try: batchyard({arguments!r}, prog_name='batchyard')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    [[], ["submit"], ["jobs"], ["job"], ["job", "show"], ["models"], ["alias"], ["predict"], ["up"], ["down"]],
)
def test_help_shows_examples(run: Any, command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: batchyard" in result.stdout
    assert "Examples:" in result.stdout or command == ["job"]


def test_help_documents_the_exit_codes(run: Any) -> None:
    assert "3    the service does not answer" in run("--help").stdout


@contextmanager
def a_server_without_methods() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def two_lines(result: Result) -> tuple[str, str]:
    """What is wrong, and what to do."""
    what, hint = result.stderr.splitlines()
    assert what.startswith("batchyard: ")
    assert hint.startswith("  ")
    assert len(hint) > 4
    return what.removeprefix("batchyard: "), hint.strip()


def test_an_unknown_flag_is_wrong_usage(run: Any) -> None:
    result = run("jobs", "--jsno")
    assert result.exit_code == 2
    assert two_lines(result) == (
        "No such option '--jsno'. Did you mean '--json'?",
        "See `batchyard jobs --help`.",
    )


@pytest.mark.parametrize("command", [[], ["job"], ["model"]])
def test_a_group_without_a_command_shows_its_help(run: Any, command: list[str]) -> None:
    result = run(*command)
    assert result.exit_code == 2
    assert result.stderr == run(*command, "--help").stdout


@pytest.mark.parametrize("called", ["jobs", "model show tiny"])
def test_a_service_of_another_kind_is_said_to_be_one(run: Any, called: str) -> None:
    with a_server_without_methods() as address:
        result = run(*called.split(), "--control", address)
    what, hint = two_lines(result)
    assert what.startswith(f"the control plane at {address} does not know this call (")
    assert what.endswith("): it is another plane, or of an older version")
    assert "--inference" in hint


def test_a_host_that_there_is_not_is_said_to_be_none(run: Any) -> None:
    result = run("jobs", "--control", "nowhere.invalid:50051")
    assert result.exit_code == 3
    assert "nowhere.invalid:50051 does not answer (" in two_lines(result)[0]


def test_an_unknown_command_is_wrong_usage(run: Any) -> None:
    result = run("sumbit")
    assert result.exit_code == 2
    assert "sumbit" in two_lines(result)[0]


def test_a_service_that_is_not_there_is_exit_code_3(run: Any) -> None:
    result = run("jobs", "--control", "127.0.0.1:1")
    assert result.exit_code == 3
    what, hint = two_lines(result)
    assert what == "the control plane at 127.0.0.1:1 does not answer (connection refused)"
    assert "batchyard up" in hint


def test_a_missing_token_is_exit_code_4(run: Any, service: FakeService) -> None:
    service.fail_next("ListTrainingJobs", grpc.StatusCode.UNAUTHENTICATED, "no token", ErrorInfo(reason="NO_TOKEN"))
    result = run("jobs")
    assert result.exit_code == 4
    assert "--token-file" in two_lines(result)[1]


def test_a_token_file_that_others_may_read_is_refused(run: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o644)
    result = run("jobs", "--token-file", "token")
    assert result.exit_code == 2
    assert two_lines(result)[1] == "Run: chmod 600 token"


def test_what_the_service_refuses_is_wrong_usage(run: Any, service: FakeService) -> None:
    details = bad_request(spec__steps="0 given; expected 1 or more")
    words = "spec.steps: 0 given; expected 1 or more"
    service.fail_next("CreateTrainingJob", grpc.StatusCode.INVALID_ARGUMENT, words, details)
    result = run("submit", "job.yaml")
    assert result.exit_code == 2
    assert two_lines(result)[0] == words.removeprefix("spec.")


def test_a_message_of_several_lines_stays_two_lines(run: Any, service: FakeService) -> None:
    service.fail_next("GetTrainingJob", grpc.StatusCode.INTERNAL, "first\nsecond", ErrorInfo(reason="X"))
    result = run("job", "show", "x")
    assert result.exit_code == 1
    assert two_lines(result)[0] == "first ..."


def test_a_reader_that_leaves_is_no_error(service: FakeService) -> None:
    for _ in range(100):
        service.create(_request())
    command = f"{sys.executable} -m batchyard.cli jobs --limit 1000 --control {service.address} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def _request() -> CreateTrainingJobRequest:
    return CreateTrainingJobRequest(spec=TrainingJobSpec(name="a" * 40))
