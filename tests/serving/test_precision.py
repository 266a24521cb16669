"""bf16 serves only models whose owner asks for it, within a bound of its own."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchyard.artifact.reader import read_samples, verify
from batchyard.oip import messages
from batchyard.serving.batching import ModelSettings
from batchyard.serving.engines.catalogue import CATALOGUE, allowed, open_engine
from batchyard.serving.engines.certificate import check_against_certificate
from batchyard.serving.engines.interface import EngineError, Network
from batchyard.serving.engines.openvino_engine import openvino
from batchyard.serving.engines.precision import BF16_ERROR, Precision
from batchyard.serving.loading import Wanted
from batchyard.serving.naming import WantedModel
from batchyard.serving.settings import Limits
from batchyard.serving.state import State, StateFile, from_control
from batchyard.v1 import models_pb2, serving_pb2
from bench.small_artifact import BOUND, SmallNetwork, publish
from tests.serving.convolutions import SmallConvolutions
from tests.serving.harness import Serving, request_for, until
from tests.serving.test_engines import NETWORKS, network_in

BF16 = "openvino-bf16"
HERE = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HERE, reason="this CPU has no instructions for bf16")


def wish(serving: Serving, version: models_pb2.ModelVersion, precision: Any) -> None:
    settings = serving_pb2.ServingSettings(precision=precision)
    model = models_pb2.Model(name="models/mnist", latest_version=1, serving_settings=settings)
    serving.control.tell(models_pb2.ServedModel(model=model, versions=[version]))


async def config_of(serving: Serving) -> dict[str, str]:
    response = await serving.stub.ModelConfig(messages.ModelConfigRequest(name="mnist"))
    return {name: parameter.string_value for name, parameter in response.config.parameters.items()}


def network_that_keeps_its_classes(folder: Path) -> SmallNetwork:
    """Random logits may lie close together: one where bf16 moves none of the samples."""
    for seed in itertools.count():
        network = SmallConvolutions(seed=seed)
        manifest = verify(folder / str(seed), publish(folder / str(seed), network))
        engine = open_engine(BF16, Network.of(manifest, folder / str(seed)), 1)
        try:
            check_against_certificate(engine, read_samples(folder / str(seed)), BOUND, 16)
        except EngineError as error:
            if "another class" not in str(error):
                raise
        else:
            return network
        finally:
            engine.close()
    raise AssertionError


def test_engines_in_bf16_serve_only_models_that_ask_for_it() -> None:
    reduced = {"openvino-bf16", "torch-cuda-bf16"}
    assert set(CATALOGUE) - set(allowed(CATALOGUE, "fp32")) == reduced
    assert allowed(CATALOGUE, "bf16") == tuple(CATALOGUE)
    assert allowed(("torch", BF16), "fp32") == ("torch",)


@pytest.mark.skipif(HERE, reason="this CPU has instructions for bf16")
def test_a_cpu_without_bf16_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no instructions for bf16"):
        open_engine(BF16, network_in(tmp_path, SmallNetwork().onnx_model(), (1, 28, 28)), 1)


@needs_bf16
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", NETWORKS)
def test_openvino_in_bf16_is_within_the_bound_of_bf16_and_no_nearer(kind: str, threads: int, tmp_path: Path) -> None:
    model = NETWORKS[kind]
    engine = open_engine(BF16, network_in(tmp_path, model.onnx_model(), model.row_shape), threads)
    pixels = model.pixels(33).astype(np.float32)
    expected = model.oracle(pixels)
    error = np.abs(engine.run(pixels) - expected).max()
    assert 1e-3 < error <= BF16_ERROR * np.abs(expected).max()
    engine.close()


@needs_bf16
async def test_a_model_that_only_bf16_could_serve_is_served_once_its_owner_allows_it(serving: Serving) -> None:
    network = network_that_keeps_its_classes(serving.folder / "candidates")
    await serving.start(engines=(BF16,), limits=Limits(max_batch=8))
    version = serving.version(1, network)
    serving.wish(version)
    repository = serving.plane.repository
    await until(lambda: repository.failures, "the version is refused")
    assert "openvino-bf16: computes in bf16, and the model's precision is fp32" in repository.failures["mnist", 1]
    wish(serving, version, "BF16")
    await serving.until_version(1)
    assert (await config_of(serving))["engine"].startswith("openvino-bf16 with ")
    pixels = network.pixels(8)
    expected = network.oracle(pixels)
    assert np.abs(await serving.infer(pixels) - expected).max() <= BF16_ERROR * np.abs(expected).max()


async def test_a_change_of_precision_chooses_anew_while_the_version_answers(serving: Serving) -> None:
    await serving.start(engines=("onnxruntime", BF16), limits=Limits(max_batch=2))
    version = serving.version(1, SmallNetwork(seed=1))
    serving.wish(version)
    await serving.until_version(1)
    served = serving.plane.repository.resolve("mnist", "1")

    async def trials(precision: Precision) -> list[dict[str, Any]]:
        def chosen() -> bool:
            return served.precision == precision and not served.timings.measuring

        await until(chosen, f"its engines are chosen for {precision}")
        told = await config_of(serving)
        assert told["precision"] == precision
        table: list[dict[str, Any]] = json.loads(told["engine_timings"])["trials"]
        return table

    assert {trial["engine"] for trial in await trials("fp32")} == {"onnxruntime"}
    wish(serving, version, "BF16")
    both = await trials("bf16")
    assert {(trial["engine"], trial["precision"]) for trial in both} == {("onnxruntime", "fp32"), (BF16, "bf16")}
    assert all(trial["passed"] or trial["reason"] for trial in both)
    wish(serving, version, "FP32")
    assert {trial["engine"] for trial in await trials("fp32")} == {"onnxruntime"}
    await serving.stub.ModelInfer(request_for(SmallNetwork(seed=1).pixels(1)))
    assert serving.plane.repository.resolve("mnist", "1") is served


def test_the_precision_survives_a_restart(tmp_path: Path) -> None:
    asked = models_pb2.Model(
        name="models/mnist",
        latest_version=1,
        serving_settings=serving_pb2.ServingSettings(precision=serving_pb2.ServingSettings.BF16),
    )
    (model,) = from_control(models_pb2.WatchServedModelsResponse(models=[models_pb2.ServedModel(model=asked)]))
    assert model.settings == ModelSettings(precision="bf16")
    version = Wanted(model="mnist", version=1, artifact_uri="a", manifest_sha256="b")
    model = WantedModel(name="mnist", latest=1, aliases={}, versions={1: version}, settings=model.settings)
    StateFile(tmp_path).write(State(serving=(model,), wanted=(model,)))
    assert StateFile(tmp_path).read() == State(serving=(model,), wanted=(model,))


def test_another_precision_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"precision is 'fp8'; expected one of \('fp32', 'bf16'\)"):
        ModelSettings(precision="fp8")  # type: ignore[arg-type]  # what a damaged file may hold
