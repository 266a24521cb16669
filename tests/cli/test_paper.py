"""`batchyard paper`: what the analyses make of histories whose outcome is known, and one experiment end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batchyard.cli.failures import Failure
from batchyard.cli.paper import ensemble, figure1, naive, plots, report, saturating, speedup, whitening
from batchyard.cli.paper.command import EXPERIMENTS
from batchyard.cli.paper.experiment import Experiment, Finding, Table
from batchyard.cli.paper.history import History, LayerPoint
from batchyard.client import Evaluation, Event, LayerStatistics, StepMetrics
from batchyard.client.events import Detail
from batchyard.client.job_file import read_job
from batchyard.client.testing import FakeService
from batchyard.training.spec import TrainingJobSpec
from batchyard.v1.training_pb2 import Resumed


def events(details: Iterable[Detail]) -> list[Event]:
    return [Event(cursor=str(i), time=datetime.now(UTC), attempt=1, detail=detail) for i, detail in enumerate(details)]


def accuracies(*values: float, every: int = 10) -> History:
    return History(accuracy=[((i + 1) * every, value) for i, value in enumerate(values)])


def layer(name: str, *p50: float) -> dict[str, list[LayerPoint]]:
    """A layer whose percentiles are p50 -/+ 1."""
    points = [LayerPoint(step=i, p15=m - 1, p50=m, p85=m + 1, saturated=0.0) for i, m in enumerate(p50, start=1)]
    return {name: points}


def outcomes(findings: Iterable[Finding]) -> list[bool]:
    return [finding.came_out for finding in findings]


def load(name: str) -> Experiment:
    modules = (figure1, speedup, saturating, naive, whitening, ensemble)
    experiments: list[Experiment] = [module.EXPERIMENT for module in modules]
    return {experiment.name: experiment for experiment in experiments}[name]


class TestHistory:
    def test_events_become_series(self) -> None:
        point = LayerStatistics.Layer(name="norm1", p15=-1, p50=0, p85=1, saturated=0.25)
        told: list[Detail] = [
            StepMetrics(step=1, loss=2.5, step_seconds=0.5),
            LayerStatistics(step=1, layers=[point]),
            Evaluation(step=2, accuracy=0.5),
        ]
        history = History.of("job", events(told))
        assert (history.loss, history.accuracy) == ([(1, 2.5)], [(2, 0.5)])
        assert history.layers["norm1"] == [LayerPoint(step=1, p15=-1, p50=0, p85=1, saturated=0.25)]

    def test_what_a_new_attempt_tells_again_counts_once(self) -> None:
        told: list[Detail] = [StepMetrics(step=step, loss=step) for step in (1, 2, 3)]
        again: list[Detail] = [Resumed(step=2), StepMetrics(step=3, loss=9)]
        assert History.of("job", events([*told, *again])).loss == [(1, 1), (2, 2), (3, 9)]

    def test_steps_to_an_accuracy_are_those_of_the_first_measurement_that_has_it(self) -> None:
        history = accuracies(0.3, 0.6, 0.5, 0.7)
        assert [history.steps_to(wanted) for wanted in (0.3, 0.55, 0.7, 0.8)] == [10, 20, 40, None]

    def test_a_steps_time_leaves_out_the_first_which_pays_for_everything_that_happens_once(self) -> None:
        history = History(step_seconds=[(1, 9.0), (10, 0.002), (20, 0.004), (30, 0.003)])
        assert history.step_milliseconds == pytest.approx(3)


class TestFigure1:
    def test_claims_come_out_when_bn_is_faster_better_and_calmer(self) -> None:
        bn, plain = accuracies(0.9, 0.95, 0.97), accuracies(0.1, 0.8, 0.94)
        bn.layers, plain.layers = layer("norm3", 0, 0.1, 0), layer("sigmoid3", 0, 3, -1)
        assert outcomes(figure1.analyse({"bn": bn, "plain": plain}, {}).findings) == [True, True, True]

    def test_claims_do_not_come_out_when_they_are_not_so(self) -> None:
        bn, plain = accuracies(0.1, 0.8, 0.93), accuracies(0.9, 0.95, 0.97)
        bn.layers, plain.layers = layer("norm3", 0, 3, -1), layer("sigmoid3", 0, 0.1, 0)
        assert outcomes(figure1.analyse({"bn": bn, "plain": plain}, {}).findings) == [False, False, False]

    def test_drift_is_measured_in_widths_of_the_band(self) -> None:
        (points,) = layer("norm1", 0, 1, 3).values()
        assert figure1.drift(points) == pytest.approx(3 / 2)

    def test_drift_leaves_out_the_beginning(self) -> None:
        (points,) = layer("norm1", 50, *[0.0] * 19).values()
        assert figure1.drift(points) == 0


class TestSpeedup:
    def histories(self) -> dict[str, History]:
        """As in the paper: plain x1 takes 10 points to 0.7; BN 5, then 1."""
        plain = accuracies(*[0.1 + 0.06 * i for i in range(11)])
        diverged = accuracies(0.1, 0.1)
        diverged.diverged = "the loss is nan by step 20, at learning rate 0.045"
        return {
            "plain-x1": plain,
            "plain-x5": diverged,
            "plain-x30": diverged,
            "bn-x1": accuracies(0.2, 0.4, 0.5, 0.6, 0.71, 0.72),
            "bn-x5": accuracies(0.6, 0.71, 0.74),
            "bn-x30": accuracies(0.5, 0.6, 0.75),
        }

    def test_the_papers_ordering_is_recognised(self) -> None:
        analysis = speedup.analyse(self.histories(), {})
        assert all(outcomes(analysis.findings))
        assert analysis.numbers["steps_to_target"]["bn-x5"] == 20
        assert analysis.findings[1].ours == "5.5 times fewer (20 of 110)"

    def test_a_network_that_never_gets_there_is_no_success(self) -> None:
        histories = {**self.histories(), "bn-x30": accuracies(0.2, 0.3, 0.4)}
        analysis = speedup.analyse(histories, {})
        assert outcomes(analysis.findings) == [True, True, False, False, True, True, True]
        assert analysis.findings[2].ours == "never reached it"

    def test_a_plain_network_that_trains_well_at_a_high_rate_contradicts_the_paper(self) -> None:
        histories = {**self.histories(), "plain-x5": accuracies(0.5, 0.71)}
        assert outcomes(speedup.analyse(histories, {}).findings)[4] is False


class TestSaturating:
    def best(self, **changes: float) -> dict[str, History]:
        values = {
            "bn_4": 0.95,
            "bn_8": 0.94,
            "bn_12": 0.9,
            "plain_4": 0.9,
            "plain_8": 0.11,
            "plain_12": 0.11,
            **changes,
        }
        histories = {key.replace("_", "-"): accuracies(0.1, value) for key, value in values.items()}
        for history in histories.values():
            history.loss, history.layers = [(10, 2.0)], layer("norm1", 0)
        return histories

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [({}, [True, True]), ({"bn_12": 0.5}, [False, True]), ({"plain_8": 0.5}, [True, False])],
        ids=["as-in-the-paper", "bn-fails", "plain-learns"],
    )
    def test_both_claims_are_held_to_numbers(self, changes: dict[str, float], expected: list[bool]) -> None:
        assert outcomes(saturating.analyse(self.best(**changes), {}).findings) == expected


class TestNaive:
    def history(self, norms: list[float], losses: list[float], *accuracy: float, width: float = 1) -> History:
        """Its layers' inputs end `width` times as wide as they began."""
        points = [
            LayerPoint(step=i, p15=-1, p50=0, p85=1 if i == 0 else 2 * width - 1, saturated=0, bias_norm=norm)
            for i, norm in enumerate(norms)
        ]
        history = accuracies(*accuracy)
        history.layers = {"norm1": points, "norm2": points}
        history.loss = list(enumerate(losses))
        return history

    def histories(self, norms: list[float], losses: list[float]) -> dict[str, History]:
        """BN learns at every rate, standardising after the sigmoid at low ones only."""
        histories = {run.key: self.history([0, 1, 1], [2, 1], 0.5, 0.92, 0.95) for run in naive.EXPERIMENT.runs(True)}
        histories["naive-x10"] = self.history(norms, losses, 0.1)
        post = {"x1": self.history([0, 1, 1], [2, 1], 0.5, 0.8, 0.9, 0.93, width=3), "x10": accuracies(0.5)}
        for rate, history in {**post, "x30": accuracies(0.1)}.items():
            history.loss = [(1, 1.0)]
            histories[f"post-{rate}"] = history
        return histories

    def test_a_bias_that_goes_on_growing_while_the_loss_stands_still_is_recognised(self) -> None:
        histories = self.histories([0, 1, 2, 3, 4], [5, 5, 5, 5])
        assert outcomes(naive.analyse(histories, {}).findings) == [True, True, True, True, True]

    def test_a_bias_that_settles_and_a_loss_that_falls_are_recognised(self) -> None:
        histories = self.histories([0, 2, 3, 3.1, 3.1], [2, 1, 0.5, 0.2])
        assert outcomes(naive.analyse(histories, {}).findings) == [False, False, True, True, True]

    def test_growth_is_a_power_of_the_number_of_steps(self) -> None:
        assert naive.power([(step, 3 * step**0.5) for step in range(1, 9)]) == pytest.approx(0.5)

    def test_a_model_that_blows_up_counts(self) -> None:
        histories = self.histories([0, 1, 2], [2, 1, 0.5, 0.2])
        histories["naive-x10"].diverged = "the loss is nan by step 20"
        assert outcomes(naive.analyse(histories, {}).findings)[1]

    def test_each_place_of_normalisation_is_taken_at_its_own_best_rate(self) -> None:
        histories = self.histories([0, 1, 2], [1, 1, 1, 1])
        histories["post-x10"] = self.history([0, 1, 1], [2, 1], 0.96)
        assert outcomes(naive.analyse(histories, {}).findings)[4] is False
        histories["bn-x30"] = self.history([0, 1, 1], [2, 1], 0.97)
        histories["post-x10"].accuracy.insert(0, (5, 0.2))
        assert outcomes(naive.analyse(histories, {}).findings)[4] is False, "as fast is not faster"

    def test_the_norm_is_that_of_all_biases_together(self) -> None:
        ((step, norm),) = naive.bias_norm(self.history([3], [1]))
        assert step == 0
        assert norm == pytest.approx(3 * 2**0.5)


