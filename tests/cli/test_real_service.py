"""The command against the real service: up, train, publish, serve, predict, cancel, down. Workers are subprocesses."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batchyard.cli import local, processes
from batchyard.data import load
from tests.children import running

from .schema import schema_of
from .tmux import terminal

EXAMPLES = Path(__file__).parents[2] / "examples"
Command = Callable[..., str]


def call(folder: Path, *arguments: str | Path, code: int = 0) -> str:
    """What `batchyard ARGUMENTS` prints, run in `folder`."""
    command = [sys.executable, "-m", "batchyard.cli", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHYARD_")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which a service runs, with a trained and published model."""
    folder = tmp_path_factory.mktemp("service")
    free = [f"--{plane}=127.0.0.1:0" for plane in ("grpc", "http", "inference-grpc", "inference-http")]
    call(folder, "up", *free, "--executor", "local", "--workers", "2")
    try:
        output = call(folder, "submit", EXAMPLES / "digits-mlp.yaml", "--follow", "--set", "steps=200")
        assert output.splitlines()[-1] == "SUCCEEDED digits/1"
        yield folder
    finally:
        running = local.find(folder / "batchyard-data")
        assert running is not None
        family = processes.family({running.process})
        assert len(family) >= 2, "the control plane and its inference plane"
        call(folder, "down")
        assert not [process for process in family if process.alive]


def test_status_lists_the_job_and_the_model(folder: Path) -> None:
    status = json.loads(call(folder, "status", "--json"))
    assert (status["control"]["state"], status["jobs"]["SUCCEEDED"], status["models"]) == ("serving", 1, ["digits"])


def test_a_version_leads_back_to_its_job_and_its_data(folder: Path) -> None:
    (found,) = json.loads(call(folder, "model", "lineage", "digits", "--json"))["versions"]
    assert found["version"]["origin"] == "trained"
    assert found["training_job"]["model_version"] == found["version"]["name"] == "models/digits/versions/1"
    assert found["training_job"]["spec"]["steps"] == found["training_job"]["progress"]["step"] == 200
    assert len(found["version"]["dataset_sha256"]) == 64
    assert {"batchyard", "python", "torch"} <= found["version"]["libraries"].keys()


def test_the_job_is_shown_with_every_default_and_its_version(folder: Path) -> None:
    identity = call(folder, "jobs").split("\t")[0]
    job = json.loads(call(folder, "job", "show", identity, "--json"))
    assert job["model_version"] == "models/digits/versions/1"
    assert job["spec"]["model"]["activation"] == "sigmoid"
    assert job["progress"]["evaluation_accuracy"] > 0.9
    events = [json.loads(line) for line in call(folder, "job", "watch", identity, "--json").splitlines()]
    assert [event["step"] for event in events if event["kind"] == "step_metrics"][-1] == 200
    assert events[-1]["state"] == "SUCCEEDED"
    assert "1,438 training" in call(folder, "job", "logs", identity)


def test_what_a_job_shows_can_be_submitted_again(folder: Path) -> None:
    identity = call(folder, "jobs").splitlines()[-1].split("\t")[0]
    spec = json.loads(call(folder, "job", "show", identity, "--json"))["spec"]
    (folder / "again.json").write_text(json.dumps(spec))
    again = call(folder, "submit", "again.json", "--set", "steps=1000000", "--set", "publish=null").strip()
    assert json.loads(call(folder, "job", "show", again, "--json"))["spec"]["optimizer"] == spec["optimizer"]
    assert call(folder, "job", "cancel", again, "--wait") == "CANCELLED\n"


def test_the_model_is_shown_with_its_certificate_and_alias(folder: Path) -> None:
    model, version, aliases, accuracy, *_ = call(folder, "models").strip().split("\t")
    assert (model, version, aliases) == ("digits", "1", "production")
    assert float(accuracy.rstrip("%")) > 90
    shown = json.loads(call(folder, "model", "show", "digits@production", "--json"))
    assert shown["certificate"]["passed"] is True
    assert [entry["status"] for entry in shown["fold_report"]] == ["folded"] * 3
    assert "candidate\t1" in call(folder, "alias", "digits", "candidate", "1")


