"""Job files: what is read, and what is refused in which words."""

from pathlib import Path
from typing import Any

import pytest

from batchyard.client import JobFileError, read_job
from batchyard.client.plain import plain

FULL = """
name: mnist-mlp
model: {architecture: mlp, hidden: [100, 100, 100], activation: sigmoid, norm: batch}
data: {dataset: mnist, batch_size: 60}
optimizer: {name: sgd, learning_rate: 0.1}
steps: 50000
workers: {count: 2, gpus_per_worker: 0, sync_batch_norm: none}
evaluate: {every_steps: 500}
metrics: {activation_statistics: true}
publish: {model: mnist, statistics: alg2, alias: production}
seed: 1
"""


def problems(text: str) -> list[str]:
    with pytest.raises(JobFileError) as caught:
        read_job(text + "\n")
    return [str(violation) for violation in caught.value.violations] or [str(caught.value)]


def test_text_a_file_and_a_mapping_give_the_same_spec(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "job.yaml").write_text(FULL)
    spec = read_job(FULL)
    assert (
        spec
        == read_job(tmp_path / "job.yaml")
        == read_job(str(tmp_path / "job.yaml"))
        == read_job(yaml.safe_load(FULL))
    )
    assert spec.workers.count == 2
    assert spec.workers.sync_batch_norm == "none"
    assert list(spec.model.hidden) == [100, 100, 100]


def test_what_a_job_shows_can_be_submitted_again() -> None:
    spec = read_job(FULL)
    assert read_job(plain(spec)) == spec


def test_json_is_read_too() -> None:
    assert read_job('{"name": "a", "steps": 5}').steps == 5


def test_an_integer_is_a_number_and_1e_3_is_not_text() -> None:
    assert read_job("optimizer: {learning_rate: 1}\n").optimizer.learning_rate == 1.0
    assert read_job("optimizer: {learning_rate: 1e-3}\n").optimizer.learning_rate == 0.001


def test_what_is_null_or_absent_stays_unset() -> None:
    spec = read_job("name: a\npublish:\nseed: null\n")
    assert not spec.HasField("publish")
    assert not spec.HasField("seed")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modle: {}", "modle: unknown key; did you mean 'model'?"),
        ("model: {hiden: [1]}", "model.hiden: unknown key; did you mean 'hidden'?"),
        ("model: {activaton: relu}", "model.activaton: unknown key; did you mean 'activation'?"),
        ("batch_size: 60", "batch_size: unknown key here; did you mean 'data.batch_size'?"),
        (
            "optimizer: {lr: 1}",
            "optimizer.lr: unknown key; the keys here are name, learning_rate, momentum, weight_decay, nesterov, "
            "betas, eps, trust_coefficient",
        ),
        ("data: {batchSize: 60}", "data.batchSize: unknown key; did you mean 'batch_size'?"),
        ("steps: many", "steps: 'many' given; expected a whole number below 2^63"),
        ("steps: 1.5", "steps: 1.5 given; expected a whole number below 2^63"),
        ("steps: true", "steps: True given; expected a whole number below 2^63"),
        ("steps: '10'", "steps: '10' given; expected a whole number below 2^63"),
        ("steps: 9223372036854775808", "steps: 9223372036854775808 given; expected a whole number below 2^63"),
        ("data: {batch_size: 2147483648}", "data.batch_size: 2147483648 given; expected a whole number below 2^31"),
        ("name: 5", "name: 5 given; expected text"),
        ("model: mlp", "model: 'mlp' given; expected a mapping of keys to values"),
        ("model: {hidden: 100}", "model.hidden: 100 given; expected a list, each entry a whole number below 2^31"),
        ("model: {hidden: [100, ten]}", "model.hidden[1]: 'ten' given; expected a whole number below 2^31"),
        ("optimizer: {learning_rate: fast}", "optimizer.learning_rate: 'fast' given; expected a number"),
        ("metrics: {activation_statistics: 1}", "metrics.activation_statistics: 1 given; expected true or false"),
        ("- name", "['name'] given; expected a mapping of keys to values"),
        ("1: 2", "1: unknown key; the keys here are name, model, data, optimizer, steps, workers, evaluate, metrics, "
                 "publish, seed, epochs, schedule, loss, label_smoothing, precision, channels_last, compile, "
                 "accumulate, clip_norm, ema_decay, stop_at, checkpoint, retries, priority, deterministic, "
                 "preemptible"),
        ("optimizer: {betas: [0.9, high]}", "optimizer.betas[1]: 'high' given; expected a number"),
        ("data: {augment: {flp: true}}", "data.augment.flp: unknown key; did you mean 'flip'?"),
        ("batch_sizes: 1", "batch_sizes: unknown key here; did you mean 'data.batch_size'?"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_type_is_named_with_what_was_expected(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_every_problem_is_told_at_once() -> None:
    assert len(problems("modle: {}\nsteps: many\nmodel: {hiden: []}")) == 3


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: [", "not YAML"),
        ("steps: 1\nsteps: 2", "job, line 2, column 1: not YAML: key 'steps' is given twice"),
        ("name: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("[" * 5000, "nested too deeply"),
        ("a\x00b: 1", "not YAML"),
        ("name: 2026-13-45", "job: not YAML: month must be in 1..12"),
        ("steps: " + "9" * 5000, "not YAML: Exceeds the limit"),
        ("", "job: nothing in it; expected keys and their values"),
        ("# later", "job: nothing in it"),
        ("? [a, b]\n: 1", "job, line 1, column 3: not YAML: a key is text, not a list or a mapping"),
    ],
    ids=[
        "unfinished",
        "twice",
        "tag",
        "deep",
        "control-character",
        "month-13",
        "5000-digits",
        "empty",
        "comment",
        "list-as-key",
    ],
)
def test_what_is_not_yaml_is_refused_with_its_place(text: str, part: str) -> None:
    with pytest.raises(JobFileError) as caught:
        read_job(text + "\n")
    assert part in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=r"nothing.yaml: No such file"):
        read_job(tmp_path / "nothing.yaml")
    with pytest.raises(JobFileError, match="Is a directory"):
        read_job(tmp_path)
    (tmp_path / "binary").write_bytes(b"\x80\x81")
    with pytest.raises(JobFileError, match="not a text file"):
        read_job(tmp_path / "binary")


@pytest.mark.parametrize(
    ("path", "value", "read"),
    [
        ("steps", "7", lambda spec: spec.steps == 7),
        ("model.hidden", "[5, 6]", lambda spec: list(spec.model.hidden) == [5, 6]),
        ("optimizer.momentum", "0.9", lambda spec: spec.optimizer.momentum == 0.9 and spec.optimizer.name == "sgd"),
        ("publish", "null", lambda spec: not spec.HasField("publish")),
    ],
)
def test_an_override_replaces_one_value(path: str, value: str, read: Any) -> None:
    assert read(read_job(FULL, [(path, value)]))


def test_an_override_is_checked_like_the_file() -> None:
    with pytest.raises(JobFileError, match=r"optimizer\.lernrate: unknown key"):
        read_job(FULL, [("optimizer.lernrate", "1")])


def test_an_override_leaves_the_given_mapping_as_it_was() -> None:
    mapping: dict[str, Any] = {"model": {"architecture": "mlp"}}
    read_job(mapping, [("model.norm", "none")])
    assert mapping == {"model": {"architecture": "mlp"}}
