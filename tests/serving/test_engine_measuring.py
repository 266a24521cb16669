"""Every installed engine is tried on a version in a process of its own; the table of what they took is kept."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchyard.artifact.manifest import ONNX_MODEL, Manifest
from batchyard.artifact.reader import read_samples, verify
from batchyard.serving.engines import measuring
from batchyard.serving.engines.catalogue import CATALOGUE, ENGINE_NAMES, Entry, open_engine
from batchyard.serving.engines.certificate import check_against_certificate
from batchyard.serving.engines.choice import batch_sizes
from batchyard.serving.engines.interface import Network
from batchyard.serving.engines.timings import FILES
from batchyard.serving.loading import Loaded, Loader, LoadError, Wanted, folder_of
from batchyard.serving.settings import Control, Settings, SettingsError
from bench.small_artifact import SmallNetwork, publish
from tests.serving.convolutions import SmallConvolutions
from tests.serving.harness import assert_is_answer, until

MAX_BATCH = 16
BOTH = ("onnxruntime", "openvino")


class Shelf:
    """Versions on disk, and loading them as an inference plane does."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.uri = folder / "artifact"
        self.wanted: Wanted

    def publish(self, network: SmallNetwork, bound: float = 1e-3, number: int = 1) -> None:
        uri = f"{self.uri}-{number}"
        sha256 = publish(Path(uri), network, bound=bound)
        self.wanted = Wanted(model="mnist", version=number, artifact_uri=uri, manifest_sha256=sha256)

    async def load(self, *engines: str) -> Loaded:
        """What serves at first."""
        loader = Loader(self.cache, engines)
        try:
            return await loader.load(self.wanted, MAX_BATCH)
        finally:
            loader.close()

    async def measure(self, *engines: str) -> Loaded:
        """What serves once all engines were tried."""
        loader = Loader(self.cache, engines)
        try:
            loaded = await loader.load(self.wanted, MAX_BATCH)
            return await loader.improve(self.wanted, loaded, MAX_BATCH) if loaded.timings.measuring else loaded
        finally:
            loader.close()

    @property
    def table(self) -> Path:
        return folder_of(self.wanted, self.cache) / FILES["fp32"]

    @property
    def tables(self) -> list[Path]:
        """All that were kept."""
        return [path for path in (self.table, *self.cache.glob("engines/*.json")) if path.exists()]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.mark.parametrize("network", [SmallNetwork(seed=1), SmallConvolutions(seed=1)], ids=["mlp", "convolutions"])
async def test_every_engine_is_checked_and_timed_and_one_that_passed_serves(
    shelf: Shelf, network: SmallNetwork
) -> None:
    shelf.publish(network)
    loaded = await shelf.measure(*ENGINE_NAMES)
    trials = loaded.timings.trials
    assert {(trial.engine, trial.threads) for trial in trials} == {
        (engine, threads) for engine in ENGINE_NAMES for threads in {1, len(os.sched_getaffinity(0))}
    }
    for trial in trials:
        assert trial.passed, trial.reason
        assert trial.error is not None
        assert 0 < trial.error < 1e-3
        timed = list(trial.seconds)
        assert timed[0] == 1
        assert timed == batch_sizes(MAX_BATCH)
        assert all(seconds > 0 for seconds in trial.seconds.values())
    assert loaded.engine.name in ENGINE_NAMES
    pixels = network.pixels(5).astype(np.float32)
    assert_is_answer(loaded.engine.run(pixels), network, pixels)


async def test_an_engine_that_is_off_by_more_than_the_bound_is_refused_and_the_next_serves(shelf: Shelf) -> None:
    network, bound = network_that_onnxruntime_computes_worse(shelf.uri.parent / "candidates")
    shelf.publish(network, bound=bound)
    loaded = await shelf.load(*BOTH)
    assert loaded.engine.name == "openvino"
    loaded = await shelf.measure(*BOTH)
    assert loaded.engine.name == "openvino"
    refused = [trial for trial in loaded.timings.trials if not trial.passed]
    assert {trial.engine for trial in refused} == {"onnxruntime"}
    assert all("off the certificate's samples; its bound is" in trial.reason for trial in refused)
    assert shelf.tables == [shelf.table], "with other weights the engine may pass"


def network_that_onnxruntime_computes_worse(folder: Path) -> tuple[SmallNetwork, float]:
    """Engines round differently: a network, and a bound between OpenVINO's error and ONNX Runtime's smaller ones."""
    for seed in range(100):
        network = SmallNetwork(seed=seed)
        sha256 = publish(folder / str(seed), network)
        manifest = verify(folder / str(seed), sha256)
        errors = {engine: errors_of(engine, manifest, folder / str(seed)) for engine in BOTH}
        worst_passes, best_fails = max(errors["openvino"]), min(errors["onnxruntime"])
        if best_fails > 1.2 * worst_passes:
            return network, (worst_passes + best_fails) / 2
    pytest.fail("in a hundred networks ONNX Runtime was never the less exact one")


def errors_of(engine: str, manifest: Manifest, folder: Path) -> list[float]:
    network, samples = Network.of(manifest, folder), read_samples(folder)
    numbers = {1, len(os.sched_getaffinity(0))}
    opened = [open_engine(engine, network, threads) for threads in numbers]
    return [check_against_certificate(one, samples, 1e-3, MAX_BATCH) for one in opened]


