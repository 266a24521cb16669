"""The paper's six networks as one model (section 4.2.3): one request, one batch, one reply, the mean of six softmax.

The ensemble is made by the task that makes every ensemble, and served. Its members are artifacts without a served
graph: nobody reads that here, and to export six would take most of the time.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from batchyard.artifact import writer
from batchyard.artifact.manifest import SAMPLES, WEIGHTS
from batchyard.nn import InputNormalization
from batchyard.oip import messages
from batchyard.training import ensembling
from batchyard.training.network import build, model_spec, state_of
from batchyard.v1 import models_pb2
from bench.small_artifact import SmallNetwork, manifest_of
from tests.serving.harness import Serving, logits_of, request_for

SIX = 6
SHAPE = (1, 4, 4)
PIXELS = np.random.default_rng(7).integers(0, 256, (60, *SHAPE), np.uint8)
"""60 rows: the paper's batch."""
MODEL: dict[str, Any] = {"architecture": "mlp", "hidden": [12, 8], "activation": "relu", "norm": "batch"}


def member(seed: int) -> nn.Sequential:
    """A network with statistics and scales of its own."""
    torch.manual_seed(seed)
    network = build(model_spec(MODEL), SHAPE, 10, InputNormalization([0.5], [0.25], 255.0))
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    state = network.state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.normal_()
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
    return network.eval()


def written(folder: Path, name: str, network: nn.Sequential) -> str:
    """The manifest's digest of the member's artifact in `folder`."""
    inputs = np.random.default_rng(len(name)).integers(0, 256, (32, *SHAPE)).astype(np.float32)
    samples: dict[str, NDArray[Any]] = {"inputs": inputs, "outputs": answers(network, inputs)}
    files = {WEIGHTS: safetensors.torch.save(state_of(network)), SAMPLES: safetensors.numpy.save(samples)}
    manifest = manifest_of(SmallNetwork(row_shape=SHAPE, hidden=(12, 8)), name)
    spec = {"model": MODEL, "input": {"scale": 255.0}}
    return writer.write(str(folder), dataclasses.replace(manifest, spec=spec), files)


@torch.no_grad()
def answers(network: nn.Sequential, pixels: NDArray[Any]) -> NDArray[np.float64]:
    """The unfolded network's logits in double precision."""
    return np.asarray(copy.deepcopy(network).double()(torch.from_numpy(pixels).double()).numpy())


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> models_pb2.ServedModel:
    """What the control plane would tell of the ensemble."""
    folder = tmp_path_factory.mktemp("six")
    digests = [written(folder / f"member{seed}", f"net{seed}", member(seed)) for seed in range(SIX)]
    members = [{"name": f"models/net{n}/versions/1", "manifest_sha256": digest} for n, digest in enumerate(digests)]
    order = {"model": "six", "members": members, "artifact_uri": str(folder / "six")}
    made = ensembling.work(order, folder)["manifest_sha256"]
    version = models_pb2.ModelVersion(
        name="models/six/versions/1", artifact_uri=str(folder / "six"), manifest_sha256=made
    )
    return models_pb2.ServedModel(model=models_pb2.Model(name="models/six", latest_version=1), versions=[version])


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


async def test_six_networks_answer_one_request_in_one_batch_with_the_mean_of_their_softmax(
    serving: Serving, six: models_pb2.ServedModel
) -> None:
    await serving.start()
    serving.control.tell(six)
    await serving.until_version(1, "six")
    response = await serving.stub.ModelInfer(request_for(PIXELS, "six"))
    each = [softmax(answers(member(seed), PIXELS)) for seed in range(SIX)]
    assert np.ptp(each, axis=0).max() > 0.5  # six networks, not one
    np.testing.assert_allclose(softmax(logits_of(response)), np.mean(each, axis=0), atol=1e-5)

    counted = await serving.stub.ModelStatistics(messages.ModelStatisticsRequest(name="six"))
    (statistics,) = counted.model_stats
    assert (statistics.inference_stats.success.count, statistics.execution_count) == (1, 1)
    assert [batch.batch_size for batch in statistics.batch_stats] == [len(PIXELS)]
