"""Sibling layers at equal depth share one collective: batch normalisation in branches side by side, as of Inception.

A collective of a few kilobytes costs the workers' turns, not its bytes: four layers' moments travel in the time of
one's. BN-Inception makes 33 instead of 69 in each direction.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from batchyard.nn.collectives import world_size
from batchyard.nn.sync_batchnorm import SyncBatchNorm
from batchyard.nn.synced import synced_batch_norms


def normalize_together(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """[layer(x) for layer, x in zip(layers, inputs)], where SyncBatchNorm layers share their collectives.

    One forward and one backward for all that are in training and have the same process group; hooks, running
    statistics and gradients are those of separate calls. Other modules, and layers with ghost batches, pre-hooks or one
    worker, are just called, as all are in a compiled network. Every worker of the group must call it with the same
    layers. Raises ValueError for inputs of another shape than the layers', or another number.
    """
    ys: dict[int, Tensor] = {}
    if len(layers) != len(inputs):
        raise ValueError(f"got {len(layers)} layers and {len(inputs)} inputs; expected one input for each layer")
    for (group, _), members in _by_group(layers, inputs).items():
        outcomes = synced_batch_norms([layer.branch(inputs[i]) for i, layer in members.items()], group)
        for (i, layer), outcome in zip(members.items(), outcomes, strict=True):
            ys[i] = layer(inputs[i], outcome=outcome)
    return [ys[i] if i in ys else layer(x) for i, (layer, x) in enumerate(zip(layers, inputs, strict=True))]


def run_together(branches: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """[branch(x) for branch in branches], where the k-th batch normalisations of all branches share their collectives.

    Branches are nn.Sequential, nested or not; in any other module layers are normalised by themselves. What draws
    random numbers, such as dropout, draws them in the order of depth.
    """
    branches = list(branches)
    if world_size(None) == 1 or not any(_shares(layer) for branch in branches for layer in branch.modules()):
        return [branch(x) for branch in branches]
    runs = [_stages(branch, x) for branch in branches]
    results: list[Tensor] = [x] * len(runs)
    answers: dict[int, Any] = dict.fromkeys(range(len(runs)))  # None begins a run
    while answers:
        asked: dict[int, tuple[nn.Module, Tensor]] = {}
        for i, y in answers.items():
            try:
                asked[i] = runs[i].send(y)
            except StopIteration as end:
                results[i] = end.value
        layers, inputs = [layer for layer, _ in asked.values()], [given for _, given in asked.values()]
        answers = dict(zip(asked, normalize_together(layers, inputs), strict=True))
    return results


def _stages(module: nn.Module, x: Tensor) -> Generator[tuple[nn.Module, Tensor], Tensor, Tensor]:
    """Runs `module` on x, but for its normalisations: yields each with its input, and is sent the output."""
    if isinstance(module, SyncBatchNorm):
        return (yield module, x)
    if type(module) is not nn.Sequential or module._forward_hooks or module._forward_pre_hooks:
        result: Tensor = module(x)
        return result
    for layer in module:
        x = yield from _stages(layer, x)
    return x


def _shares(layer: nn.Module) -> bool:
    """Whether `layer` would make a collective that others may join."""
    return (
        isinstance(layer, SyncBatchNorm)
        and layer.training
        and layer.ghost_size is None
        and type(layer)._in_training is SyncBatchNorm._in_training
        and not layer._forward_pre_hooks  # they may change the input
        and world_size(layer.process_group) > 1
        and not torch.compiler.is_compiling()
    )


Place = tuple[dist.ProcessGroup | None, torch.device]


def _by_group(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> dict[Place, dict[int, SyncBatchNorm]]:
    """The layers that share, by process group and device, and then by their number."""
    groups: dict[Place, dict[int, SyncBatchNorm]] = {}
    for i, layer in enumerate(layers):
        if isinstance(layer, SyncBatchNorm) and _shares(layer):
            groups.setdefault((layer.process_group, inputs[i].device), {})[i] = layer
    return groups
