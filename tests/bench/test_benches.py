"""Every bench can be imported and says how to use it; the networks and peers that they measure are what they claim."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from batchyard import data
from batchyard.nn import SyncBatchNorm
from batchyard.training import worker
from bench import (
    nn_cuda,
    nn_layers,
    nn_ranks,
    nn_statistics,
    report,
    training_cuda,
    training_engine,
    training_ranks,
    training_to94,
)
from bench.naive_sync import NaiveSyncBatchNorm
from bench.resnet import resnet50, trained_like

BENCHES = Path(__file__).parents[2] / "bench"
MODULES = sorted(path.stem for path in BENCHES.glob("*.py"))
COMMANDS = [name for name in MODULES if "def main(" in (BENCHES / f"{name}.py").read_text()]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", MODULES)
def test_a_bench_can_be_imported(name: str) -> None:
    assert importlib.import_module(f"bench.{name}").__doc__ or "Predicted" in (BENCHES / f"{name}.py").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bench_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"bench.{name}").main()
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nn", "training", "serving"])
def test_a_bench_begins_with_the_prediction_made_before_it_was_run(name: str) -> None:
    assert (BENCHES / f"{name}.py").read_text().startswith("# Predicted before the first measurement")


@pytest.fixture
def alone(tmp_path: Path) -> object:
    """A gloo group of one worker."""
    dist.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("shape", [(12, 5), (6, 5, 4, 3)])
def test_the_naive_peer_computes_batch_normalisation(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    naive, torchs = NaiveSyncBatchNorm(5).double(), nn_layers.Case(shape).batch_norm().double()
    dy = torch.randn_like(x)
    for layer in (naive, torchs):
        with torch.no_grad():
            for parameter, first in zip(layer.parameters(), (-1.0, 2.0), strict=True):
                parameter.copy_(torch.linspace(first, 1.5, 5))
    expected = torch.autograd.grad(torchs(x), (x, *torchs.parameters()), dy)
    actual = torch.autograd.grad(naive(x), (x, *naive.parameters()), dy)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close([*naive.buffers()][:2], [*torchs.buffers()][:2])
    torch.testing.assert_close(naive.eval()(x), torchs.eval()(x))


def test_a_network_like_a_trained_one_normalises_its_activations_in_evaluation_mode() -> None:
    network = trained_like(resnet50())
    assert sum(type(module) is nn.BatchNorm2d for module in network.modules()) == 53
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert not network.training
    with torch.no_grad():
        stem = network.get_submodule("norm1")(network.get_submodule("conv1")(images))
    torch.testing.assert_close(stem.std((0, 2, 3)), torch.ones(64), rtol=1e-2, atol=1e-2)


def test_a_case_keeps_its_memory_format_in_gradients() -> None:
    case = nn_layers.Case((2, 4, 3, 3), torch.channels_last)
    dx = nn_layers.forward_backward(SyncBatchNorm(4), case.input())()[0]
    assert dx.is_contiguous(memory_format=torch.channels_last)
    assert str(case) == "[2, 4, 3, 3] channels_last"


def test_layers_are_compared_with_nn_batch_norm_and_nn_batch_norm_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn_layers, "CASES", [nn_layers.Case((6, 4))])
    control, row = nn_layers.rows(rounds=5)
    assert "itself" in control.name
    assert control.bar is None
    assert (row.peer, row.bar, row.unit) == ("nn.BatchNorm", nn_layers.BAR, "us")
    assert row.ours > 0
    assert row.peer_value > 0


def test_statistics_are_measured_at_every_step_and_at_the_loops_cadence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn_statistics, "NETWORKS", dict(list(nn_statistics.NETWORKS.items())[:1]))
    always, sometimes = nn_statistics.rows(rounds=5)
    assert (always.bar, sometimes.bar) == (None, 1.02)
    assert sometimes.ours < always.ours


def test_without_a_cuda_device_there_are_no_cuda_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert nn_cuda.rows(rounds=5) == []
    assert "no CUDA device" in capsys.readouterr().out


def test_the_cuda_comparison_runs_eagerly_on_any_device() -> None:
    rows = nn_cuda.case_rows(nn_layers.Case((2, 4, 3, 3)), torch.bfloat16, 5, "cpu", modes=("eager",))
    assert [row.peer for row in rows] == ["nn.BatchNorm", "torch.nn.SyncBatchNorm"]
    assert all("bfloat16, eager" in row.name for row in rows)


def test_two_workers_measure_every_case() -> None:
    measured = nn_ranks.start_workers(2, "cpu", report.LEAST_ROUNDS)
    assert set(measured) == {*map(str, nn_ranks.CPU_CASES), nn_ranks.MLP_STEP, nn_ranks.INCEPTION_STEP}
    for rounds in measured.values():
        assert set(rounds) == {"ours", "peer"}
        assert all(len(each) >= report.LEAST_ROUNDS and min(each) > 0 for each in rounds.values())


def test_workers_that_fail_are_an_error_and_leave_nothing_running(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match=r"1 workers of bench.nn_ranks ended with \[1\]"):
        nn_ranks.start_workers(1, "cpu", rounds=1)  # too few for a median
    assert "rounds given; a median needs" in capfd.readouterr().err


def test_training_is_compared_with_bare_loops() -> None:
    rows = training_engine.rows(dataclasses.replace(training_engine.MLP, steps=3, samples=180), rounds=5)
    assert [(row.peer, row.bar, row.unit) for row in rows] == [
        ("bare loop, SGD", 0.97, "samples/s"),
        ("bare loop, fused SGD", 0.97, "samples/s"),
    ]


@pytest.mark.parametrize("case", [training_engine.MLP, training_engine.RESNET18], ids=["mlp", "resnet18"])
def test_the_network_by_hand_is_the_engines(case: training_engine.Case) -> None:
    data = dataclasses.replace(case, samples=case.batch).data()
    by_hand, ours = case.by_hand(), worker.build_model(case.spec(), data)
    assert sum(p.numel() for p in by_hand.parameters()) == sum(p.numel() for p in ours.parameters())
    kinds = [sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules()) for net in (by_hand, ours)]
    assert kinds[0] == kinds[1] > 0


def test_two_workers_train_by_turns_with_the_engine_and_by_hand() -> None:
    measured = training_ranks.start_workers(report.LEAST_ROUNDS, steps=[2])
    assert list(measured) == [training_ranks.CASES[0].name]
    (rounds,) = measured.values()
    assert set(rounds) == {"engine", training_ranks.PEER}
    assert all(len(each) == report.LEAST_ROUNDS and min(each) > 0 for each in rounds.values())


def test_without_a_cuda_device_training_has_no_cuda_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training_cuda.rows(rounds=5) == []
    assert training_to94.rows([]) == []


DIGITS = {
    "model": {"architecture": "lenet", "activation": "relu"},
    "data": {"dataset": "digits", "batch_size": 60},
    "optimizer": {"learning_rate": 0.1},
    "epochs": 2,
    "precision": "fp32",
    "compile": False,
    "evaluate": {"every_steps": 10},
}


@pytest.mark.parametrize(("target", "reached"), [(0.3, True), (1.0, False)], ids=["reached", "never-reached"])
def test_the_time_to_a_target_is_measured_where_it_is_reached(target: float, reached: bool) -> None:
    seconds = training_to94.seconds_to(target, data.load("digits", []), "cpu", **DIGITS)
    assert (seconds is not None) == reached
    assert not reached or 0 < (seconds or 0) < 60
