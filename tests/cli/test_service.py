"""up and down: starting, finding and stopping a service, with a stand-in for the real one."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from batchyard.cli import local, processes
from batchyard.cli.failures import Failure
from tests.children import running

STAND_IN = Path(__file__).parent / "stand_in_control.py"
UP = [sys.executable, "-m", "batchyard.cli", "up"]


class Done(NamedTuple):
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Done]:
    """Runs `batchyard ARGUMENTS` as a process of its own: it must leave the service behind when it ends."""

    def call(*arguments: str) -> Done:
        command = [sys.executable, "-m", "batchyard.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return Done(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Chooses what the stand-in does; whatever was started is gone at the end."""
    package = tmp_path / "stand-in" / "batchyard" / "control"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(STAND_IN, package / "__main__.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand-in"))
    for name in ("CONTROL", "INFERENCE", "TOKEN_FILE", "TLS_CA"):
        monkeypatch.delenv(f"BATCHYARD_{name}", raising=False)
    yield lambda story: monkeypatch.setenv("STAND_IN", story)
    if running := local.find(tmp_path / "batchyard-data"):
        local.stop(running, tmp_path / "batchyard-data", force=True, within=0.1)


def alive(pid: int) -> bool:
    process = processes.find(pid)
    return process is not None and process.alive


def test_up_prints_the_addresses_and_down_stops_everything(run: Any, stand_in: Any) -> None:
    stand_in("works")
    result = run("up", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert alive(facts["pid"])
    assert alive(facts["child"])
    assert f"control plane\t{facts['grpc']}  serving" in run("status").stdout, "other commands find it by its file"
    assert json.loads(run("down", "--json").stdout) == {"stopped": True, "processes": 2}
    assert not alive(facts["pid"])
    assert not alive(facts["child"])


def test_up_standby_starts_a_second_service_that_waits_for_the_first(run: Any, stand_in: Any) -> None:
    stand_in("works")
    first = json.loads(run("up", "--json").stdout)["pid"]
    waiting = json.loads(run("up", "--standby", "--json").stdout)
    try:
        assert waiting["standby"]
        assert waiting["pid"] != first
        assert alive(waiting["pid"])
    finally:
        os.kill(waiting["pid"], signal.SIGTERM)
    assert json.loads(run("up", "--json").stdout)["pid"] == first


def test_up_lives_in_a_session_of_its_own_and_logs_to_its_folder(run: Any, stand_in: Any, tmp_path: Path) -> None:
    stand_in("works")
    pid = json.loads(run("up", "--json").stdout)["pid"]
    assert os.getsid(pid) == pid
    assert (tmp_path / "batchyard-data" / "control.log").read_text().startswith("arguments ")


def test_up_hands_its_flags_on(run: Any, stand_in: Any, tmp_path: Path) -> None:
    stand_in("works")
    flags = ("--grpc", "127.0.0.1:0", "--workers", "3", "--datasets", "a", "--datasets", "b", "--executor", "local")
    opened = ("--shared-memory", "client-*", "--model-control", "explicit", "--trace-dir", "traces")
    run("up", *flags, "--engines", "openvino", *opened, "--shift-sample-rate", "0", "--insecure")
    words = (tmp_path / "batchyard-data" / "control.log").read_text().splitlines()[0].removeprefix("arguments ")
    assert json.loads(words) == [
        "--grpc", "127.0.0.1:0", "--workers", "3", "--datasets", "a", "b", "--executor", "local",
        "--engines", "openvino", *opened, "--shift-sample-rate", "0.0", "--insecure"
    ]  # fmt: skip


def test_up_twice_says_that_it_runs_already(run: Any, stand_in: Any) -> None:
    stand_in("works")
    first = json.loads(run("up", "--json").stdout)
    again = run("up", "--json")
    assert (again.exit_code, again.stderr) == (0, "")
    assert json.loads(again.stdout) == first
    other = run("up", "--json", "--workers", "8")
    assert json.loads(other.stdout) == first
    assert other.stderr.startswith("It keeps the flags that it was started with")


def test_a_service_that_ends_at_once_is_shown_with_its_last_words(run: Any, stand_in: Any) -> None:
    stand_in("dies")
    result = run("up")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1:] == [
        "the address 127.0.0.1:50051 is taken",
        "batchyard: the service ended with exit code 7 before it answered",
        "  Its last words are above; all of them are in batchyard-data/control.log.",
    ]


def test_a_service_that_knows_what_is_wrong_with_its_flags_is_quoted(run: Any, stand_in: Any) -> None:
    stand_in("refuses")
    result = run("up")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "batchyard: --grpc x: expected HOST:PORT",
        "  All that it said is in batchyard-data/control.log.",
    ]


