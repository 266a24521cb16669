"""The whole network, raw pixels to logits, from what a manifest or an import says of it; and back from an artifact."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from batchyard import models
from batchyard.artifact.manifest import WEIGHTS, Manifest
from batchyard.models import Plan
from batchyard.nn import InputNormalization
from batchyard.training import onnx_network
from batchyard.training.ensemble import Ensemble
from batchyard.training.spec import ModelSpec

SCALE = 255.0
"""The value of a full pixel, where nothing else is said."""
ONNX, ENSEMBLE = "onnx", "ensemble"
"""Architectures of manifests that no job can have: the file beside the weights has the graph; several networks."""


def rebuild(folder: Path, manifest: Manifest) -> nn.Module:
    """The unfolded network of a verified local artifact, on the CPU, in evaluation mode, with its statistics."""
    state = load_file(folder / WEIGHTS)
    shape = manifest.inputs[0].shape[1:]
    network = _structure(manifest.spec, state, shape, len(manifest.classes), folder)
    network.load_state_dict(state)
    return network.eval()


def _structure(
    spec: Mapping[str, Any], state: Mapping[str, Tensor], shape: tuple[int, ...], classes: int, folder: Path
) -> nn.Module:
    """The network that `state` belongs to; its own weights do not matter."""
    model = spec["model"]
    if model["architecture"] == ONNX:
        return onnx_network.read((folder / model["file"]).read_bytes()).module
    if model["architecture"] == ENSEMBLE:
        members = enumerate(model["members"])
        parts = [_structure(part, _below(state, f"members.{i}."), shape, classes, folder) for i, part in members]
        return Ensemble(parts)
    mean, std = state.get("input.mean"), state.get("input.std")
    scale = spec.get("input", {}).get("scale", SCALE)
    first = None if mean is None or std is None else InputNormalization(mean.tolist(), std.tolist(), scale)
    return build(model_spec(model), shape, classes, first)


def build(model: ModelSpec, shape: tuple[int, ...], classes: int, first: InputNormalization | None) -> nn.Sequential:
    """An architecture for samples of `shape` (channels, height, width) behind its input normalisation, if it has one.

    Raises ModelError where the shape does not suit the architecture.
    """
    known = {field.name for field in dataclasses.fields(Plan)} & set(vars(model))
    height_and_width = {"image_shape": shape, "classes": classes}
    plan = Plan(**height_and_width, **{name: getattr(model, name) for name in known})  # type: ignore[arg-type]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if first is not None:
        layers["input"] = first
    layers.update(models.build(model.architecture, plan, seed=0).named_children())
    return nn.Sequential(layers)


def model_spec(mapping: Mapping[str, Any]) -> ModelSpec:
    """A job's `model:` section. Raises SpecError."""
    values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in mapping.items()}
    return ModelSpec(**values)


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """The network's state; copies, because parameters may share memory."""
    return {name: value.detach().clone().contiguous() for name, value in network.state_dict().items()}


@torch.no_grad()
def run_in_parts(network: nn.Module, samples: Tensor, size: int = 256) -> Tensor:
    """The network's outputs for `samples` [n, ...], a bounded number of them at a time."""
    return torch.cat([network(part) for part in torch.split(samples, size)])


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