@pytest.mark.parametrize("engines", [(), ("onnxruntime", "tensorflow"), ("",)], ids=str)
def test_engines_that_nobody_knows_are_refused_with_those_that_exist(engines: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--engines .*: expected some of onnxruntime, openvino, torch"):
        Settings(control=Control(address="127.0.0.1:1"), cache=tmp_path, engines=engines)


async def test_when_no_engine_is_right_the_version_is_refused_with_every_reason(shelf: Shelf) -> None:
    shelf.publish(SmallNetwork(seed=1), bound=1e-9)
    with pytest.raises(LoadError) as refused:
        await shelf.load(*BOTH)
    message = str(refused.value)
    assert "no engine may serve 'mnist' version 1" in message
    assert all(f"{engine}: {engine} is " in message for engine in BOTH)
    assert not shelf.tables


async def test_an_engine_that_is_not_installed_is_in_the_table(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "openvino", Entry(module="openvino_engine", libraries=("a_library_nobody_has",)))
    shelf.publish(SmallNetwork(seed=1))
    loaded = await shelf.measure(*BOTH)
    assert loaded.engine.name == "onnxruntime"
    missing = next(trial for trial in loaded.timings.trials if trial.engine == "openvino")
    assert (missing.passed, missing.reason) == (False, "not installed: a_library_nobody_has")


async def test_an_engine_whose_process_dies_is_refused_with_its_last_words(tmp_path: Path) -> None:
    table = await measuring.measured(tmp_path, ("onnxruntime",), MAX_BATCH)
    (trial,) = table.trials
    assert not trial.passed
    assert trial.reason.startswith("its process ended with status 1: FileNotFoundError: ")
    assert table.chosen == ()


async def test_the_first_engine_that_holds_the_certificate_serves_before_any_is_timed(shelf: Shelf) -> None:
    network = SmallNetwork(seed=1)
    shelf.publish(network)
    loaded = await shelf.load(*BOTH)
    assert (loaded.engine.name, loaded.timings.trials, loaded.timings.measuring) == ("onnxruntime", (), True)
    assert_is_answer(loaded.engine.run(network.pixels(3).astype(np.float32)), network, network.pixels(3))


async def test_the_same_graph_with_other_weights_is_not_timed_again(shelf: Shelf) -> None:
    shelf.publish(SmallNetwork(seed=1))
    first = await shelf.measure("onnxruntime")
    shelf.publish(SmallNetwork(seed=2), number=2)
    assert not shelf.table.exists()
    second = await shelf.load("onnxruntime")
    assert second.timings == first.timings
    assert second.timings.measured_on == "'mnist' version 1"


async def test_another_graph_is_timed_for_itself(shelf: Shelf) -> None:
    shelf.publish(SmallNetwork(seed=1))
    await shelf.measure("onnxruntime")
    shelf.publish(SmallNetwork(seed=1, hidden=(100, 100)), number=2)
    assert (await shelf.load("onnxruntime")).timings.measuring


async def test_the_table_outlives_the_process(shelf: Shelf) -> None:
    shelf.publish(SmallNetwork(seed=1))
    first = await shelf.measure("onnxruntime")
    second = await shelf.load("onnxruntime")
    assert first.timings == second.timings  # to the last digit: nothing was timed twice
    assert json.loads(shelf.table.read_text())["trials"][0]["seconds"]["1"] == first.timings.trials[0].seconds[1]


@pytest.mark.parametrize(
    "change",
    [{"processor": "another"}, {"cores": 1024}, {"libraries": {"onnxruntime": "0.1"}}, {"max_batch": 2}],
    ids=str,
)
async def test_a_table_of_another_machine_or_library_is_made_anew(shelf: Shelf, change: dict[str, Any]) -> None:
    shelf.publish(SmallNetwork(seed=1))
    await shelf.measure("onnxruntime")
    for path in shelf.tables:
        table = json.loads(path.read_text())
        table["conditions"].update(change)
        table["trials"][0]["seconds"] = {"1": 1e-9}
        path.write_text(json.dumps(table))
    again = await shelf.measure("onnxruntime")
    assert min(again.timings.trials[0].seconds.values()) > 1e-9


async def test_a_damaged_table_is_made_anew(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    shelf.publish(SmallNetwork(seed=1))
    await shelf.measure("onnxruntime")
    for path in shelf.tables:
        path.write_text("{")
    loaded = await shelf.load("onnxruntime")
    assert loaded.timings.measuring
    assert "the engines are timed again" in caplog.text


async def test_a_chosen_engine_that_fails_in_the_server_leaves_its_place_to_the_next(shelf: Shelf) -> None:
    """The table says what was; the certificate is checked again on the engine that will serve."""
    shelf.publish(SmallNetwork(seed=1))
    await shelf.measure(*BOTH)
    table = json.loads(shelf.table.read_text())
    spoilt = next(trial for trial in table["trials"] if trial["engine"] == "openvino")
    spoilt["threads"] = -5
    table["chosen"] = [{"up_to": MAX_BATCH, "engine": "openvino", "threads": -5}]
    shelf.table.write_text(json.dumps(table))
    loaded = await shelf.load(*BOTH)
    assert loaded.engine.name == "onnxruntime"
    (failed,) = (trial for trial in loaded.timings.trials if trial.threads == -5)
    assert not failed.passed
    assert "while the server opened it: OpenVINO cannot load model.onnx" in failed.reason


async def test_a_load_that_is_given_up_leaves_no_process_behind(tmp_path: Path) -> None:
    sha256 = publish(tmp_path / "artifact", SmallNetwork(seed=1))
    verify(tmp_path / "artifact", sha256)
    assert (tmp_path / "artifact" / ONNX_MODEL).exists()
    task = asyncio.ensure_future(measuring.measured(tmp_path / "artifact", ("torch",), MAX_BATCH))
    await until(trial_processes, "the trial runs")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert not trial_processes()


def trial_processes() -> list[int]:
    """Children of ours that try an engine."""
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
    return [int(pid) for pid in children if b"engines.trial" in Path(f"/proc/{pid}/cmdline").read_bytes()]
