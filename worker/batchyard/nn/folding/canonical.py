"""Brings a graph into the one form that folding reads: layers and affine maps are modules, whatever the code called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.comparisons import BatchRenorm, DetachedBatchNorm, StandardizeDetached, StandardizePost
from batchyard.nn.folding.algebra import CONVOLUTIONS, TRANSPOSED, Affine, ChannelAffine, batch_norm_affine
from batchyard.nn.folding.tracing import constant, free_name, module_of, name_of, untrusted
from batchyard.nn.input_normalization import InputNormalization
from batchyard.nn.sync_batchnorm import SyncBatchNorm

TORCHS_OWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
EVALUATE_LIKE_BATCH_NORM = (
    *TORCHS_OWN, SyncBatchNorm, DetachedBatchNorm, StandardizeDetached, StandardizePost, BatchRenorm,
)  # fmt: skip
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_LAYERS: dict[object, tuple[type[nn.Module], tuple[str, ...]]] = {
    F.linear: (nn.Linear, ("input", "weight", "bias")),
    **{f: (kind, _CONVOLUTION) for f, kind in zip((F.conv1d, F.conv2d, F.conv3d), CONVOLUTIONS, strict=True)},
    **{
        f: (kind, _TRANSPOSED)
        for f, kind in zip((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), TRANSPOSED, strict=True)
    },
}


@dataclass
class Found:
    """A normalisation found in the graph. `node` calls a ChannelAffine, unless `refusal` says why it does not."""

    name: str
    node: fx.Node | None
    """None once the map has moved away."""
    batch_norm: bool
    refusal: str = ""
    gamma: Tensor | None = None
    beta: Tensor | None = None
    is_affine_node: bool = False


def canonicalize(graph: fx.GraphModule) -> list[Found]:
    """Rewrites functional layers and normalisations into modules; returns the normalisations in graph order."""
    found: list[Found] = []
    for node in list(graph.graph.nodes):
        node.meta["equals"] = node.name
        if node.op == "call_function" and node.target in _LAYERS:
            _functional_layer(graph, node)
        elif node.op == "call_function" and node.target in (F.batch_norm, torch.batch_norm):
            found.append(_functional_batch_norm(graph, node))
        else:
            module = module_of(graph, node)
            if isinstance(module, _BatchNorm | InputNormalization):
                found.append(_normalization(graph, node, module))
    graph.graph.lint()
    return found


def _functional_layer(graph: fx.GraphModule, node: fx.Node) -> None:
    kind, names = _LAYERS[node.target]
    given = _bind(node, names)
    weight, bias = constant(graph, given["weight"]), constant(graph, given.get("bias"))
    settings = {k: v for k, v in given.items() if k not in ("input", "weight", "bias")}
    computed = weight is None or (given.get("bias") is not None and bias is None)
    if computed or any(isinstance(v, fx.Node) for v in _flat(settings.values())):
        return  # its weight is a result of other nodes: not a layer, and nothing folds into it
    module = _layer(kind, cast(Tensor, weight), bias, settings)
    _call(graph, node, module, cast(fx.Node, given["input"]), f"{name_of(node).replace('.', '_')}_layer")


def _layer(kind: type[nn.Module], weight: Tensor, bias: Tensor | None, settings: Mapping[str, Any]) -> nn.Module:
    if kind is nn.Linear:
        module: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    else:
        groups = int(settings.get("groups", 1))
        first, second = weight.shape[0], weight.shape[1] * groups
        inputs, outputs = (first, second) if kind in TRANSPOSED else (second, first)
        module = cast(Any, kind)(inputs, outputs, tuple(weight.shape[2:]), device="meta", **settings)
    module.weight = nn.Parameter(weight.detach().clone())
    module.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone()))
    return module


def _functional_batch_norm(graph: fx.GraphModule, node: fx.Node) -> Found:
    given = {"training": False, "eps": 1e-5, **_bind(node, _BATCH_NORM)}
    tensors = {k: constant(graph, given.get(k)) for k in ("running_mean", "running_var", "weight", "bias")}
    owner = str(getattr(given.get("running_mean"), "target", "")).rpartition(".")[0]
    found = Found(owner or name_of(node), node, True, gamma=tensors["weight"], beta=tensors["bias"])
    mean, var, eps = tensors["running_mean"], tensors["running_var"], given["eps"]
    if given["training"] is not False or mean is None or var is None:
        found.refusal = "it normalises by the statistics of its own batch, not by fixed ones"
    elif any(given.get(k) is not None and tensors[k] is None for k in ("weight", "bias")) or isinstance(eps, fx.Node):
        found.refusal = "its gamma, beta or eps are computed in the graph"
    else:
        affine = batch_norm_affine(mean, var, found.gamma, found.beta, eps)
        _replace(graph, found, affine, cast(fx.Node, given["input"]))
    return found


def _normalization(graph: fx.GraphModule, node: fx.Node, module: nn.Module) -> Found:
    found = Found(name_of(node), node, isinstance(module, _BatchNorm))
    source = cast(fx.Node, node.args[0] if node.args else node.kwargs["input" if found.batch_norm else "x"])
    if reason := untrusted(module):
        found.refusal = f"{found.name} {reason}"
    elif isinstance(module, InputNormalization):
        affine = Affine(*module.affine())
        _replace(graph, found, affine, _as_float(graph, node, source))
    elif type(module) not in EVALUATE_LIKE_BATCH_NORM:
        found.refusal = f"{type(module).__name__} may compute something else than batch normalisation"
    elif not isinstance(module, _BatchNorm) or module.running_mean is None or module.running_var is None:
        found.refusal = "it normalises by the statistics of its own batch, not by fixed ones"
    else:
        found.gamma, found.beta = module.weight, module.bias
        affine = batch_norm_affine(module.running_mean, module.running_var, found.gamma, found.beta, module.eps)
        _replace(graph, found, affine, source)
    return found


def _as_float(graph: fx.GraphModule, node: fx.Node, source: fx.Node) -> fx.Node:
    """InputNormalization takes whole numbers too: where it was measured to, they still become floats."""
    value = source.meta.get("value")
    if not isinstance(value, Tensor) or value.is_floating_point():
        return source
    with graph.graph.inserting_before(node):
        floats = graph.graph.call_method("to", (source, torch.float64))
    floats.meta = {"value": value, "cast": True}
    return floats


def _replace(graph: fx.GraphModule, found: Found, affine: Affine, source: fx.Node) -> None:
    if not bool(torch.isfinite(affine.scale).all() and torch.isfinite(affine.shift).all()):
        found.refusal = "its statistics or parameters are not finite"
        return
    found.is_affine_node = True
    found.node = _call(
        graph, cast(fx.Node, found.node), ChannelAffine(Affine(*(t.detach() for t in affine))), source, found.name
    )


def _call(graph: fx.GraphModule, node: fx.Node, module: nn.Module, source: fx.Node, wish: str) -> fx.Node:
    """Puts a call of `module` on `source` in the place of `node`."""
    target = free_name(graph, f"{wish}_affine" if isinstance(module, ChannelAffine) else wish)
    graph.add_submodule(target, module)
    with graph.graph.inserting_before(node):
        call = graph.graph.call_module(target, (source,))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.graph.erase_node(node)
    return call


def _bind(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _flat(values: Any) -> list[Any]:
    return [part for v in values for part in (v if isinstance(v, list | tuple) else (v,))]