@pytest.mark.parametrize(
    "command",
    ["jobs", "models", "model show digits", "model lineage digits", "model engines digits", "status", "doctor"],
)
def test_the_json_of_the_real_service_is_as_its_schema_says(folder: Path, command: str) -> None:
    schema_of(command).validate(json.loads(call(folder, *command.split(), "--json")))


def test_a_picture_of_a_digit_is_recognised(folder: Path) -> None:
    test = load("digits", []).test
    sample = next(i for i in range(len(test)) if test.labels[i] == 0)
    large = np.kron(test.images[sample, 0], np.ones((10, 10), np.uint8))
    Image.fromarray(large).save(folder / "zero.png")
    answer = json.loads(call(folder, "predict", "digits@production", "zero.png", "--json"))
    assert answer["notes"] == ["resized from 80 x 80 to 8 x 8"]
    assert answer["rows"][0]["classes"][0]["label"] == "0"
    assert answer["version"] == "1"


def test_held_out_images_from_an_array_are_mostly_right(folder: Path) -> None:
    test = load("digits", []).test
    np.save(folder / "test.npy", test.images)
    labels = [
        line.split("\t")[1] for line in call(folder, "predict", "digits/1", "test.npy", "--top", "1").splitlines()
    ]
    assert np.mean(np.array(labels, dtype=int) == test.labels) > 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.architecture=resnet99", "model.architecture: 'resnet99' given; expected one of"),
        ("steps=0", "steps: 0 given; expected a whole number, 1 or more"),
        ("workers.count=0", "workers.count: 0 given"),
        ("data.batch_size=1", "data.batch_size: 1 given; expected at least one sample for each of the 2 workers"),
        ("data.batchsize=1", "data.batchsize: unknown key; did you mean 'batch_size'?"),
    ],
)
def test_a_spec_that_is_not_legal_is_refused_with_the_field(folder: Path, change: str, words: str) -> None:
    assert words in call(folder, "submit", EXAMPLES / "digits-mlp.yaml", "--set", change, code=2)


def test_a_job_without_its_data_fails_with_what_to_do(folder: Path) -> None:
    told = call(folder, "submit", EXAMPLES / "mnist-mlp.yaml", "--follow", code=1)
    what, hint = told.splitlines()
    assert "dataset mnist: train-images-idx3-ubyte (or .gz) and its three companions not found" in what
    assert "digits" in hint


def test_leaving_a_followed_job_does_not_cancel_it(folder: Path) -> None:
    flags = ["--follow", "--set", "steps=1000000", "--set", "publish=null", "--set", "name=endless"]
    command = [sys.executable, "-m", "batchyard.cli", "submit", str(EXAMPLES / "digits-mlp.yaml"), *flags]
    with running(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert any(line.startswith("step ") for line in child.stdout)
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=60)
    assert child.returncode == 130
    identity = next(line.split("\t")[0] for line in call(folder, "jobs").splitlines() if line.startswith("endless"))
    assert f"batchyard job watch {identity}" in told
    assert json.loads(call(folder, "job", "show", identity, "--json"))["state"] == "RUNNING"
    assert call(folder, "job", "cancel", identity, "--wait") == "CANCELLED\n"


