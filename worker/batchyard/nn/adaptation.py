"""Adaptation: population statistics moved towards those of unlabelled inputs (Schneider et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.moments import pack, unpack


@torch.no_grad()
def adapt_statistics(model: nn.Module, inputs: Tensor, prior: float) -> tuple[str, ...]:
    """Moves the running statistics of every BN towards those of `inputs`; returns the names of the layers moved.

    With n inputs, running_mean <- (prior * running_mean + n * mean) / (prior + n), and the same with the variance:
    the rule of Schneider et al. 2020, "Improving robustness against common corruptions by covariate shift
    adaptation" (arXiv 2006.16971). Each layer's new statistics are of what it reads once the layers before it have
    theirs, in one forward pass of all inputs. The model runs in evaluation mode, and is in its own mode afterwards.

    Args:
        model: any network with nn.BatchNorm or SyncBatchNorm layers that track running statistics.
        inputs: n inputs, n at least 2, all in one batch.
        prior: how many inputs the present statistics count as; 0 forgets them.

    Raises ValueError, and leaves the statistics as they were, for fewer than two inputs, a prior below 0, statistics
    that are not finite, a layer that is called twice, or a model in which no layer is called.
    """
    if len(inputs) < 2 or not 0 <= prior < torch.inf:
        raise ValueError(f"{len(inputs)} inputs and a prior of {prior:g} given; expected 2 or more, and 0 or more")
    layers = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    before = {layer: {name: b.clone() for name, b in layer.named_buffers()} for layer in layers.values()}
    modes = [(module, module.training) for module in model.modules()]
    moved: list[str] = []
    own = prior / (prior + len(inputs))
    handles = [layer.register_forward_pre_hook(_mover(name, own, moved)) for name, layer in layers.items()]
    try:
        model.eval()(inputs)
        if not moved:
            raise ValueError("the model calls no batch normalisation that has running statistics")
    except BaseException:
        for layer, buffers in before.items():
            for name, value in buffers.items():
                getattr(layer, name).copy_(value)
        raise
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return tuple(moved)


def _mover(name: str, own: float, moved: list[str]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Called before the layer runs: the statistics that it then normalises with are the new ones."""

    def move(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        if name in moved:
            raise ValueError(f"layer {name!r} is called twice: its inputs there have no statistics in common")
        moments = unpack(pack(arguments[0]))
        for buffer, new in (("running_mean", moments.mean), ("running_var", moments.unbiased_var)):
            statistic: Tensor = getattr(layer, buffer)
            if not bool(torch.isfinite(new).all()):
                raise ValueError(f"statistics of layer {name!r} are not finite; look for NaN or infinity in the inputs")
            statistic.copy_(own * statistic.double() + (1 - own) * new)
        moved.append(name)

    return move
