"""layer_probe: a folded network that tells how its normalisation layers' outputs are distributed.

Normalisation makes a promise: on the training distribution a layer's output has mean beta and standard deviation
|gamma| in every channel. Folding takes the layer away and leaves the promise, so it can be checked on live data.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.folding.fold import FoldedModel, FoldEntry
from batchyard.nn.folding.tracing import free_name

LEAST_GAMMA = 1e-4
"""Channels with |gamma| up to this times |beta| are left out: what is left of z in fp32 would be rounding."""


@dataclass(frozen=True)
class ProbedLayer:
    """A layer that the probe measures."""

    name: str
    """Of its entry in the fold report."""
    channels: tuple[int, ...]
    """Measured channels, in the order of the probe's output."""


@dataclass(frozen=True)
class LayerProbe:
    """The probe of a folded network."""

    module: fx.GraphModule | None
    """The network's inputs -> [batch, 2, channels of all layers]: of each row the mean over space of z and of z^2, with
    z = (y - beta) / |gamma| of the layer's output y. None when there is nothing to measure."""
    layers: tuple[ProbedLayer, ...]
    """In the order of the output."""
    left_out: dict[str, str]
    """Layer -> why it cannot be measured."""


class _Moments(nn.Module):
    """Rows' mean over space of z = scale * x + shift and of z^2, of some channels: x [N, C, ...] -> [N, 2, c]."""

    def __init__(self, scale: Tensor, shift: Tensor, channels: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.all_channels = channels.numel() == scale.numel()
        self.register_buffer("scale", scale[channels].to(dtype))
        self.register_buffer("shift", shift[channels].to(dtype))
        self.register_buffer("channels", channels)

    def forward(self, x: Tensor) -> Tensor:
        if not self.all_channels:
            x = x.index_select(1, cast(Tensor, self.channels))
        shape = [1, -1, *[1] * (x.dim() - 2)]
        z = x * cast(Tensor, self.scale).view(shape) + cast(Tensor, self.shift).view(shape)
        if z.dim() == 2:
            return torch.stack((z, z * z), 1)
        z = z.flatten(2)
        return torch.stack((z.mean(2), (z * z).mean(2)), 1)


@torch.no_grad()
def layer_probe(folded: FoldedModel, model: nn.Module) -> LayerProbe:
    """The probe of `folded`, which `fold` returned for `model`, unchanged since.

    A layer that went into what comes before it, or stayed as an affine node, is measured at its output. One that went
    into what reads it has no output any more: its map is applied to its input. A layer is left out, with the reason,
    where neither is left, where it normalises by its own batch, or where gamma is near 0 in every channel.
    """
    module = copy.deepcopy(folded.module)
    nodes = {folded.equals[n.name]: n for n in module.graph.nodes if n.name in folded.equals}
    (output,) = (n for n in module.graph.nodes if n.op == "output")
    layers, calls, left_out = [], [], {}
    for entry in folded.report:
        try:
            node, scale, shift = _place(entry, nodes, model)
            channels = _measurable(scale, shift, entry)
        except _LeftOut as reason:
            left_out[entry.name] = str(reason)
            continue
        target = free_name(module, f"probe_{entry.output}")
        module.add_submodule(target, _Moments(scale, shift, channels, _dtype(model)))
        with module.graph.inserting_before(output):
            calls.append(module.graph.call_module(target, (node,)))
        layers.append(ProbedLayer(entry.name, tuple(channels.tolist())))
    return LayerProbe(_finished(module, output, calls) if calls else None, tuple(layers), left_out)


class _LeftOut(Exception):  # noqa: N818  no error: the layer is reported
    """Why a layer cannot be measured."""


def _place(entry: FoldEntry, nodes: dict[str, fx.Node], model: nn.Module) -> tuple[fx.Node, Tensor, Tensor]:
    """Where to measure, and the map from there to z: fp64 scale and shift [C]."""
    if entry.status == "refused":
        raise _LeftOut(f"it was left as it is: {entry.reason}")
    layer = dict(model.named_modules()).get(entry.name.partition("#")[0])
    statistics = (layer.running_mean, layer.running_var) if isinstance(layer, _BatchNorm) else (None, None)
    known = [t for t in (entry.gamma, entry.beta, *statistics) if t is not None]
    if not known:
        raise _LeftOut("it has no gamma, no beta and no statistics of its own")
    gamma = torch.ones_like(known[0]) if entry.gamma is None else entry.gamma
    beta = torch.zeros_like(known[0]) if entry.beta is None else entry.beta
    if entry.output in nodes:
        inverse = 1 / gamma.double().abs().clamp_min(torch.finfo(torch.float64).tiny)
        return nodes[entry.output], inverse, -beta.double() * inverse
    mean, var = statistics
    if entry.source in nodes and isinstance(layer, _BatchNorm) and mean is not None and var is not None:
        inverse = gamma.double().sign() * (var.double() + layer.eps).rsqrt()
        return nodes[entry.source], inverse, -mean.double() * inverse
    raise _LeftOut("neither its output nor its input is left in the folded network")


def _measurable(scale: Tensor, shift: Tensor, entry: FoldEntry) -> Tensor:
    """The numbers of the channels whose gamma is far enough from 0."""
    gamma = torch.ones_like(scale) if entry.gamma is None else entry.gamma.double().abs()
    beta = torch.zeros_like(shift) if entry.beta is None else entry.beta.double().abs()
    fit = (gamma > LEAST_GAMMA * beta) & (gamma > torch.finfo(torch.float32).tiny) & scale.isfinite() & shift.isfinite()
    channels = fit.nonzero().flatten()
    if not channels.numel():
        raise _LeftOut("its gamma is near 0 in every channel: its output does not depend on its input")
    return channels


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _finished(module: fx.GraphModule, output: fx.Node, calls: list[fx.Node]) -> fx.GraphModule:
    """Makes the calls' results, side by side, the only output, and takes out what nothing reads any more."""
    with module.graph.inserting_before(output):
        moments = calls[0] if len(calls) == 1 else module.graph.call_function(torch.cat, (calls, 2))
    output.args = (moments,)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module.eval()