class TestWhitening:
    def timed(self, milliseconds: float, *accuracy: float) -> History:
        history = accuracies(*accuracy)
        history.step_seconds = [(1, 1.0), (10, milliseconds / 1e3)]
        return history

    def test_time_counts_not_steps(self) -> None:
        histories = {
            "bn": self.timed(1, 0.5, 0.8, 0.9),
            "zca": self.timed(10, 0.9, 0.95),
            "iternorm": self.timed(2, 0.5, 0.9),
            "plain": self.timed(0.5, 0.2, 0.3),
        }
        analysis = whitening.analyse(histories, {})
        assert outcomes(analysis.findings) == [True, True]
        assert analysis.numbers["steps_to_target"] == {"bn": 30, "zca": 10, "iternorm": 20, "plain": None}
        histories["iternorm"] = self.timed(1.2, 0.9)
        assert outcomes(whitening.analyse(histories, {}).findings) == [True, False]


class TestEnsemble:
    @pytest.mark.parametrize(("whole", "came_out"), [(0.72, True), (0.69, False)])
    def test_the_mean_is_held_against_the_best_member(self, whole: float, came_out: bool) -> None:
        histories = {run.key: accuracies(0.7) for run in ensemble.runs(True)}
        measured = {"images": 1000, "members": [0.6, 0.65, 0.7, 0.66, 0.64, 0.63], "ensemble": whole}
        assert outcomes(ensemble.analyse(histories, measured).findings) == [came_out]

    def test_a_file_without_labels_is_refused_with_what_makes_one(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "test.npz", inputs=np.zeros((2, 3, 4, 4), np.uint8))
        with pytest.raises(Failure, match="expected an NPZ file with `inputs` and `labels`") as failure:
            ensemble.read_images(tmp_path / "test.npz")
        assert "np.savez" in failure.value.hint

    def test_labels_that_do_not_fit_are_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "test.npz", inputs=np.zeros((2, 3, 4, 4), np.uint8), labels=np.zeros(3, int))
        with pytest.raises(Failure, match=r"labels \[3\] of int64 given; expected"):
            ensemble.read_images(tmp_path / "test.npz")


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("quick", [True, False], ids=["quick", "full"])
def test_every_run_is_a_legal_job_with_a_legal_name(name: str, quick: bool) -> None:
    runs = load(name).runs(quick)
    assert len({run.key for run in runs}) == len(runs) > 1
    for run in runs:
        spec = {"name": f"paper-{name}-{run.key}", **run.spec}
        read_job(spec)
        TrainingJobSpec.from_mapping(spec)