def test_a_followed_job_is_drawn_in_a_terminal_and_ctrl_c_detaches(folder: Path) -> None:
    flags = "--set steps=1000000 --set publish=null --set name=drawn"
    with terminal(folder) as window:
        window.type(f"clear; batchyard submit {EXAMPLES / 'digits-mlp.yaml'} --follow {flags}")
        drawn = r"training [━╸╺]+ [\d,]+/1,000,000 [▁▂▃▄▅▆▇█]+ loss \S+ +accuracy \S+% +\S+ samples/s +ETA \d+ \w+"
        first = window.wait_for(drawn)[0]
        assert window.wait_for(rf"(?!{re.escape(first)}){drawn}"), "it goes on"
        window.press("C-c")
        back = window.wait_for(r"Come back with `(batchyard job watch (drawn-\w+))`")
        command, identity = back.groups()
        assert f"no longer watching; {identity} goes on" in window.screen()
        window.type("echo code $?")
        window.wait_for(r"code 130\n")
        assert json.loads(call(folder, "job", "show", identity, "--json"))["state"] == "RUNNING"
        window.type(f"clear; {command}")
        window.wait_for(drawn)
        call(folder, "job", "cancel", identity)
        window.wait_for(rf"cancelled [━╸╺]+ .*\n(.*\n)*batchyard: {identity} was cancelled")
        window.type("echo code $?")
        window.wait_for(r"code 1\n")


def test_bash_completes_the_name_of_a_model(folder: Path) -> None:
    with terminal(folder) as window:
        window.type("exec bash --norc")
        window.type('eval "$(batchyard completion bash)"; clear; echo ready')
        window.wait_for(r"ready\n")
        window.press("batchyard model show dig", "Tab")
        window.wait_for(r"batchyard model show digits")


def test_a_job_that_is_run_again_comes_out_with_the_same_weights(folder: Path) -> None:
    flags = ["--set", "steps=40", "--set", "publish=null", "--set", "checkpoint.every_steps=20", "--json"]
    submitted = call(folder, "submit", EXAMPLES / "digits-mlp.yaml", *flags, "--follow")
    first = json.loads(call(folder, "jobs", "--limit", "1", "--json"))[0]["name"].removeprefix("trainingJobs/")
    assert submitted.count('"kind": "checkpointed"') == 2
    again = json.loads(call(folder, "job", "rerun", first, "--wait", "--json"))
    assert (again["compared"], again["equal"]) == ("checkpoint of step 40", True)
    assert len(again["sha256"][0]) == 64
    seeded = json.loads(call(folder, "job", "rerun", first, "--wait", "--set", "seed=9", "--json"))
    assert seeded["equal"] is False
    explained = json.loads(call(folder, "job", "explain", first, "--json"))
    schema_of("job explain").validate(explained)
    schema_of("job rerun").validate(again)
    assert (explained["state"], explained["checkpoint"]["step"]) == ("SUCCEEDED", 40)
    kept = {path.name.partition("-")[0] for path in (folder / "batchyard-data" / "checkpoints" / first).iterdir()}
    assert kept == {"000000000040"}, "of a job that has succeeded the last one stays"


def test_a_watch_outlives_a_control_plane_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    free = [f"--{plane}=127.0.0.1:0" for plane in ("http", "inference-grpc", "inference-http")]
    up = ["up", *free, "--executor", "local", "--workers", "1", "--json"]
    facts = json.loads(call(tmp_path, *up, "--grpc=127.0.0.1:0"))
    schema_of("up").validate(facts)
    flags = ["--follow", "--json", "--set", "steps=1500", "--set", "workers.count=1", "--set", "publish=null"]
    command = [sys.executable, "-m", "batchyard.cli", "submit", str(EXAMPLES / "digits-mlp.yaml"), *flags]
    try:
        with running(command, cwd=tmp_path, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            lines = []
            for line in child.stdout:
                lines.append(line)
                if '"step_metrics"' in line:
                    break
            os.kill(facts["pid"], signal.SIGKILL)
            call(tmp_path, *up, f"--grpc={facts['grpc']}")
            lines += child.stdout  # communicate() would lose what was read ahead with the line above
        assert child.returncode == 0
    finally:
        call(tmp_path, "down")
    assert not alive(facts["inference_pid"]), "the inference plane that the killed one left behind"
    events = [json.loads(line) for line in lines]
    assert len({event["cursor"] for event in events}) == len(events)
    steps = [event["step"] for event in events if event["kind"] == "step_metrics"]
    assert steps == [1, *range(20, 1501, 20)], "none lost, none repeated"


def alive(pid: int) -> bool:
    process = processes.find(pid)
    return process is not None and process.alive
