"""Arithmetic with constants, x * 2 or x - mean, read as the affine map per channel that it is."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor, fx

from batchyard.nn.folding.algebra import Affine
from batchyard.nn.folding.tracing import constant, shape_of

_KINDS: dict[object, str] = {
    operator.mul: "mul", torch.mul: "mul", "mul": "mul",
    operator.truediv: "div", torch.div: "div", "div": "div",
    operator.add: "add", torch.add: "add", "add": "add",
    operator.sub: "sub", torch.sub: "sub", "sub": "sub",
}  # fmt: skip
_RESHAPES = ("view", "reshape", "unsqueeze")


def constant_affine(graph: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, Affine] | None:
    """The one value that `node` depends on and the map from it to `node`, where that is arithmetic with a constant."""
    kind = _KINDS.get(node.target) if node.op in ("call_function", "call_method") else None
    shape = shape_of(node)
    if kind is None or shape is None or len(shape) < 2 or len(node.args) != 2 or node.kwargs:
        return None
    values = [_per_channel(graph, arg, shape) for arg in node.args]
    place = 0 if values[0] is None else 1
    source, number = node.args[place], values[1 - place]
    if number is None or not isinstance(source, fx.Node) or shape_of(source) != shape:
        return None
    affine = _map(kind, number, constant_first=place == 1)
    return None if affine is None or not bool(torch.isfinite(affine.scale).all()) else (source, affine)


def _map(kind: str, number: Tensor, constant_first: bool) -> Affine | None:
    one, none = torch.ones_like(number), torch.zeros_like(number)
    if kind == "mul":
        return Affine(number, none)
    if kind == "add":
        return Affine(one, number)
    if kind == "sub":
        return Affine(-one, number) if constant_first else Affine(one, -number)
    return None if constant_first else Affine(1 / number, none)


def _per_channel(graph: fx.GraphModule, value: object, shape: tuple[int, ...]) -> Tensor | None:
    """A constant as one number for each channel of a value of `shape`, fp64 [C]; None for anything else."""
    if isinstance(value, int | float):
        return torch.full((shape[1],), float(value), dtype=torch.float64)
    tensor = _tensor(graph, value)
    channels = (1, shape[1], *[1] * (len(shape) - 2))
    if tensor is None or not tensor.is_floating_point() or tensor.dim() > len(shape):
        return None
    try:
        return tensor.detach().double().broadcast_to(channels).flatten()
    except RuntimeError:  # it differs from place to place
        return None


def _tensor(graph: fx.GraphModule, value: object) -> Tensor | None:
    """A parameter or buffer, reshaped or not."""
    if isinstance(value, fx.Node) and value.op == "call_method" and value.target in _RESHAPES:
        inner = _tensor(graph, value.args[0])
        fixed = all(isinstance(a, int | tuple | list) for a in value.args[1:])
        method: Callable[..., Tensor] | None = getattr(inner, str(value.target), None)
        return method(*value.args[1:]) if fixed and method is not None else None
    return constant(graph, value)
