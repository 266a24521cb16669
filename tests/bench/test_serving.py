"""The serving bench's own part, at its smallest: our plane answers, and answers are counted."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from batchyard.artifact.manifest import MANIFEST, ONNX_MODEL
from batchyard.artifact.reader import sha256_of
from bench import contest, h2load, inference_plane, report, serving, serving_peers
from bench.contest import Cell, Contest
from bench.h2load import Outcome, Shape
from bench.oip_target import Target
from bench.small_artifact import SmallNetwork, publish

SMALL = Cell(shape=Shape(connections=2, streams=4))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "artifact"
    publish(folder, serving.MLP)
    return folder


@pytest.fixture(scope="module")
def measuring(artifact: Path) -> Contest:
    return Contest(artifact / ONNX_MODEL, serving.MLP.pixels(32))


@pytest.fixture(scope="module")
def ours(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    target = Target(name="ours", model="mnist", tensor="pixels", pixels=np.uint8)
    folder = tmp_path_factory.mktemp("plane")
    with inference_plane.running(folder) as plane:
        plane.control.want(target.model, 1, artifact, sha256_of(artifact / MANIFEST))
        started = dataclasses.replace(target, address=plane.grpc)
        started.wait_until_ready(plane.process, folder / "log")
        yield started


def test_our_plane_answers_every_request_of_a_run(measuring: Contest, ours: Target) -> None:
    outcome = measuring.run(SMALL, ours, requests=64)
    assert (outcome.sent, outcome.answered, len(outcome.latencies)) == (64, 64, 64)
    assert outcome.rate > 0
    assert 0 < outcome.quantile(0.5) <= outcome.quantile(0.99) < outcome.seconds


def test_a_steady_rate_is_offered_whatever_comes_back(measuring: Contest, ours: Target) -> None:
    body, reply_bytes = ours.request(serving.MLP.pixels(1)), measuring.check(ours)
    outcome = h2load.run(ours.address, body, reply_bytes, SMALL.shape, requests=60, rate=200)
    assert outcome.answered == 60
    assert outcome.seconds > 60 / 200 / 2


def test_requests_that_fail_are_not_answers(ours: Target) -> None:
    nobody = Target(name="nobody", address=ours.address, model="no-such-model", tensor="pixels")
    outcome = h2load.run(ours.address, nobody.request(serving.MLP.pixels(1)), 100, SMALL.shape, requests=20)
    assert (outcome.sent, outcome.answered) == (20, 0)


def test_replies_of_another_size_are_an_error(measuring: Contest, ours: Target) -> None:
    body, reply_bytes = ours.request(serving.MLP.pixels(1)), measuring.check(ours)
    with pytest.raises(RuntimeError, match=f"no multiple of {reply_bytes + 6}"):
        h2load.run(ours.address, body, reply_bytes + 1, SMALL.shape, requests=20)


def test_a_wrong_answer_is_an_error(ours: Target, tmp_path: Path) -> None:
    publish(tmp_path / "other", SmallNetwork(seed=1, row_shape=(784,)))
    with pytest.raises(AssertionError, match="ours"):
        Contest(tmp_path / "other" / ONNX_MODEL, serving.MLP.pixels(4)).check(ours)


def test_a_comparison_has_rate_median_and_p99_and_only_the_bars_asked_for() -> None:
    def outcome(rate: float) -> Outcome:
        begins, latencies = np.arange(100) / rate, np.full(100, 1 / rate)
        return Outcome(sent=100, answered=100, seconds=100 / rate, begins=begins, latencies=latencies)

    outcomes = {"ours": [outcome(2000.0)] * 5, "Triton": [outcome(500.0)] * 5}
    rate, p50, p99 = contest.rows("MLP", outcomes, "ours", {"Triton rate": 2.0, "Triton p99": 1.0})
    assert (rate.ratio, rate.holds, rate.unit) == (4.0, True, "requests/s")
    assert (p50.bar, p99.holds, p99.unit) == (None, True, "ms")
    assert p99.ours == pytest.approx(0.5)
    assert p99.peer_value == pytest.approx(2.0)


def test_a_peer_that_cannot_run_is_left_out_and_said_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving_peers, "TRITON_START", tmp_path / "nowhere" / "start.sh")
    bench = serving.Bench(rounds=5, folder=tmp_path)
    with pytest.raises(serving_peers.MissingPeerError), serving_peers.triton(tmp_path, tmp_path, 784, 10):
        pass
    with ExitStack() as running:
        triton = serving_peers.triton(tmp_path, tmp_path, 784, 10)
        assert bench.start(running, "Triton", triton) == []
    report.publish("serving", [], (), tmp_path / "result.json", left_out=bench.left_out)
    assert "not measured: Triton: no start script" in capsys.readouterr().out


def test_a_process_that_does_not_start_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("no such option")
    with subprocess.Popen(["false"]) as process:
        process.wait()
        target = Target(name="peer", address="127.0.0.1:1", model="m", tensor="x")
        with pytest.raises(RuntimeError, match=r"peer to serve 'm': it ended with 1.*\n.*no such option"):
            target.wait_until_ready(process, log)