def test_only_the_words_of_this_start_are_shown(run: Any, stand_in: Any, tmp_path: Path) -> None:
    (tmp_path / "batchyard-data").mkdir()
    (tmp_path / "batchyard-data" / "control.log").write_text("of last week\n")
    stand_in("dies")
    assert "of last week" not in run("up").stderr


def test_a_service_that_does_not_answer_in_time_is_ended(stand_in: Any, tmp_path: Path) -> None:
    stand_in("silent")
    with pytest.raises(Failure, match="did not answer within 1 s"):
        local.start([], tmp_path / "data", within=1.0)
    others = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    assert not [pid for pid in others if str(tmp_path) in _command(int(pid))]


def _command(pid: int) -> str:
    process = processes.find(pid)
    return " ".join(process.command) if process else ""


def test_ctrl_c_during_up_ends_what_it_had_started(run: Any, stand_in: Any, tmp_path: Path) -> None:
    stand_in("silent")
    with running(UP, cwd=tmp_path, stderr=subprocess.PIPE) as command:
        log = tmp_path / "batchyard-data" / "control.log"
        while not (log.exists() and log.read_text()):
            assert command.poll() is None
        started = processes.family({_process(command.pid)})
        assert len(started) >= 2
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=30)
    assert command.returncode == 130
    assert not [process for process in started if process.alive]


def _process(pid: int) -> processes.Process:
    found = processes.find(pid)
    assert found is not None
    return found


def test_a_foreground_service_stops_with_the_command(run: Any, stand_in: Any, tmp_path: Path) -> None:
    stand_in("works")
    command = [*UP, "--foreground"]
    with running(command, cwd=tmp_path, stdout=subprocess.PIPE) as up:
        printed = []
        for line in up.stdout or ():
            printed.append(line.split("\t")[0])
            if printed[-1] == "inference metrics":
                break
        service = local.find(tmp_path / "batchyard-data")
        up.terminate()
        up.communicate(timeout=30)
    assert printed == ["arguments []\n", "control plane", "dashboard", "inference", "inference metrics"]
    assert up.returncode == 0
    assert service is not None
    assert not service.process.alive


def test_a_stubborn_service_is_reported_and_killed_on_request(run: Any, stand_in: Any) -> None:
    stand_in("stubborn")
    facts = json.loads(run("up", "--json").stdout)
    result = run("down", "--timeout", "0.2")
    assert result.exit_code == 1
    assert f"still running after SIGTERM: {facts['pid']}" in result.stderr
    assert "batchyard down --force" in result.stderr
    assert run("down", "--timeout", "0.2", "--force").exit_code == 0
    assert not alive(facts["pid"])
    assert not alive(facts["child"])
    assert run("down").stdout == "No service runs on batchyard-data; nothing to stop.\n"


def test_down_without_a_service_is_no_failure(run: Any) -> None:
    result = run("down")
    assert (result.exit_code, result.stdout) == (0, "No service runs on batchyard-data; nothing to stop.\n")


def test_what_a_dead_service_has_left_running_is_not_called_nothing(run: Any, tmp_path: Path) -> None:
    left = [sys.executable, "-c", "import signal; signal.pause()", "batchyard.serving", "--cache"]
    folder = tmp_path / "batchyard-data"
    with running([*left, str(folder / "inference")], cwd=tmp_path) as plane:
        result = run("down")
        assert result.exit_code == 1
        assert result.stderr.splitlines() == [
            "batchyard: the service on batchyard-data has died, and what it had started runs on: "
            f"{plane.pid} (batchyard.serving)",
            "  Run `batchyard up`, which takes it up, and then `batchyard down`.",
        ]
        findings = {line.split("\t")[1]: line.split("\t") for line in run("doctor").stdout.splitlines()}
        assert findings["service here"][0] == "warning"
        assert f"runs on: {plane.pid} (batchyard.serving)" in findings["service here"][2]
        plane.kill()
    assert run("down").exit_code == 0


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 - 1, "x", None], ids=["lives", "ended", "text", "missing"])
def test_a_file_left_by_a_dead_service_harms_nobody(run: Any, tmp_path: Path, pid: Any) -> None:
    folder = tmp_path / "batchyard-data"
    folder.mkdir()
    (folder / "control.json").write_text(json.dumps({"pid": pid, "grpc": "127.0.0.1:1"}))
    assert run("down").stdout == "No service runs on batchyard-data; nothing to stop.\n"


def test_a_folder_that_cannot_be_made_is_named(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("up", "--data-dir", "file/data")
    assert result.exit_code == 2
    assert "file/data" in result.stderr


def test_an_installation_without_the_server_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sqlalchemy" else real(name))
    with pytest.raises(Failure, match="the client only") as caught:
        local.start([], tmp_path / "data")
    assert "pip install 'batchyard[server]'" in caught.value.hint
    assert not (tmp_path / "data").exists()
