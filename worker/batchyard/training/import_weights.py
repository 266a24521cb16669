"""A torch state_dict and the architecture that it belongs to, as a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from batchyard.models import ModelError
from batchyard.nn import InputNormalization
from batchyard.training.imported import Imported
from batchyard.training.network import SCALE, build, model_spec
from batchyard.training.spec import SpecError, Violation
from batchyard.training.task import violation

NAMES_SHOWN = 5


def from_weights(path: Path, given: Mapping[str, Any]) -> Imported:
    """The network of architecture, input and classes `given` (NetworkSpec of the API as a mapping) with the weights in
    the safetensors file at `path`. Raises SpecError.
    """
    feed = given.get("input", {})
    shape, classes = tuple(feed.get("shape", ())), tuple(given.get("classes", ()))
    problems = []
    if len(shape) != 3 or min(shape) < 1:
        problems.append(Violation("network.input.shape", f"{list(shape)} given; expected channels, height, width"))
    if not classes or len(set(classes)) < len(classes):
        problems.append(Violation("network.classes", f"{list(classes)} given; expected the name of each class, once"))
    try:
        model = model_spec(given.get("model", {"architecture": ""}))
    except SpecError as error:
        problems += [Violation(f"network.model.{v.field}", v.description) for v in error.violations]
    if problems:
        raise SpecError(problems)
    state = _read_state(path)
    first = _input_normalization(feed, state, shape[0])
    try:
        network = build(model, shape, len(classes), first)
    except ModelError as error:
        raise violation("network.model", str(error)) from error
    if first is not None:
        state.update({f"input.{name}": value for name, value in first.state_dict().items()})
    _load(network, state)
    scale = None if first is None else first.scale
    spec = {"model": dict(given["model"]), "input": {"scale": scale}} if scale else {"model": dict(given["model"])}
    return Imported(network=network.eval(), shape=shape, classes=classes, spec=spec, scale=scale)


def _read_state(path: Path) -> dict[str, Tensor]:
    """The state_dict as FP32, without the prefix that DistributedDataParallel puts before every name."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise violation("weights", f"not a safetensors file: {error}; save one with safetensors.torch") from error
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise violation("weights", f"{name} holds numbers that are not finite")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise violation("weights", f"{name} holds negative variances")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _input_normalization(
    feed: Mapping[str, Any], state: Mapping[str, Tensor], channels: int
) -> InputNormalization | None:
    """What the description says, or else what the state holds; None where neither does. Raises SpecError."""
    mean, std = list(feed.get("mean", ())), list(feed.get("std", ()))
    if not mean and not std and {"input.mean", "input.std"} <= set(state):
        mean, std = state["input.mean"].tolist(), state["input.std"].tolist()
    if not mean and not std:
        return None
    if len(mean) != channels or len(std) != channels:
        text = f"{len(mean)} means and {len(std)} standard deviations given; expected {channels} each, one per channel"
        raise violation("network.input.mean", text)
    try:
        return InputNormalization(mean, std, feed.get("scale", SCALE))
    except ValueError as error:
        raise violation("network.input.std", str(error)) from error


def _load(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Puts the weights in. Raises SpecError that names what is missing, what is too much, and other shapes."""
    wanted = dict(network.state_dict())
    missing = [n for n in wanted if n not in state and not n.endswith("num_batches_tracked")]
    unknown = [n for n in state if n not in wanted]
    other = [
        f"{name} is {list(state[name].shape)}, expected {list(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    found = (("missing", missing), ("not of this architecture", unknown), ("of another shape", other))
    faults = [f"{words}: {_few(names)}" for words, names in found if names]
    if faults:
        raise violation("weights", f"they do not fit network.model; {'; '.join(faults)}")
    network.load_state_dict(dict(state), strict=False)


def _few(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