def test_a_page_has_the_findings_the_plots_and_what_differs(tmp_path: Path) -> None:
    bn, plain = accuracies(0.9, 0.95, 0.97), accuracies(0.1, 0.8, 0.94)
    bn.layers, plain.layers = layer("norm3", 0, 0.1, 0), layer("sigmoid3", 0, 3, -1)
    histories = {"bn": bn, "plain": plain}
    experiment = figure1.EXPERIMENT
    page = report.write(experiment, experiment.runs(True), histories, {}, tmp_path / "new" / "folder", quick=True)
    text = page.read_text()
    assert "| 97.0% against 94.0% | yes |" in text
    assert all(sentence in text for sentence in figure1.DIFFERS)
    for figure in figure1.analyse(histories, {}).figures:
        assert f"({figure.name}.png)" in text
        with Image.open(page.parent / f"{figure.name}.png") as picture:
            assert picture.width > 500
    numbers = json.loads((page.parent / "numbers.json").read_text())
    assert numbers["runs"][0]["layers"]["norm3"]["p50"] == [0, 0.1, 0]


def test_a_table_is_markdown() -> None:
    assert report.table(Table(columns=("a", "b"), rows=[("1", "2")])) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_the_same_numbers_give_the_same_picture(tmp_path: Path) -> None:
    histories = TestSpeedup().histories()
    (figure,) = speedup.analyse(histories, {}).figures
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        plots.draw(figure, folder)
    assert (first / "accuracy.png").read_bytes() == (second / "accuracy.png").read_bytes()


