"""How large the biases right before normalisation are: what the naive normalisation of section 2 shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batchyard import models
from batchyard.models import Plan
from batchyard.training import worker
from batchyard.training.context import WorkerContext
from batchyard.training.events import Event, LayerStatistics
from batchyard.training.watch import biases_before

Job = Callable[..., dict[str, Any]]
Context = Callable[..., tuple[WorkerContext, list[Event]]]


def norms(a_job: Job, a_context: Context, norm: str) -> list[dict[str, float | None]]:
    """By layer, at each point of a short job."""
    context, events = a_context(a_job(model__norm=norm))
    worker.run(context)
    points = [event for event in events if isinstance(event, LayerStatistics)]
    return [{layer.name: layer.bias_norm for layer in point.layers} for point in points]


def test_a_bias_before_detached_normalisation_grows(a_job: Job, a_context: Context) -> None:
    first, *_, last = norms(a_job, a_context, "detached")
    for name in ("norm1", "norm2"):
        before, after = first[name], last[name]
        assert before is not None
        assert after is not None
        assert 0 < before < after


def test_a_network_whose_normalisation_cancels_biases_has_none(a_job: Job, a_context: Context) -> None:
    assert norms(a_job, a_context, "batch")[-1] == {"norm1": None, "norm2": None}


@pytest.mark.parametrize(("architecture", "layer"), [("mlp", "norm3"), ("lenet", "norm1")])
def test_biases_are_found_right_before_a_layer(architecture: str, layer: str) -> None:
    network = models.build(architecture, Plan(image_shape=(1, 8, 8), classes=10, norm="detached"), seed=0)
    found = biases_before(network)
    names = [name for name, _ in network.named_children()]
    assert found[layer] is network.get_parameter(f"{names[names.index(layer) - 1]}.bias")
    assert "logits" not in found


def test_blocks_within_blocks_have_their_full_names() -> None:
    network = models.build("resnet18", Plan(image_shape=(1, 8, 8), classes=10, norm="detached", width=1 / 16), seed=0)
    assert biases_before(network)["block1_1.body.norm1"] is network.get_parameter("block1_1.body.conv1.bias")