def batchyard(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHYARD_")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-m", "batchyard.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


def test_without_matplotlib_the_command_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')")
    done = batchyard(tmp_path, "paper", "figure1", "--quick", path=tmp_path)
    assert done.returncode == 1
    assert "pip install 'batchyard[paper]'" in done.stderr


TINY = """
from batchyard.cli.main import main
from batchyard.cli.paper import figure1
figure1.QUICK = 100
figure1.SPEC = {**figure1.SPEC, "data": {"dataset": "digits", "batch_size": 60}}
main()
"""


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_trained(
    run: Any, service: FakeService, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = run("paper", "figure1", "--out", "file/report")
    assert result.exit_code == 2
    assert result.stderr.startswith("batchyard: file/report: ")
    assert not service.jobs


def test_an_experiment_runs_as_jobs_of_a_real_service(tmp_path: Path) -> None:
    free = [f"--{plane}=127.0.0.1:0" for plane in ("grpc", "http")]
    up = batchyard(tmp_path, "up", *free, "--executor", "local", "--workers", "2", "--inference-grpc=127.0.0.1:0",
                   "--inference-http=127.0.0.1:0")  # fmt: skip
    assert up.returncode == 0, up.stderr
    try:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHYARD_")}
        command = [sys.executable, "-c", TINY, "paper", "figure1", "--quick", "--out", "report"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "report/README.md"
        assert "[2/2] MNIST MLP without BN: succeeded, step 100/100" in done.stdout
        numbers = json.loads((tmp_path / "report" / "numbers.json").read_text())
        assert [run["accuracy"][-1][0] for run in numbers["runs"]] == [100, 100]
        jobs = batchyard(tmp_path, "jobs").stdout
        assert sorted(line.split("\t")[1] for line in jobs.splitlines()) == ["SUCCEEDED", "SUCCEEDED"]
    finally:
        assert batchyard(tmp_path, "down").returncode == 0
